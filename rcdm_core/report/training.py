"""The training probe's plots, rows of samples and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_core.report.grid import GridRow, draw_grid
from rcdm_core.report.html import VERDICTS, number
from rcdm_core.report.page import Figure, Parts, Table, write_probe_page
from rcdm_core.report.plot import Line, plot_lines

if TYPE_CHECKING:
    from rcdm_core.probes.base import Context, Result
    from rcdm_core.probes.retention_rows import Rows


def plot(
    path: Path, names: Sequence[str], at: Sequence[float], aggregates: Mapping[str, Any], numbered: bool
) -> list[tuple[str, str]]:
    """Both retentions of every attribute against the checkpoint, as a PNG and for the page; nothing where none is."""
    from rcdm_core.probes.training import MEASURES

    panels: dict[str, list[Line]] = {}
    for attribute in aggregates[names[0]]["attributes"]:
        for place, what in enumerate(MEASURES):
            entries = [aggregates[name]["attributes"].get(attribute, {}).get(what) for name in names]
            usable = [(x, e) for x, e in zip(at, entries, strict=True) if e is not None and e["value"] is not None]
            if len(usable) > 1:
                x, estimates = zip(*usable, strict=True)
                line = Line(what, x, estimates, colour=place, style=("o-", "s--")[place])
                panels.setdefault(attribute, []).append(line)
    if not panels:
        return []
    label = "checkpoint, in the given order" if numbered else "checkpoint"
    svg = plot_lines(path, panels, x_label=label, y_label="retention")
    return [("Retention of every attribute against the checkpoint; bands: 95% intervals over pictures.", svg)]


def sample_rows(names: Sequence[str], shown: Sequence[Rows]) -> list[GridRow]:
    """Of each picture a row for every checkpoint."""
    return [
        GridRow(
            [f"{i + 1}", name],
            rows["pictures"][i] / 255 if m == 0 else None,
            [rows["samples"][i] / 255],
            [[]],
        )
        for i in range(len(shown[0]["pictures"]))
        for m, (name, rows) in enumerate(zip(names, shown, strict=True))
    ]


def draw_samples(path: Path, names: Sequence[str], shown: Sequence[Rows]) -> Path:
    """The first pictures with their samples, a row for every checkpoint."""
    return draw_grid(path, sample_rows(names, shown), titles=["samples, from the same noise"])


def write_report(result: Result, context: Context, shown: Sequence[Rows], charts: Sequence[tuple[str, str]]) -> Path:
    """report.html: the answer, retentions by checkpoint, what moved, samples."""
    from rcdm_core.probes.retention import ABOUT
    from rcdm_core.probes.training import MEASURES

    attributes = list(result.aggregates[context.names[0]]["attributes"])
    by_name = {name: result.aggregates[name]["attributes"] for name in context.names}
    tables = [
        Table(
            f"{what.capitalize()} retention",
            ["", *context.names],
            [[a, *(by_name[name].get(a, {}).get(what) for name in context.names)] for a in attributes],
        )
        for what in MEASURES
    ]
    verdicts = Table(
        "Verdicts",
        ["", *context.names],
        [[a, *(" ".join(VERDICTS[by_name[n][a]["verdict"]][::-1]) for n in context.names)] for a in attributes],
        note="As in the probe retention, which also says why.",
    )
    moves = Table(
        "What moved",
        ["", "retention", "from", "to", "difference", "p", "corrected"],
        [
            [
                *(m[key] for key in ("attribute", "retention", "second", "first", "difference")),
                *(number(m[key], 4) for key in ("p", "p_holm")),
            ]
            for m in result.aggregates["moves"]
        ],
        note="p: signs of the pictures' differences flipped at random; corrected: Holm's, over all rows.",
    )
    figures = []
    if context.params["rows"]:
        caption = "The first pictures by content id: nobody chose them. All checkpoints draw from the same noise."
        figures = [Figure(sample_rows(context.names, shown), ["samples"], caption)]
    parts = Parts([verdicts], list(charts), figures, [*tables, moves])
    return write_probe_page(result, context, "Training", parts, about={a: ABOUT[a] for a in attributes})
