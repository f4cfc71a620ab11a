"""The quality probe's pictures and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rcdm_core.report.grid import GridRow, draw_grid
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result

TITLES = ["samples", "real pictures"]


def picture_rows(names: Sequence[str], rows: Sequence[dict[str, np.ndarray]]) -> list[GridRow]:
    """A row for each model: samples, and real pictures that they are compared with."""
    return [
        GridRow([name], None, [row["samples"] / 255, row["reference"] / 255], [[], []])
        for name, row in zip(names, rows, strict=True)
    ]


def draw_rows(path: Path, names: Sequence[str], rows: Sequence[dict[str, np.ndarray]]) -> Path:
    """The first samples of every model beside real pictures."""
    return draw_grid(path, picture_rows(names, rows), titles=TITLES, picture_title="")


def write_report(
    result: Result, context: Context, rows: Sequence[dict[str, np.ndarray]], found: Sequence[Difference]
) -> Path:
    """report.html: the answer, Fréchet distances, torch-fidelity's measures, models against each other, pictures."""
    from rcdm_core.metrics.fidelity import MEASURES
    from rcdm_core.probes.quality import digits

    entries = {name: result.aggregates[name] for name in context.names}
    tables = [
        Table(
            "Fréchet distance",
            ["", "samples", "real pictures", "above real", "pictures"],
            [
                [
                    f"{name}, in {entry['space']}",
                    *(entry["relative"][key] for key in ("samples", "real", "excess")),
                    f"{entry['drawn']} and {entry['reference']}",
                ]
                for name, entry in entries.items()
            ],
            digits=3,
            chart=1,
            note="In units of the real pictures' variance.",
        )
    ]
    if any(entry["fidelity"] for entry in entries.values()):
        tables += [
            Table(
                title,
                ["", "samples", "real pictures", "pictures"],
                [
                    [name, *(entry["fidelity"][key][part] for part in ("samples", "real")), str(entry["drawn"])]
                    for name, entry in entries.items()
                ],
                digits=max(2, digits(key)),
                chart=1,
            )
            for key, title in MEASURES.items()
        ]
    more = [
        Table(
            "Fréchet distance, in the units of h",
            ["", "samples", "real pictures", "dimensions of h"],
            [[name, *(e["frechet"][key] for key in ("samples", "real")), e["dim"]] for name, e in entries.items()],
            digits=3,
        )
    ]
    note = (
        "p: two-sided, by Student's distribution, from resamples of the same pictures for both models, for precision "
        "and recall the larger one of that and of the p by the pictures that count for one model only; –: too few "
        "pictures, or resamples that do not vary; corrected: Holm's, for the number of rows. Fréchet distances are "
        "over the real pictures' variance."
    )
    more = [*(replace(one, note=note, digits=4) for one in differences(found, "")), *more]
    caption = "The first samples by content id, and real pictures at the generator's size: nobody chose them."
    figures = [Figure(picture_rows(context.names, rows), TITLES, caption)] if context.params["shown"] else []
    return write_probe_page(result, context, "Quality", Parts(tables, [], figures, more), measures=MEASURES)
