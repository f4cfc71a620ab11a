"""Numbers in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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


def percent(estimate: Mapping[str, Any]) -> str:
    """A proportion of result.json in percent, with its interval."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.0%}" if low is None or high is None else f"{value:.0%} [{low:.0%}, {high:.0%}]"
