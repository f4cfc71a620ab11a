"""The invariance probe's grids and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_core.metrics.attributes import ATTRIBUTES
from rcdm_core.probes import verdicts
from rcdm_core.report.grid import GridRow, draw_grid, strip
from rcdm_core.report.html import cell_height, number, write_page
from rcdm_core.report.page import differences

if TYPE_CHECKING:
    from rcdm_core.metrics.paired import Difference
    from rcdm_core.probes.base import Context, Result
    from rcdm_core.probes.invariance_compare import Compared
    from rcdm_core.probes.invariance_look import Block
    from rcdm_core.probes.transforms import Transform

SHOWN = 12  # pictures in the page; all are in result.json and as PNG files
OPEN = 2  # of them unfolded
_LINES = 5  # of numbers beside a row


def draw_image(
    path: Path, names: Sequence[str], rows: Sequence[Transform], blocks: Sequence[Block], record: dict[str, Any]
) -> Path:
    """Figure 25 for one picture: a row a transform, a block of columns a model, its numbers beside each row."""
    grid = []
    for r, label in enumerate(labels(rows)):
        numbers = [_lines(record["models"][name][label], rows[r - 1]) if r else [] for name in names]
        # Pillow's own font has no true minus sign
        numbers = [[line.replace("\N{MINUS SIGN}", "-") for line in lines] for lines in numbers]
        grid.append(
            GridRow(
                label=[label.replace("-", " ")],
                picture=blocks[0].pictures[r],
                blocks=[block.samples[r] for block in blocks],
                numbers=numbers,
            )
        )
    caption = f"{record['name']}: 1 follows the change, 0 ignores it; h: its change, in distances of random pairs"
    return draw_grid(path, grid, titles=names, caption=caption)


def labels(rows: Sequence[Transform]) -> list[str]:
    """The names of all rows: the identity, then the transforms."""
    return ["identity", *(row.name for row in rows)]


def _lines(entry: dict[str, Any], row: Transform) -> list[str]:
    """What stands beside a row: the responses of what the transform is meant to move, or of all; how far h moves."""
    wanted = list(row.targets) or list(ATTRIBUTES)
    lines = [f"{name} {number(entry['response'][name])}" for name in wanted if entry["response"][name] is not None]
    h = [] if entry["dh_relative"] is None else [f"h {number(entry['dh_relative'])}"]
    return [*lines[: _LINES - len(h)], *h]


def write_report(
    result: Result,
    context: Context,
    rows: Sequence[Transform],
    found: Sequence[Sequence[Block]],
    models: Sequence[Compared],
    transforms: Mapping[str, Sequence[Difference]],
) -> Path:
    """report.html: the answer, the verdicts, the pictures, every number, what differs, how it was computed.

    models: what was compared between them. transforms: model -> what was compared between transforms.
    """
    from rcdm_core.probes.invariance_compare import labelled
    from rcdm_core.report.html import data_uri

    pictures = []
    for record, blocks in list(zip(result.images, found, strict=True))[:SHOWN]:
        lines = []
        for r, label in enumerate(labels(rows)):
            cells = [
                {
                    "strip": data_uri(strip(block.samples[r])),
                    "numbers": _lines(record["models"][name][label], rows[r - 1]) if r else [],
                }
                for name, block in zip(context.names, blocks, strict=True)
            ]
            lines.append({"label": label, "picture": data_uri(blocks[0].pictures[r]), "cells": cells})
        pictures.append({"name": record["name"], "rows": lines})
    attributes = {name: {"unit": attribute.unit, "floor": attribute.floor} for name, attribute in ATTRIBUTES.items()}
    return write_page(
        result.add_file("report.html"),
        "invariance.html.j2",
        title="Invariance",
        result=result.to_json(),
        names=context.names,
        rows=rows,
        strength=context.params["strength"],
        samples=context.params["samples"],
        pictures=pictures,
        # beside the pictures and samples: the labels of the rows take one column, the numbers of each model two
        cell=cell_height(2 + len(context.names) * (context.params["samples"] + 2)),
        more=max(0, len(found) - SHOWN),
        unfolded=OPEN,
        attributes=attributes,
        rules=verdicts,
        told_apart=sum(one.beyond_chance for of in transforms.values() for one in of),
        compared=differences(labelled(models), ""),
        by_transform=differences(
            [replace(one, first=f"{name}: {one.first}") for name, of in transforms.items() for one in of], ""
        ),
    )
