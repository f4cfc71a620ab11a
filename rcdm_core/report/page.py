"""What the pages of most probes are made of: tables of estimates, figures of samples, and charts.

A probe hands over these parts and a template with its words, which extends `probe.html.j2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.metrics.paired import MIN_PAIRS
from rcdm_core.report.grid import SHOWN_ROWS, GridRow, Legend, ShownRows
from rcdm_core.report.html import cell_height, write_page

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result

OPEN = 8  # rows of pictures that are unfolded
_COLOURS = 256


@dataclass(frozen=True)
class Table:
    """columns: the heads, the first one of the rows' names. rows: names and cells.

    A cell is an estimate as in result.json, a text, a number, or None. digits: of numbers. chart: the column whose
    estimates are also drawn, on one scale from 0 on, or from below where one of them is; with `mark` at 1, the unit.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    digits: int = 2
    chart: int | None = None
    mark: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """Where the chart's scale begins and ends."""
        found = [0.0, 1.0 if self.mark else 0.0]
        for row in self.rows:
            cell = row[self.chart] if self.chart is not None else None
            if isinstance(cell, Mapping):
                found += [cell[key] for key in ("value", "low", "high") if cell[key] is not None]
        bottom, top = min(found), max(found)
        return bottom, top if top > bottom else bottom + 1


@dataclass(frozen=True)
class Figure:
    """Rows of pictures as `draw_grid` takes them. picture_title: of the first column."""

    rows: Sequence[GridRow]
    titles: Sequence[str]
    caption: str = ""
    title: str = ""
    picture_title: str = "picture"
    legend: Legend | None = None

    @property
    def total(self) -> int:
        """How many rows there are, those included that are not held."""
        return self.rows.total if isinstance(self.rows, ShownRows) else len(self.rows)

    @property
    def has_pictures(self) -> bool:
        """Whether any row has a picture of its own in the first column."""
        return any(row.picture is not None for row in self.rows)

    @property
    def cell(self) -> int:
        """Pixels at which a picture is shown."""
        wide = max(sum(len(block) + (1.5 if any(row.numbers) else 0) for block in row.blocks) for row in self.rows)
        return cell_height(int(2 + wide))


@dataclass
class Parts:
    """The middle of a page, in the order in which it is read: tables, charts (SVG), figures, further tables."""

    tables: list[Table] = field(default_factory=list)
    charts: list[tuple[str, str]] = field(default_factory=list)  # caption, SVG
    figures: list[Figure] = field(default_factory=list)
    more: list[Table] = field(default_factory=list)


def write_probe_page(result: Result, context: Context, title: str, parts: Parts, **values: Any) -> Path:
    """report.html from the parts and the template of the probe's name; `values`: what its words need to know."""
    return write_page(
        result.add_file("report.html"),
        f"{context.probe.name}.html.j2",
        title=title,
        result=result.to_json(),
        names=context.names,
        params=context.params,
        parts=parts,
        unfolded=OPEN,
        shown=SHOWN_ROWS,
        **values,
    )


def differences(found: Sequence[Difference], what: str, *, over: str = "pictures") -> list[Table]:
    """The table of models against each other; none where there is one model. over: what the pairs are of."""
    rows = [
        [f"{d.first} less {d.second}", d.difference.as_json(), _p(d.p), _p(d.p_holm), d.difference.n] for d in found
    ]
    if not rows:
        return []
    note = f"p: of the mean, by flipping signs of {over}, two-sided; corrected: Holm's, for the number of rows."
    if any(d.p is None for d in found):
        note += f" –: fewer than {MIN_PAIRS} {over} are too few for a test."
    title = f"Models against each other: {what}" if what else "Models against each other"
    return [Table(title, ["", "difference", "p", "corrected", over], rows, note, 3)]


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def coloured(values: np.ndarray, top: float) -> np.ndarray:
    """Values [..., H, W] on the colour scale "magma" from 0 to `top`, larger ones in the last one: [..., 3, H, W]."""
    from matplotlib import colormaps

    colours = np.asarray(colormaps["magma"](np.linspace(0, 1, _COLOURS)))[:, :3]
    places = np.clip(np.round(np.asarray(values) / top * (_COLOURS - 1)), 0, _COLOURS - 1).astype(np.int64)
    return np.ascontiguousarray(np.moveaxis(colours[places], -1, -3)).astype(np.float32)


def legend(top: float, what: str) -> Legend:
    """The bar that belongs to `coloured`."""
    return Legend(coloured(np.tile(np.linspace(0, top, 160), (10, 1)), top), f"{what}: 0", f"{top:g} and more")
