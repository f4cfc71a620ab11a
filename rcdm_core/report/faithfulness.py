"""The faithfulness probe's grid and page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.report.grid import GridRow, draw_grid, strip
from rcdm_core.report.html import cell_height, data_uri, number, write_page
from rcdm_core.report.page import differences
from rcdm_core.report.plot import plot_bars

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result

MEASURES = {"mean_rank": ("mean rank", 1), "mrr": ("mean reciprocal rank", 3), "top1": ("first", 3)}


def draw_rows(
    path: Path, names: Sequence[str], rows: Sequence[dict[str, np.ndarray]], records: Sequence[dict[str, Any]]
) -> Path:
    """The first conditioning pictures, each beside its samples of every model."""
    grid = [
        GridRow(
            label=[f"{i + 1}"],
            picture=rows[0]["pictures"][i],
            blocks=[row["samples"][i] for row in rows],
            numbers=[[rank_text(record, name)] for name in names],
        )
        for i, record in enumerate(records)
    ]
    return draw_grid(
        path, grid, titles=names, caption="beside each row: the picture's rank, seen from its first sample"
    )


def rank_text(record: dict[str, Any], name: str) -> str:
    """The rank of the first sample among the originals."""
    return f"rank {float(record['ranks'][name]['originals'][0]):g}"


def write_report(
    result: Result,
    context: Context,
    rows: Sequence[dict[str, np.ndarray]],
    records: Sequence[dict[str, Any]],
    found: Sequence[Difference],
    others: Sequence[np.ndarray],
) -> Path:
    """others: of each shown picture the samples of another system [n, 3, S, S], n may be 0; empty without one.

    report.html: the answer, table 1b, models against each other, ranks, samples, how it was computed.
    """
    originals = {name: result.aggregates[name]["galleries"]["originals"] for name in context.names}
    first = originals[context.names[0]]
    series = {name: [one["share"] for one in entry["histogram"]] for name, entry in originals.items()}
    for name, entry in originals.items():
        if "other" in entry:
            other = result.aggregates[name]["other"]["name"]
            series[f"{other} in h of {name}"] = [one["share"] for one in entry["other_histogram"]]
    svg = plot_bars(
        result.add_file("ranks.png"),
        [one["ranks"] for one in first["histogram"]],
        series,
        level=[one["chance"] for one in first["histogram"]],
        level_label="chance",
        x_label="rank of the own picture among the originals",
        y_label="share of samples",
    )
    pictures = [
        {
            "name": record["name"],
            "picture": data_uri(rows[0]["pictures"][i]),
            "cells": [
                {"strip": data_uri(strip(row["samples"][i])), "rank": rank_text(record, name)}
                for name, row in zip(context.names, rows, strict=True)
            ],
            "other": data_uri(strip(others[i])) if others and len(others[i]) else None,
        }
        for i, record in enumerate(records)
    ]
    return write_page(
        result.add_file("report.html"),
        "faithfulness.html.j2",
        title="Faithfulness",
        result=result.to_json(),
        names=context.names,
        measures=MEASURES,
        compared=differences(found, "reciprocal rank among the originals"),
        pictures=pictures,
        given=bool(context.images),
        other=result.aggregates[context.names[0]]["other"]["name"] if others else None,
        cell=cell_height(1 + sum(row["samples"].shape[1] + 1 for row in rows) if pictures else 1),
        samples=context.params["samples"],
        histogram=svg,
        number=number,
    )
