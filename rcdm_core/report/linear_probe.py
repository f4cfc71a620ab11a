"""The page of the linear-probe probe."""

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
    """report.html: the accuracies by model and by class, samples with their classes."""
    keys = {
        "accuracy": "held-out pictures",
        "chance": "always the most frequent",
        "rendered": "samples",
        "small": "pictures at samples' size",
        "agreement": "samples that agree with h",
    }
    table = Table(
        "Accuracy",
        ["", *keys.values()],
        [[name, *(result.aggregates[name][key] for key in keys)] for name in context.names],
        chart=1,
        mark=True,
        note="In brackets Wilson's intervals, over pictures. The mark on the scale is 1.",
    )
    classes = list(result.aggregates[context.names[0]]["by_class"])
    by_class = Table(
        "Accuracy by class",
        ["class", *context.names, "pictures"],
        [
            [
                one,
                *(result.aggregates[name]["by_class"][one] for name in context.names),
                result.aggregates[context.names[0]]["by_class"][one]["n"],
            ]
            for one in classes
        ],
    )
    caption = "A held-out picture, and samples of its h; below each the class that the probe reads from it, framed in "
    caption += "red where it is another than the picture's."
    figure = Figure(rows, context.names, caption)
    parts = Parts(
        [table], [], [figure], [*differences(found, "accuracy on held-out pictures, and on samples"), by_class]
    )
    return write_probe_page(result, context, "Linear probe", parts, entry=result.aggregates[context.names[0]])
