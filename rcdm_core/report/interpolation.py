"""The plot and page of the interpolation probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rcdm_core.report.grid import GridRow
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page
from rcdm_core.report.plot import Line, plot_lines

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result


def write_report(
    result: Result,
    context: Context,
    rows: Sequence[GridRow],
    t: np.ndarray,
    paths: Sequence[str],
    found: Sequence[Difference],
) -> Path:
    """report.html: the answer, the distances along the way, the samples."""
    tables, panels = [], {}
    shares = t.tolist()
    for name in context.names:
        for path in paths:
            entry = result.aggregates[name][path]
            title = f"{name}, {path}"
            panels[title] = [
                Line("to the first", shares, entry["to_first"], 0),
                Line("to the second", shares, entry["to_second"], 1),
                Line("progress", shares, entry["progress"], 2, "--"),
            ]
            lines = [
                [f"{share:.2f}", entry["to_first"][i], entry["to_second"][i], entry["progress"][i]]
                for i, share in enumerate(shares)
            ]
            columns = ["share of the way", "to the first", "to the second", "progress"]
            tables.append(Table(title, columns, lines, chart=3, mark=True))
    slopes = Table(
        "Numbers",
        ["", "slope of progress"],
        [[f"{name}, {path}", result.aggregates[name][path]["slope"]] for name in context.names for path in paths],
        chart=1,
        mark=True,
        note="1: the samples' h goes all the way from one end to the other; 0: it stays where it is.",
    )
    charts = []
    if all(entry["value"] is not None for lines in panels.values() for line in lines for entry in line.estimates):
        svg = plot_lines(
            result.add_file("interpolation.png"), panels, x_label="share of the way", y_label="of the ends' distance"
        )
        charts.append(("Distances of the samples' h to the ends', and its progress between them.", svg))
    caption = "The first picture, samples along the way, the second picture. Each row is drawn from one noise. "
    caption += "Below the last row of each: the progress of the samples' h."
    figure = Figure(rows, [*context.names, "second"], caption, picture_title="first")
    more = [*differences(found, "slope of progress", over="pairs"), *tables]
    return write_probe_page(result, context, "Interpolation", Parts([slopes], charts, [figure], more))
