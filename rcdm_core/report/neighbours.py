"""The page of the neighbours probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_core.report.grid import GridRow
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result

WORDS = {"new": "as new as held-out pictures"}  # a verdict's words where they are not its own


def by_space(result: Result, context: Context) -> list[tuple[str, dict[str, Any]]]:
    """How near samples are, for each model in each space: what the row is called, and its numbers."""
    from rcdm_core.probes.neighbours import SPACES

    return [
        (f"{name}, in {words}", result.aggregates[name]["spaces"][space])
        for name in context.names
        for space, words in SPACES.items()
    ]


def write_report(
    result: Result, context: Context, rows: Sequence[Sequence[GridRow]], found: Sequence[Difference]
) -> Path:
    """report.html: the answer, shares of near samples and copies, samples beside their nearest pictures."""
    from rcdm_core.probes.neighbours import NEIGHBOURS, TITLES, USUAL

    table = Table(
        "Numbers",
        ["", "copies", "near", "verdict", "median distance", "held-out's"],
        [
            [title, part["copy"], part["near"], word, part["median"], part["median_held_out"]]
            for title, part in by_space(result, context)
            for word in [WORDS.get(part["verdict"], part["verdict"])]
        ],
        digits=3,
        chart=1,
        note=f"{USUAL:.0%} of held-out pictures are as near, by definition. In brackets, over pictures: "
        "Wilson's of shares, bootstrap of medians.",
    )
    caption = (
        "The picture, its first sample, and the sample's nearest training pictures. In a red frame: a copy. Below: the "
        f"distance, over the mean distance of the next {NEIGHBOURS}."
    )
    figures = [
        Figure(of_model, TITLES, caption, title=name)
        for name, of_model in zip(context.names, rows, strict=True)
        if of_model
    ]
    parts = Parts([table], [], figures, differences(found, "near"))
    return write_probe_page(result, context, "Neighbours", parts, usual=USUAL, neighbours=NEIGHBOURS)
