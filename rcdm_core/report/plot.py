"""Plots of estimates with their intervals, as a PNG file and as SVG inside a page."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from rcdm_core.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#14181f"  # of text and axes; in a page it becomes the colour of the page's own text
_DPI = 110
_ACROSS = 3  # panels beside each other
_LETTERS = 60  # of all labels below an axis, with room between them, that fit beside each other
_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def plainly(function: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """A function that draws and saves a figure with its texts as they are: models and classes are named by users, and
    a "$" in a name begins no formula."""

    @functools.wraps(function)
    def drawing(*arguments: _Given.args, **settings: _Given.kwargs) -> _Found:
        import matplotlib

        with matplotlib.rc_context({"text.parse_math": False}):
            return function(*arguments, **settings)

    return drawing


def legend_entry(name: str) -> str:
    """The label by which `add_legend` knows what has the name: of itself matplotlib leaves out those with "_" first."""
    return f" {name}"


def add_legend(where: Axes | Figure, **settings: Any) -> None:
    """A legend of all that has a `legend_entry`."""
    for text in where.legend(frameon=False, **settings).get_texts():
        text.set_text(text.get_text()[1:])


@dataclass(frozen=True)
class Line:
    """Estimates (as in result.json) at x; drawn with a band of their intervals. style: of matplotlib, such as "--"."""

    label: str
    x: Sequence[float]
    estimates: Sequence[Mapping[str, Any]]
    colour: int = 0
    style: str = "-"


@plainly
def plot_lines(
    path: Path, panels: Mapping[str, Sequence[Line]], *, x_label: str, y_label: str, evenly: bool = False
) -> str:
    """Panels by title, three beside each other, each with its lines. Writes the PNG and returns the SVG.

    The scale is one for all and starts at 0, or below whatever is below that, with a line at 0. evenly: every x has the
    same room, whatever lies between them, and intervals are bars beside each other instead of bands: for several lines
    over few x that crowd at one end.
    """
    values_of_x = sorted({x for lines in panels.values() for line in lines for x in line.x})

    def draw(axes: Axes, lines: Sequence[Line]) -> None:
        for number, line in enumerate(lines):
            colour = f"C{line.colour}"
            values = [e["value"] for e in line.estimates]
            if evenly:
                aside = 0.12 * (number - (len(lines) - 1) / 2)
                places = [values_of_x.index(x) + aside for x in line.x]
                axes.plot(places, values, line.style, color=colour, label=legend_entry(line.label), lw=1.4)
                axes.plot(places, values, "o", color=colour, ms=2.5)
                for x, e in zip(places, line.estimates, strict=True):
                    if e["low"] is not None:
                        axes.plot([x, x], [e["low"], e["high"]], "-", color=colour, alpha=0.45, lw=1.4)
                continue
            axes.plot(line.x, values, line.style, color=colour, label=legend_entry(line.label), lw=1.6)
            if all(e["low"] is not None for e in line.estimates):
                low, high = ([e[key] for e in line.estimates] for key in ("low", "high"))
                axes.fill_between(line.x, low, high, color=colour, alpha=0.18, lw=0)
        if evenly:
            axes.set_xticks(range(len(values_of_x)), [f"{x:g}" for x in values_of_x])
        axes.set_xlabel(x_label)

    figure, axes = _axes(len(panels), height=2.7)
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        draw(axis, lines)
        axis.set_title(title, fontsize=10, loc="left", color=_INK)
    for spare in axes[len(panels) :]:
        spare.set_axis_off()
    _from_zero(axes[: len(panels)], [e for lines in panels.values() for line in lines for e in line.estimates], "y")
    for first in axes[::_ACROSS]:
        first.set_ylabel(y_label, fontsize=9)
    if evenly:
        entries = {  # each once, whichever panels it is in
            label: handle
            for axis in axes[: len(panels)]
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        below = {"loc": "outside lower center", "ncols": max(1, len(entries))}
        add_legend(figure, handles=list(entries.values()), labels=list(entries), fontsize=8, **below)
    else:
        add_legend(axes[0], fontsize=8)
    return _save(figure, path)


@plainly
def plot_dots(
    path: Path, kinds: Sequence[str], models: Mapping[str, Sequence[Mapping[str, Any] | None]], *, x_label: str
) -> str:
    """A row for each kind, a dot with its interval for each model. Writes the PNG and returns the SVG."""
    figure, (axes,) = _axes(1, height=0.7 + 0.2 * len(kinds) * max(1, 0.6 * len(models)))
    step = 0.7 / len(models)
    for m, (name, estimates) in enumerate(models.items()):
        label: str | None = legend_entry(name)
        for k, estimate in enumerate(estimates):
            if estimate is None or estimate["value"] is None:
                continue
            y = k + (m - (len(models) - 1) / 2) * step
            axes.plot(estimate["value"], y, "o", color=f"C{m}", ms=4.5, label=label)
            label = None
            if estimate["low"] is not None:
                axes.plot([estimate["low"], estimate["high"]], [y, y], "-", color=f"C{m}", lw=1.8)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    _from_zero([axes], [e for estimates in models.values() for e in estimates if e is not None], "x")
    axes.set_xlabel(x_label)
    axes.grid(axis="x", color=_INK, alpha=0.15, lw=0.7)
    if len(models) > 1:
        add_legend(axes, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _save(figure, path)


@plainly
def plot_bars(
    path: Path,
    kinds: Sequence[str],
    series: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    level: Sequence[float],
    level_label: str,
    x_label: str,
    y_label: str,
) -> str:
    """A bar with its interval for every kind and series, and a dashed line at each kind's `level`. Writes the PNG and
    returns the SVG."""
    figure, (axes,) = _axes(1, height=3.0)
    width = 0.8 / len(series)
    for s, (name, estimates) in enumerate(series.items()):
        places = [k + (s - (len(series) - 1) / 2) * width for k in range(len(kinds))]
        axes.bar(places, [e["value"] for e in estimates], width * 0.92, color=f"C{s}", label=legend_entry(name))
        for x, estimate in zip(places, estimates, strict=True):
            if estimate["low"] is not None:
                axes.plot([x, x], [estimate["low"], estimate["high"]], "-", color=_INK, lw=1.1)
    for k, value in enumerate(level):
        label = legend_entry(level_label) if k == 0 else None
        axes.plot([k - 0.45, k + 0.45], [value, value], "--", color=_INK, lw=1, label=label)
    # labels are about as wide as their letters: where they would touch, they lean
    crowded = sum(map(len, kinds)) + 2 * len(kinds) > _LETTERS
    lean: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(kinds)), kinds, **lean)
    _from_zero([axes], [e for estimates in series.values() for e in estimates], "y")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    add_legend(axes, fontsize=8)
    return _save(figure, path)


def _from_zero(axes: Sequence[Axes], estimates: Sequence[Mapping[str, Any]], along: str) -> None:
    """Let axes that share a scale begin at zero; where a value or an interval is below it, there, with a line at zero.

    To be called once all is drawn: a limit that is set ends matplotlib's own choice of the other one.
    """
    ends = [e[key] for e in estimates for key in ("value", "low", "high") if e[key] is not None]
    if min(ends, default=0) >= 0:
        axes[0].set(**{f"{along}lim": (0, None)})
        return
    if max(ends) < 0:
        axes[0].set(**{f"{along}lim": (None, 0)})
    for axis in axes:
        (axis.axhline if along == "y" else axis.axvline)(0, color=_INK, lw=0.8, alpha=0.5)


def _axes(panels: int, *, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure without a window, and its axes, at least as many as panels. height: inches of a row of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(panels, _ACROSS)
    down = -(-panels // across)
    figure = Figure(figsize=(max(6.4, 2.6 * across), height * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(down, across, sharey=True, squeeze=False).flatten())
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=_INK, labelsize=9)
        axis.xaxis.label.set_color(_INK)
        axis.yaxis.label.set_color(_INK)
        axis.title.set_color(_INK)
        for spine in axis.spines.values():
            spine.set_color(_INK)
    return figure, axes


def _save(figure: Figure, path: Path) -> str:
    import matplotlib

    for axis in figure.axes:
        axis.title.set_color(_INK)
    for legend in (*figure.legends, *(axis.get_legend() for axis in figure.axes)):
        for text in legend.get_texts() if legend else ():
            text.set_color(_INK)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    return svg.replace("<svg ", '<svg class="plot" ', 1).replace(_INK, "currentColor")
