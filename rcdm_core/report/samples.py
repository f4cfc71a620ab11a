"""The page of the samples probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core.report.grid import GridRow
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result


def write_report(result: Result, context: Context, rows: Sequence[GridRow], found: Sequence[Difference]) -> Path:
    """report.html: the answer, the numbers by model and group, the samples, every picture's numbers."""
    groups = list(result.aggregates[context.names[0]]["groups"])
    keys = ("distance", "floor", "spread", "unusual")
    table = Table(
        "Numbers",
        ["", "samples from h", "real pictures from h", "spread", "unusual"],
        [
            [name if len(groups) == 1 else f"{name}, {group}", *(entry[key] for key in keys)]
            for name in context.names
            for group, entry in result.aggregates[name]["groups"].items()
        ],
        chart=1,
        mark=True,
        note="Distances are in units of two random pictures' distance, the spread of random pictures' variance. The "
        "mark on the scale is 1.",
    )
    each = Table(
        "Every picture",
        ["picture", *(f"{name}: {what}" for name in context.names for what in ("from h", "unusual"))],
        [
            [
                f"{i}. {record['name']}",
                *(
                    value
                    for name in context.names
                    for value in (
                        _scaled(record["models"][name]["distance"], result.aggregates[name]["random_pair_distance"]),
                        record["models"][name]["unusual"],
                    )
                ),
            ]
            for i, record in enumerate(result.images, 1)
        ],
    )
    caption = "The picture, and samples of its h. Beside them: h, the samples' distance from it (in brackets the real "
    caption += "picture's at this size); spread, how they differ."
    figure = Figure(rows, context.names, caption)
    parts = Parts([table], [], [figure], [*differences(found, "distances from h, spread and how unusual h is"), each])
    return write_probe_page(result, context, "Samples", parts, groups=groups)


def _scaled(value: float, unit: float | None) -> float | None:
    return float(value) / unit if unit else None
