"""Plots: axes from zero, unless something that is drawn lies below it, and labels that can be read."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from rcdm_core.metrics.ranks import histogram
from rcdm_core.report import plot
from rcdm_core.report.html import _environment
from rcdm_core.report.page import Table
from rcdm_core.report.plot import Line, plot_bars, plot_dots, plot_lines
from rcdm_core.report.retention import draw_bars


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 9, "level": 0.95}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is drawn, kept."""
    kept: list[Figure] = []
    monkeypatch.setattr(plot, "_save", lambda figure, path: kept.append(figure) or "")
    return kept


def test_lines_below_zero_are_on_the_axes_with_their_bands(tmp_path: Path, figures: list[Figure]) -> None:
    above = Line("a", [0, 1], [estimate(0.2, 0.1, 0.3), estimate(0.4, 0.3, 0.5)])
    below = Line("b", [0, 1], [estimate(-0.1, -0.4, 0.1), estimate(3.0, 2.0, 4.0)])
    plot_lines(tmp_path / "a.png", {"one": [above]}, x_label="x", y_label="y")
    plot_lines(tmp_path / "b.png", {"one": [above], "two": [below]}, x_label="x", y_label="y")
    plot_lines(tmp_path / "c.png", {"one": [Line("c", [0], [estimate(-1, -2, -0.5)])]}, x_label="x", y_label="y")
    limits = [figure.axes[0].get_ylim() for figure in figures]
    assert limits[0][0] == 0 and limits[0][1] > 0.5
    assert limits[1][0] < -0.4 and limits[1][1] > 4  # the later panel's, which all share
    assert limits[2][0] < -2 and limits[2][1] == 0
    levels = [[line for line in f.axes[0].lines if list(line.get_ydata()) == [0, 0]] for f in figures]
    assert [len(lines) for lines in levels] == [0, 1, 1]  # zero is marked where it is not the axis


def test_words_of_a_plot_have_the_colour_of_the_page(tmp_path: Path) -> None:
    """Which is white on a dark one: what is left in black cannot be read there."""
    line = Line("a", [0, 1], [estimate(0.2, 0.1, 0.3), estimate(0.4, 0.3, 0.5)])
    svg = plot_lines(tmp_path / "a.png", {"one": [line], "two": [line]}, x_label="x", y_label="y")
    words = re.findall(r"<text[^>]*>", svg)
    assert len(words) > 10 and all("fill: currentColor" in word for word in words)
    assert re.search(r"<text[^>]*>two</text>", svg)


def test_crowded_lines_have_their_intervals_beside_each_other(tmp_path: Path, figures: list[Figure]) -> None:
    x = [0, 0.005, 0.1]
    lines = [Line(name, x, [estimate(v, v - 0.1, v + 0.1) for v in (0.2, 0.3, 0.4)]) for name in "ab"]
    plot_lines(tmp_path / "a.png", {"one": lines, "two": lines[:1]}, x_label="x", y_label="y", evenly=True)
    axes = figures[0].axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "0.005", "0.1"]
    bars = sorted(line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2)
    assert len(bars) == len(set(bars)) == 6 and [round(bar) for bar in bars] == [0, 0, 1, 1, 2, 2]
    (legend,) = figures[0].legends
    assert {text.get_text() for text in legend.get_texts()} == {"a", "b"}


def test_dots_and_bars_below_zero_too(tmp_path: Path, figures: list[Figure]) -> None:
    found = [estimate(0.5, -0.2, 0.9), None, estimate(0.1), estimate(None)]
    plot_dots(tmp_path / "a.png", list("abcd"), {"m": found}, x_label="x")
    plot_dots(tmp_path / "b.png", ["a"], {"m": [estimate(0.5, 0.2, 0.9)]}, x_label="x")
    words = {"level_label": "chance", "x_label": "x", "y_label": "y"}
    plot_bars(tmp_path / "c.png", ["a"], {"m": [estimate(-0.5, -0.9, -0.1)]}, level=[0.1], **words)
    plot_bars(tmp_path / "d.png", ["a"], {"m": [estimate(0.5, 0.2, 0.9)]}, level=[0.1], **words)
    assert figures[0].axes[0].get_xlim()[0] < -0.2 and figures[1].axes[0].get_xlim()[0] == 0
    assert figures[2].axes[0].get_ylim()[0] < -0.9 and figures[3].axes[0].get_ylim()[0] == 0


