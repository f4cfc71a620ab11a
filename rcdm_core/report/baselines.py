"""The page of the baselines probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core.report.grid import GridRow
from rcdm_core.report.html import number
from rcdm_core.report.page import Figure, Parts, Table, write_probe_page

if TYPE_CHECKING:
    from rcdm_core.probes.base import Context, Result


def write_report(result: Result, context: Context, rows: Sequence[GridRow]) -> Path:
    """report.html: the answer, the numbers by method, the pictures, methods against each other."""
    from rcdm_core.probes.baselines import METHODS

    keys = {
        "relative": "squared distance to h",
        "distance": "distance",
        "square": "squared, raw",
        "roughness": "roughness",
        "seconds": "seconds a picture",
    }
    table = Table(
        "Numbers",
        ["", *keys.values()],
        [
            [f"{name}: {title}", *(result.aggregates[name][method][key] for key in keys)]
            for name in context.names
            for method, title in METHODS.items()
        ],
        digits=3,
        chart=1,
        mark=True,
        note="The first two in units of random pairs of real pictures: the mark on the scale is 1.",
    )
    found = [
        [f"{name}: {d['first']} less {d['second']}", d["difference"], number(d["p"], 4), number(d["p_holm"], 4)]
        for name, of_model in result.aggregates["differences"].items()
        for d in of_model
    ]
    note = "p: Wilcoxon's signed-rank test over the pictures; corrected: Holm's, for the pairs of a model."
    title = "Methods against each other: squared distance to h"
    against = Table(title, ["", "difference", "p", "corrected"], found, note)
    caption = "The picture, and what has its h by each method. Beside them: the squared distance from it, and seconds."
    figure = Figure(rows, list(METHODS.values()), caption)
    return write_probe_page(result, context, "Baselines", Parts([table], [], [figure], [against]))
