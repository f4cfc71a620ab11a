"""The page of the baselines probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_core.report.grid import GridRow
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result


def write_report(
    result: Result,
    context: Context,
    rows: Sequence[GridRow],
    within: Sequence[Difference],
    between: Sequence[Difference],
) -> Path:
    """report.html: the answer, numbers by method, pictures, methods of a model and models against each other."""
    from rcdm_core.probes.baselines import METHODS

    def numbers(**keys: str) -> tuple[list[str], list[list[Any]]]:
        rows = [
            [f"{name}: {title}", *(result.aggregates[name][method][key] for key in keys)]
            for name in context.names
            for method, title in METHODS.items()
        ]
        return ["", *keys.values()], rows

    note = "The squared distance is in units of random pairs of real pictures: the mark on the scale is 1."
    columns = numbers(relative="squared distance to h", roughness="roughness", seconds="seconds a picture")
    table = Table("Numbers", *columns, note, digits=3, chart=1, mark=True)
    columns = numbers(distance="distance, in units of random pairs", square="squared, in the units of h")
    other = Table("Distance to h in other units", *columns, digits=3)
    what = "squared distance to h, in that of random pairs"
    note = "p: of the mean, by flipping signs of pictures, two-sided; corrected: Holm's, for all rows"
    note += " of both tables." if between else "."
    against = [
        replace(one, title=f"Methods against each other: {what}", note=note) for one in differences(within, what)
    ]
    against += [replace(one, note=note) for one in differences(between, what)]
    caption = "The picture, and what has its h by each method. Beside them: the squared distance from it, and seconds."
    figure = Figure(rows, list(METHODS.values()), caption)
    return write_probe_page(result, context, "Baselines", Parts([table], [], [figure], [*against, other]))
