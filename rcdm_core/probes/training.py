"""Figures 34 and 35: how does a representation change while its encoder is trained?

One encoder at several checkpoints, each with an RCDM of its own (`rcdm train --weights a --weights b`), in order: the
same pictures' samples from the same noise, a row for each checkpoint, and both retentions of every attribute against
the checkpoint, with paired tests from each to the next and from the first to the last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.paired import SURE
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.retention import PROBE as RETENTION
from rcdm_core.probes.retention import compare, measured
from rcdm_core.probes.wording import LEAST, said
from rcdm_core.provider import Option

MEASURES = {"rendered": "rendered", "decodable": "decodable"}


def run(context: Context) -> Result:
    """Samples and both retentions of every checkpoint, in the order of the models, and what moves beyond chance.

    Raises RCDMError for fewer than two models, models that are no checkpoints of one encoder, places that do not fit,
    and as the probe retention.
    """
    from rcdm_core.report.training import draw_samples, plot, write_report

    if len(context.models) < 2:
        raise RCDMError("The probe training compares checkpoints; give the model of each with --model, in their order.")
    check_checkpoints(context)
    at, numbered = places(context.names, context.params["at"])
    about = measured(context)
    result = about.result
    result.notes += _notes(context)
    order = list(pairwise(context.names))
    pairs = order if len(order) == 1 else [*order, (context.names[0], context.names[-1])]
    moves = compare(about.found, seed=context.seed, pairs=[(later, earlier) for earlier, later in pairs])
    result.aggregates["checkpoints"] = dict(zip(context.names, at, strict=True))
    result.aggregates["moves"] = moves
    result.answer = [
        trend(context.names[0], context.names[-1], moves, what) for what in MEASURES if _of(moves, what)
    ] or ["No attribute could be measured at two checkpoints."]
    charts = plot(result.add_file("training.png"), context.names, at, result.aggregates, numbered)
    if context.params["rows"]:
        draw_samples(result.add_file("samples.png"), context.names, about.rows)
    write_report(result, context, about.rows, charts)
    return result


def check_checkpoints(context: Context) -> None:
    """Raise RCDMError unless the models are of one provider with the same options, and no two of the same weights."""
    first = context.models[0].config.provider
    seen: dict[str, str] = {}
    for name, model in zip(context.names, context.models, strict=True):
        provider = model.config.provider
        if (provider.name, provider.options) != (first.name, first.options):
            other = f"is of {provider.name}" + (" with other options" if provider.name == first.name else "")
            raise RCDMError(
                f"The probe training compares checkpoints of one encoder, but {name} {other} and {context.names[0]} of "
                f"{first.name}; give models that rcdm train --weights made with one provider."
            )
        if provider.weights_digest in seen:
            raise RCDMError(
                f"The probe training compares checkpoints, but {name} and {seen[provider.weights_digest]} have an "
                "encoder of the same weights; give one model of each checkpoint."
            )
        seen[provider.weights_digest] = name


def places(names: Sequence[str], given: str) -> tuple[list[float], bool]:
    """Where the checkpoints stand on the axis, and whether that is by their number only.

    given: numbers with commas between them, such as epochs; empty: the numbers that the names end with, where these
    rise, and otherwise 1, 2, and so on. Raises RCDMError for another count, or numbers that do not rise.
    """
    if given:
        found = Option("floats", (), "").parse(given, "at")
        if len(found) != len(names) or any(a >= b for a, b in pairwise(found)):
            raise RCDMError(f"at is {given!r}, but expected {len(names)} rising numbers, one for each model.")
        return list(found), False
    ends = [re.search(r"(\d+)\D*$", name) for name in names]
    numbers = [float(end[1]) for end in ends if end]
    if len(numbers) == len(names) and all(a < b for a, b in pairwise(numbers)):
        return numbers, False
    return [float(i) for i in range(1, len(names) + 1)], True


def _notes(context: Context) -> list[str]:
    """On generators that differ in more than the checkpoint."""
    notes = []
    steps = {model.config.step for model in context.models}
    if len(steps) > 1:
        notes.append(
            f"The generators were trained for different numbers of steps ({min(steps)} to {max(steps)}): rendered "
            "retention may move with them; the decodable one does not."
        )
    return notes


def _of(moves: Sequence[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    return [move for move in moves if move["retention"] == what]


def _moved(move: dict[str, Any]) -> bool:
    return bool(move["p_holm"] < SURE and abs(move["difference"]["value"]) >= LEAST)


def trend(first: str, last: str, moves: Sequence[dict[str, Any]], what: str) -> str:
    """What moved from the first checkpoint to the last in one of the retentions, and on the way, in a sentence."""
    whole = [move for move in _of(moves, what) if (move["first"], move["second"]) == (last, first)]
    parts = []
    for words, sign in (("more is kept of", 1), ("less is kept of", -1)):
        moved = [
            f"{move['attribute']} ({said(move['difference'])})"
            for move in whole
            if _moved(move) and sign * move["difference"]["value"] > 0
        ]
        if moved:
            parts.append(f"{words} {', '.join(moved)}")
    still = [move["attribute"] for move in whole if not _moved(move)]
    if still:
        parts.append(f"no move of {LEAST} beyond chance in {', '.join(still)}")
    text = f"From {first} to {last}, by {what} retention: {'; '.join(parts) or 'nothing was measured at both'}."
    gone = {move["attribute"] for move in whole if _moved(move)}
    between = [
        f"{move['attribute']} from {move['second']} to {move['first']} ({said(move['difference'])})"
        for move in _of(moves, what)
        if (move["first"], move["second"]) != (last, first) and _moved(move) and move["attribute"] not in gone
    ]
    return text + (f" On the way: {', '.join(between)}." if between else "")


PROBE = Probe(
    name="training",
    summary="How a representation changes with its encoder's training: one model for each checkpoint, in order",
    figure="figures 34 and 35",
    parameters={
        **RETENTION.parameters,
        "at": Option(str, "", "epochs or steps of the checkpoints, with commas; otherwise the numbers of their names"),
    },
    run=run,
    check=RETENTION.check,
    least=RETENTION.least,
    unless_given=RETENTION.unless_given,
)
