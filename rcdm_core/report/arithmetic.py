"""The page of the arithmetic probe."""

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
    """report.html: the answer, responses and distances, the samples."""
    entries = {name: result.aggregates[name] for name in context.names}
    response = Table(
        "Numbers",
        ["", "response", "target is nearest"],
        [[name, entry["response"], entry["nearest"]] for name, entry in entries.items()],
        chart=1,
        mark=True,
        note="The mark on the scale is 1: the samples take on all of the difference.",
    )
    lines = []
    for name, entry in entries.items():
        lines.append([f"samples of {name}", *entry["distance"].values()])
        lines.append(["the target itself", *entry["of_target"].values(), 0.0])
    distances = Table(
        "Distances, in units of two random pictures'", ["", "to a", "to b", "to c", "to the target"], lines
    )
    caption = "a, b and c; samples of h(a) − h(b) + h(c), and below samples of h(c) from the same noise."
    figure = Figure(rows, ["a, b, c", *context.names], caption)
    parts = Parts([response, distances], [], [figure], differences(found, "response", over="triples"))
    return write_probe_page(result, context, "Arithmetic", parts)
