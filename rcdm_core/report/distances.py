"""The plot and page of the distances probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core.report.grid import GridRow
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page
from rcdm_core.report.plot import plot_dots

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.augmentations import Augmentation
    from rcdm_core.probes.base import Context, Result


def write_report(
    result: Result,
    context: Context,
    rows: Sequence[GridRow],
    kinds: Sequence[str],
    augmentations: Sequence[Augmentation],
    against: Sequence[Mapping[str, Difference]],
    found: Sequence[Difference],
) -> Path:
    """report.html: the answer, the distances by kind, the pictures of every kind."""
    entries = {name: result.aggregates[name] for name in context.names}
    svg = plot_dots(
        result.add_file("distances.png"),
        kinds,
        {name: [entry["relative"][kind] for kind in kinds] for name, entry in entries.items()},
        x_label="squared distance from the picture's h, of two random pictures'",
    )
    tables = [
        Table(
            name,
            ["", "squared distance", "absolute", "samples are nearer for", "pictures"],
            [
                [
                    kind,
                    *(entry[key][kind] for key in ("relative", "squares")),
                    entry["samples_nearer_than"].get(kind),
                    str(entry["squares"][kind]["n"]),
                ]
                for kind in kinds
            ],
            chart=1,
            mark=True,
            note="The first column is in units of the mean squared distance of two random pictures (the mark).",
        )
        for name, entry in entries.items()
    ]
    caption = "Below every picture its squared distance from the h of the first one, in units of two random pictures'."
    chart = ("Mean squared distances with their intervals.", svg)
    of_kinds = [
        replace(one, title="Augmentations against samples")
        for one in differences([one for of_model in against for one in of_model.values()], "")
    ]
    figure = Figure(rows, context.names, caption)
    parts = Parts(tables, [chart], [figure], [*of_kinds, *differences(found, "squared distance")])
    return write_probe_page(result, context, "Distances", parts, augmentations=augmentations)
