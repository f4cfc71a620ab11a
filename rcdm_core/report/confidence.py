"""The page of the confidence probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core.report.grid import GridRow
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result

HOLM = "corrected: Holm's, for all rows between groups and between models."


def write_report(
    result: Result,
    context: Context,
    rows: Mapping[str, Sequence[GridRow]],
    within: Sequence[Difference],
    between: Sequence[Difference],
) -> Path:
    """report.html: the numbers of both groups by model, their samples, groups and models against each other."""
    keys = {
        "agreement": "samples of the probe's class",
        "rendered": "samples of the picture's class",
        "distance": "samples from h",
        "probability": "probability",
        "accuracy": "accuracy",
    }
    table = Table(
        "Numbers",
        ["", *keys.values()],
        [
            [f"{name}, {group}", *(entry[key] for key in keys)]
            for name in context.names
            for group, entry in result.aggregates[name]["groups"].items()
        ],
        chart=1,
        mark=True,
        note="Distances are in units of two random pictures' distance. The mark on the scale is 1.",
    )
    figures = [
        Figure(
            rows[name],
            [name],
            "Below each sample the class that the probe reads from it, framed in red where it is another than the "
            "picture's.",
        )
        for name in context.names
    ]
    tests = [
        replace(
            one,
            title="Most against least confident",
            note=f"p: of the means, by permuting which pictures are in which group, two-sided; {HOLM}",
        )
        for one in differences(within, "")
    ]
    tests += [
        replace(
            one,
            note="Over each model's own pictures of the group; those that both models have count as pairs. p: of the "
            f"means, by swapping the models of pictures, two-sided; {HOLM}",
        )
        for one in differences(between, "")
    ]
    return write_probe_page(
        result, context, "Confidence", Parts([table], [], figures, tests), entry=result.aggregates[context.names[0]]
    )
