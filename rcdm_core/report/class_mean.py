"""The page of the class-mean probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core.report.grid import GridRow
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result


def write_report(
    result: Result, context: Context, rows: Sequence[GridRow], classes: int, found: Sequence[Difference]
) -> Path:
    """report.html: the answer, the numbers by model and by class, the samples."""
    keys = {
        "own": "own mean is nearest",
        "own_real": "of real pictures",
        "distance": "samples from the mean",
        "members": "real pictures from it",
        "spread": "spread",
        "length": "length of the mean",
    }
    table = Table(
        "Numbers",
        ["", *keys.values()],
        [[name, *(result.aggregates[name][key] for key in keys)] for name in context.names],
        chart=1,
        mark=True,
    )
    each = [
        Table(
            f"Every class: {name}",
            ["class", "own mean is nearest", "of real pictures", "pictures"],
            [
                [record["name"], record["models"][name]["own"], record["models"][name]["own_real"], record["pictures"]]
                for record in result.images
            ],
            note="In brackets Wilson's interval, over the pictures of the class; samples of one mean have none.",
        )
        for name in context.names
    ]
    caption = (
        "Some pictures of the class, and samples of the mean of its h. Beside them: the share whose own class mean "
    )
    caption += "is nearest, and the distance from the mean (in brackets, of real pictures of the class)."
    figure = Figure(rows, ["of the class", *context.names], caption)
    more = [*differences(found, "own mean is nearest", over="classes"), *each]
    return write_probe_page(result, context, "Class mean", Parts([table], [], [figure], more), classes=classes)
