"""The page of the unconditional probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core.report.grid import GridRow
from rcdm_core.report.neighbours import by_space
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result


def write_report(
    result: Result, context: Context, rows: Sequence[Sequence[GridRow]], found: Sequence[Difference]
) -> Path:
    """report.html: the answer, the numbers by model, shares of copies, samples beside their nearest pictures, and
    models against each other."""
    from rcdm_core.probes.neighbours import NEIGHBOURS, TITLES, USUAL

    keys = {
        "diversity": "diversity",
        "distance": "samples from h",
        "memory": "memory",
        "own": "nearest is its own",
        "noise": "noise on h",
    }
    numbers = Table(
        "Numbers",
        ["", *keys.values()],
        [[name, *(result.aggregates[name][key] for key in keys)] for name in context.names],
        chart=1,
        mark=True,
        note="Diversity is in units of real pictures' variance, distances and noise in those of two random pictures'.",
    )
    memory = Table(
        "Nearest pictures",
        ["", "copies", "near", "median distance", "held-out's"],
        [
            [title, part["copy"], part["near"], part["median"], part["median_held_out"]]
            for title, part in by_space(result, context)
        ],
        digits=3,
        note="Samples are near by construction, as far as h says what a picture looks like: h was drawn next to one's. "
        f"{USUAL:.0%} of held-out pictures are as near, by definition.",
    )
    caption = (
        "The picture whose h was drawn near, a sample of that h, and the sample's nearest pictures. In a red frame: a "
        f"copy. Below: the distance, over the mean distance of the next {NEIGHBOURS}."
    )
    figures = [
        Figure(of_model, TITLES, caption, title=name, picture_title="near")
        for name, of_model in zip(context.names, rows, strict=True)
        if of_model
    ]
    note = (
        "The k-th picture of one model's density against the k-th of the other's. p: of the mean, by flipping signs of "
        "pictures, two-sided; of memory, a ratio, by Student's distribution from the same resamples for both; "
        "corrected: Holm's, for all rows."
    )
    against = [replace(one, note=note) for one in differences(found, "", over="pictures")]
    parts = Parts([numbers, memory], [], figures, against)
    return write_probe_page(result, context, "Unconditional", parts, usual=USUAL, neighbours=NEIGHBOURS)
