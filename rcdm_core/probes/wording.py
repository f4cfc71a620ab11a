"""Numbers in sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rcdm_core.metrics.paired import MIN_PAIRS, SURE
from rcdm_core.probes.verdicts import listed

LEAST = 0.05  # a smaller difference, on a scale where 1 is all, can be beyond chance and still be nothing


def said(estimate: Mapping[str, Any], digits: int = 2) -> str:
    """An estimate of result.json with its interval, such as 0.31 [0.28, 0.35]; a dash where there is none."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    if low is None or high is None:
        return _text(value, digits)
    return f"{_text(value, digits)} [{_text(low, digits)}, {_text(high, digits)}]"


def _text(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text if float(text) else text.lstrip("-")


def many(count: int, what: str) -> str:
    """1 picture, 2 pictures. what: one of them."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def percent(estimate: Mapping[str, Any], digits: int = 0) -> str:
    """A proportion of result.json in percent, with its interval."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    text = f"{value:.{digits}%}"
    return text if low is None or high is None else f"{text} [{low:.{digits}%}, {high:.{digits}%}]"


def doubt(estimate: Mapping[str, Any], chance: float) -> str:
    """What has to be said after a number of result.json whose interval holds what chance gives; otherwise nothing."""
    low, high = estimate["low"], estimate["high"]
    if low is None or high is None or not low <= chance <= high:
        return ""
    return ", not told from chance"


def differing(
    compared: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], str], *, most: int, by: str = ""
) -> list[str]:
    """How many differences between models are beyond chance, and which: a sentence, or none where there are none.

    compared: as in result.json. of(difference) -> what it is of. most: that are told, the largest of those of LEAST
    or more. by: what found them.
    """
    if not compared:
        return []
    tested = [one for one in compared if one["p_holm"] is not None]
    if not tested:
        return [f"Whether the models differ beyond chance is not tested{by}: that takes {MIN_PAIRS} pictures."]
    beyond = [one for one in tested if one["p_holm"] < SURE and one["difference"]["value"] is not None]
    text = f"Between the models {len(beyond)} of {len(tested)} differences are beyond chance{by}"
    large = [one for one in beyond if abs(one["difference"]["value"]) >= LEAST]
    if small := len(beyond) - len(large):
        text += f" ({small} of these smaller than {LEAST:g})"
    if not large:
        return [f"{text}."]
    large.sort(key=lambda one: -abs(one["difference"]["value"]))
    told = [f"{of(one)} ({one['first']} less {one['second']}: {said(one['difference'])})" for one in large[:most]]
    return [f"{text}{', the largest in' if len(large) > most else ':'} {listed(told)}."]
