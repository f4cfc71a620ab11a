"""The page of the variance probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core.report.grid import GridRow, Legend
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result


def write_report(
    result: Result, context: Context, rows: Sequence[GridRow], found: Sequence[Difference], scale: Legend
) -> Path:
    """report.html: the answer, the numbers by model, the maps."""
    table = Table(
        "Numbers",
        ["", "of random pictures", "variance", "of random pictures, absolute"],
        [
            [
                name,
                *(result.aggregates[name][key] for key in ("relative", "variance", "random_variance")),
            ]
            for name in context.names
        ],
        digits=4,
        chart=1,
        mark=True,
        note="The mark on the scale is 1: samples that differ as much as random pictures.",
    )
    caption = "First random pictures, to compare with. The picture; the map of its samples' variance; some of the "
    caption += "samples. The maps as numbers are in variance-001.npz and so on. One colour scale for all:"
    figure = Figure(rows, context.names, caption, legend=scale)
    return write_probe_page(
        result, context, "Variance", Parts([table], [], [figure], differences(found, "of random pictures"))
    )
