"""The retention probe's bars, rows of samples and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.atomic import replacing
from rcdm_core.probes import verdicts
from rcdm_core.report.grid import GridRow, draw_grid, strip
from rcdm_core.report.html import VERDICTS, cell_height, data_uri, write_page
from rcdm_core.report.plot import add_legend, legend_entry, plainly

if TYPE_CHECKING:
    from rcdm_core.probes.base import Context, Result
    from rcdm_core.probes.retention_rows import Rows

# the colours of the page's chips, by verdict
CHIPS = {"kept": "follows", "nonlinear": "follows", "dropped": "ignores", "generator": "partly"}
_INK, _PALE, _LINE = "#191c22", "#5c6370", "#dfe1e6"
_COLOURS = ("#2257b8", "#c2570c", "#0b6b43", "#8a3ab9", "#97320f", "#4b5260")
_RANGE = (-0.25, 1.25)  # of the retentions that are drawn
_RIGHT = 1.7  # end of their axis: behind them stand the verdicts


@plainly
def draw_bars(path: Path, names: Sequence[str], aggregates: Mapping[str, Any]) -> Path:
    """A PNG: for every attribute with numbers and every model both retentions, intervals and the samples' variance.

    Raises RCDMError when the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    attributes = [
        attribute
        for attribute in aggregates[names[0]]["attributes"]
        if any(aggregates[name]["attributes"][attribute]["decodable"] for name in names)
    ]
    step = len(names) + 0.8  # of an attribute: a band for every model, and room
    height = 1.8 + 0.3 * step * len(attributes)
    figure = Figure(figsize=(10, height), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    places, words = [], []
    for a, attribute in enumerate(attributes):
        places.append(a * step + (len(names) - 1) / 2)
        words.append(attribute)
        for m, name in enumerate(names):
            entry, y = aggregates[name]["attributes"][attribute], a * step + m
            colour = _COLOURS[m % len(_COLOURS)]
            _bar(left, entry["rendered"], y - 0.19, colour, hatch=None)
            _bar(left, entry["decodable"], y + 0.19, colour, hatch="////")
            verdict = VERDICTS[entry["verdict"]][0]
            left.text(_RIGHT - 0.01, y, verdict, ha="right", va="center", fontsize=8, color=_PALE)
            _point(right, entry["sample_variance"], y, colour)
    for axis, marks in ((left, (0.0, 0.5, 1.0)), (right, (1.0,))):
        for mark in marks:
            axis.axvline(mark, color=_LINE, linewidth=1, zorder=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False, colors=_INK, labelsize=9)
    left.set(
        xlim=(_RANGE[0], _RIGHT),
        xticks=[0, 0.25, 0.5, 0.75, 1],
        xlabel="retention: 0 none, 1 all; lines: 95% intervals over pictures",
    )
    right.set(xlim=(0.0, 2.5), xlabel="variance of the samples\nover the pictures'")
    left.set_yticks(places, words)
    left.set_ylim(step * len(attributes) - 0.3, -1.2)
    handles = [Patch(color=_COLOURS[m % len(_COLOURS)], label=legend_entry(name)) for m, name in enumerate(names)]
    grey = "#9aa2b1"
    handles += [
        Patch(facecolor=grey, label=legend_entry("rendered: the samples bring it back")),
        Patch(facecolor="white", edgecolor=grey, hatch="////", label=legend_entry("decodable: a readout of h has it")),
    ]
    add_legend(figure, handles=handles, loc="upper left", ncols=min(3, len(handles)), fontsize=9)
    legend = 0.35 + 0.25 * -(-len(handles) // 3)
    figure.tight_layout(rect=(0, 0, 1, 1 - legend / height))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _bar(axis: Any, estimate: Mapping[str, Any] | None, y: float, colour: str, hatch: str | None) -> None:
    if estimate is None or estimate["value"] is None:
        return
    value = float(np.clip(estimate["value"], *_RANGE))
    axis.barh(y, value, 0.36, color=colour if hatch is None else "white", edgecolor=colour, hatch=hatch, linewidth=0.8)
    if estimate["low"] is not None:
        low, high = np.clip([estimate["low"], estimate["high"]], *_RANGE)
        axis.plot([low, high], [y, y], color=_INK, linewidth=1.4, solid_capstyle="butt")


def _point(axis: Any, estimate: Mapping[str, Any] | None, y: float, colour: str) -> None:
    if estimate is None or estimate["value"] is None:
        return
    beyond = estimate["value"] > 2.45  # an arrow at the edge: further than the axis goes
    axis.plot(min(estimate["value"], 2.45), y, ">" if beyond else "o", color=colour, markersize=6)
    if estimate["low"] is not None:
        axis.plot([min(estimate["low"], 2.45), min(estimate["high"], 2.45)], [y, y], color=_INK, linewidth=1.4)


def draw_samples(path: Path, names: Sequence[str], shown: Sequence[Rows]) -> Path:
    """The first pictures, each beside its samples of every model."""
    rows = [
        GridRow(
            label=[f"{i + 1}"],
            picture=shown[0]["pictures"][i] / 255,
            blocks=[rows["samples"][i] / 255 for rows in shown],
            numbers=[[] for _ in names],
        )
        for i in range(len(shown[0]["pictures"]))
    ]
    return draw_grid(path, rows, titles=names)


def write_report(result: Result, context: Context, shown: Sequence[Rows]) -> Path:
    """report.html: the answer, the verdicts, both retentions, what differs, samples, how it was computed."""
    from rcdm_core.probes.retention import ABOUT, CLASS, MIN_PICTURES, MOST, SEEN
    from rcdm_core.report.html import figure_uri

    count = min(context.params["rows"], len(result.images))
    pictures = [
        {
            "name": result.images[i]["name"],
            "picture": data_uri(shown[0]["pictures"][i] / 255),
            "strips": [data_uri(strip(rows["samples"][i] / 255)) for rows in shown],
        }
        for i in range(count)
    ]
    columns = 1 + sum(rows["samples"].shape[1] + 1 for rows in shown) if pictures else 1
    return write_page(
        result.add_file("report.html"),
        "retention.html.j2",
        title="Retention",
        result=result.to_json(),
        names=context.names,
        attributes=list(result.aggregates[context.names[0]]["attributes"]),
        about=ABOUT,
        class_=CLASS,
        chips=CHIPS,
        bars=figure_uri(result.out / "retention.png"),
        pictures=pictures,
        cell=cell_height(columns),
        params=context.params,
        rules=verdicts,
        limits={"pictures": MIN_PICTURES, "most": MOST, "seen": SEEN},
    )
