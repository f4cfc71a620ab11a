"""The plot and page of the adversarial probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core.report.grid import GridRow
from rcdm_core.report.page import Figure, Parts, Table, differences, write_probe_page
from rcdm_core.report.plot import Line, plot_lines

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result

CAPTION = (
    "First row: the attacked picture; below it samples of its h. Below each the class that the linear probe reads "
)
CAPTION += "from it, in brackets the true one; framed in red where they differ."


def write_report(
    result: Result,
    context: Context,
    rows: Mapping[str, Sequence[GridRow]],
    epsilons: Sequence[float],
    found: Sequence[Difference],
) -> Path:
    """report.html: the answer, rates against epsilon, the attacked pictures and their samples."""
    steps = {name: result.aggregates[name]["steps"] for name in context.names}
    lines = {
        "flipped": ("flipped", 0, "-"),
        "reached": ("probe reads target", 0, "--"),
        "samples_true": ("samples: true class", 1, "-"),
        "samples_target": ("samples: target", 1, "--"),
    }
    svg = plot_lines(
        result.add_file("adversarial.png"),
        {
            name: [
                Line(label, epsilons, [step[key] for step in entry], colour, style)
                for key, (label, colour, style) in lines.items()
                if any(step[key]["value"] is not None for step in entry)
            ]
            for name, entry in steps.items()
        },
        x_label="ε, of the [0, 1] image",
        y_label="share",
        evenly=True,
    )
    keys = {
        "flipped": "flipped",
        "reached": "target is read",
        "samples_true": "samples: true class",
        "samples_target": "samples: target",
        "flipped_samples_true": "true class, of flipped",
        "moved": "move of h",
    }
    tables = [
        Table(
            name,
            ["ε", *keys.values()],
            [[f"{step['epsilon']:g}", *(step[key] for key in keys)] for step in entry],
            chart=1,
            mark=True,
            note=f"ε is {result.provenance['epsilon_unit']}. The mark on the scale is 1.",
        )
        for name, entry in steps.items()
    ]
    probe = Table(
        "The linear probe",
        ["", "accuracy", "always the most frequent", "pictures fitted on"],
        [
            [name, *(result.aggregates[name][key] for key in ("accuracy", "chance", "fitted_on"))]
            for name in context.names
        ],
    )
    titles = [f"ε {epsilon:g}" for epsilon in epsilons]
    figures = [Figure(rows[name], titles, CAPTION, name) for name in context.names if rows[name]]
    chart = ("Shares with their intervals, against the size of the attack.", svg)
    parts = Parts(tables, [chart], figures, [probe, *differences(found, "flips, and samples of the true class")])
    return write_probe_page(result, context, "Adversarial pictures", parts)
