"""Plots whose labels can be read and whose lines are all there."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from rcdm_core.metrics.ranks import histogram
from rcdm_core.report import plot
from rcdm_core.report.plot import Line, plot_bars, plot_lines


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


def estimate(value: float, width: float | None = 0.05) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None} | (
        {} if width is None else {"low": value - width, "high": value + width}
    )


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


def test_values_below_0_are_in_sight(drawn: list[Figure], tmp_path: Path) -> None:
    above = [estimate(0.2, None), estimate(0.4, None)]
    below = [estimate(-0.3), estimate(0.1)]
    for panels, bottom in (({"a": above}, 0.0), ({"a": above, "b": below}, -0.35)):
        lines = {title: [Line("rendered", (1, 2), values)] for title, values in panels.items()}
        plot_lines(tmp_path / "x.png", lines, x_label="x", y_label="y")
        limits = [axis.get_ylim()[0] for axis in drawn[-1].axes]
        assert all(limit <= bottom for limit in limits) and (bottom < 0 or limits == [0.0])
