"""The page of the manipulation probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core.report.grid import GridRow
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result


def write_report(
    result: Result,
    context: Context,
    rows: Sequence[GridRow],
    beyond: Sequence[Difference],
    within: Sequence[Difference],
    between: Sequence[Difference],
) -> Path:
    """report.html: the answer, what moves by model, the samples.

    beyond: whether samples move at all. within, between: what differs in and between models.
    """
    keys = {"most common": "most common", "least common": "least common", "within": "spread of unmodified"}
    if context.params["mode"] == "swap":
        keys |= {f"{which}, toward": f"{which}: toward partner" for which in ("most common", "least common")}
    tables = [
        Table(
            name,
            ["samples move in", *keys.values()],
            [[measure, *(of[key] for key in keys)] for measure, of in result.aggregates[name]["measures"].items()],
            chart=1,
            mark=True,
            note="All in distances of two random held-out pictures. The mark on the scale is 1.",
        )
        for name in context.names
    ]
    thresholds = Table(
        "Dimensions",
        ["", "|h| that counts as zero", "it is", "exact zeros", "not zero", "changed", "most: change asked", "least"],
        [
            [
                name,
                f"{entry['threshold']:.4g}",
                entry["threshold_is"],
                f"{entry['exact_zeros']:.0%}",
                entry["candidates"],
                entry["changed"],
                entry["asked"]["most common"],
                entry["asked"]["least common"],
            ]
            for name in context.names
            for entry in [result.aggregates[name]]
        ],
        digits=1,
        note="Dimensions of h, on average over the pictures. The change asked is ‖change of h‖ in distances of two "
        "random pictures.",
    )
    corrected = f"corrected: Holm's, for all {len(within) + len(between)} rows of both tables." if between else ""
    corrected = corrected or "corrected: Holm's, for all rows."
    note = f"p: of the mean, by flipping signs of pictures, two-sided; {corrected}"
    tests = [replace(one, title="Whether samples move beyond their own spread") for one in differences(beyond, "")]
    tests += [replace(one, title="Most against least common", note=note) for one in differences(within, "")]
    what = "how far samples move, in distances of two random pictures"
    tests += [replace(one, note=note) for one in differences(between, what)]
    caption = "Samples of the picture's h as it is, and with its most and its least common dimensions changed, of one "
    caption += "noise. Beside them how many dimensions, of those that are not zero, and how far h moves."
    figure = Figure(rows, context.names, caption)
    return write_probe_page(result, context, "Manipulation", Parts(tables, [], [figure], [thresholds, *tests]))