def test_a_tables_chart_has_room_below_zero() -> None:
    rows = [["a", estimate(-0.5, -1.0, 0.0)], ["b", estimate(0.5)], ["c", "–"]]
    table = Table("t", ["", "R²"], rows, chart=1, mark=True)
    assert table.ends == (-1.0, 1.0) and Table("t", ["", "n"], [], chart=1).ends == (0.0, 1.0)
    assert Table("t", ["", "n"], [["a", estimate(3)]], chart=1).ends == (0.0, 3.0)
    text = str(_environment().get_template("tables.html.j2").module.grid(table))  # type: ignore[attr-defined]
    assert re.findall(r'<line class="range" x1="([^"]+)" x2="([^"]+)"', text) == [("0.0", "70.0")]
    assert re.findall(r'<circle class="dot" cx="([^"]+)"', text) == ["35.0", "105.0"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = plot._save

    def saving(figure: Figure, path: Path) -> str:
        figures.append(figure)
        return save(figure, path)

    monkeypatch.setattr(plot, "_save", saving)
    return figures


@pytest.mark.parametrize("n", [5, 120, 510, 50_000])
def test_labels_below_bars_do_not_touch(n: int, drawn: list[Figure], tmp_path: Path) -> None:
    bins = histogram(np.arange(1.0, n + 1, n / 5)[:, None], n)
    series = {"x": [one.share.as_json() for one in bins]}
    texts = {"level_label": "chance", "x_label": "rank", "y_label": "share"}
    plot_bars(tmp_path / "x.png", [one.label for one in bins], series, level=[one.chance for one in bins], **texts)
    labels = drawn[0].axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == [one.label for one in bins]
    for left, right in pairwise(labels):
        if left.get_rotation() == 0:
            assert left.get_window_extent().x1 < right.get_window_extent().x0
        else:  # parallel: as far from each other as their lines are, and more than a letter is high
            apart = right.get_window_extent().x1 - left.get_window_extent().x1
            height = left.get_fontsize() * drawn[0].dpi / 72
            assert apart * np.sin(np.radians(left.get_rotation())) > height
    assert (labels[0].get_rotation() == 0) == (n < 510)


ODD = [r"m$\bad$x", "_hidden"]


def test_names_are_drawn_as_they_are_and_all_are_in_the_legend(drawn: list[Figure], tmp_path: Path) -> None:
    """Also those that matplotlib takes for formulas, or for labels that no legend is to have."""
    found = [estimate(0.4, 0.3, 0.5)] * len(ODD)
    level = {"level": [0.1] * len(ODD), "level_label": "_chance"}
    pages = [
        plot_dots(tmp_path / "a.png", ODD, {name: [None, *found[1:]] for name in ODD}, x_label="$x"),
        plot_bars(tmp_path / "b.png", ODD, dict.fromkeys(ODD, found), **level, x_label="$x$", y_label="$y$"),
        plot_lines(
            tmp_path / "c.png", {"$a$": [Line(name, [0, 1], found[:2]) for name in ODD]}, x_label="$x$", y_label="y"
        ),
    ]
    legends = [[text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in drawn]
    assert [sorted(names) for names in legends] == [sorted(ODD), sorted([*ODD, "_chance"]), sorted(ODD)]
    assert all(name in page for page in pages for name in ODD)  # as texts of the page


def test_retention_of_models_with_odd_names(tmp_path: Path) -> None:
    measures = {key: estimate(0.4) for key in ("rendered", "decodable", "sample_variance")}
    attribute = {**measures, "verdict": "kept"}
    assert draw_bars(tmp_path / "a.png", ODD, {name: {"attributes": {"size": attribute}} for name in ODD}).is_file()
