"""Grids of pictures with text in the margins, as in the paper's figures, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rcdm_core.atomic import replacing

SHOWN_ROWS = 24  # of a probe's rows that its page shows; all are in result.json, and as PNG files
CELL = 96  # pixels that a small picture is enlarged to, about
GAP, BLOCK_GAP, MARGIN = 2, 14, 16
_TEXT, _SMALL = 14, 12
_INK, _PALE, _PAPER, _FRAME = (20, 24, 31), (92, 99, 112), (255, 255, 255), (200, 30, 30)
_CAPTION_HEIGHT = 16

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class GridRow:
    """label: lines, the first one darker. picture: [3, S, S], or None. blocks: [n, 3, S, S] for each model.

    numbers: lines of text beside each block. captions: a text under each picture of each block, none where empty.
    framed: for each block, the places of pictures that get a red frame.
    """

    label: Sequence[str]
    picture: np.ndarray | None
    blocks: Sequence[np.ndarray]
    numbers: Sequence[Sequence[str]]
    captions: Sequence[Sequence[str]] = ()
    framed: Sequence[Sequence[int]] = ()


class ShownRows(list[GridRow]):
    """The rows of a page's figure: about as many as it shows are held, in whole pieces; all are counted in `total`."""

    total = 0

    def take(self, fresh: Sequence[GridRow]) -> None:
        """The rows that come next."""
        self.total += len(fresh)
        if len(self) < SHOWN_ROWS:
            self += fresh


@dataclass(frozen=True)
class Legend:
    """A colour scale: its bar [3, h, w], and what is written at its left and right."""

    bar: np.ndarray
    left: str
    right: str


def to_pil(picture: np.ndarray) -> Image.Image:
    """[3, H, W] in [0, 1] to a PIL RGB image."""
    return Image.fromarray(np.round(np.clip(picture, 0, 1).transpose(1, 2, 0) * 255).astype(np.uint8))


def strip(pictures: np.ndarray, gap: int = 1) -> np.ndarray:
    """Pictures [n, 3, S, S] side by side: [3, S, n * S + (n - 1) * gap], white between them."""
    n, _, height, width = pictures.shape
    row = np.ones((3, height, n * width + (n - 1) * gap), np.float32)
    for i, picture in enumerate(pictures):
        row[:, :, i * (width + gap) : i * (width + gap) + width] = picture
    return row


def cell_side(sizes: Sequence[int]) -> int:
    """The side at which pictures of these sizes are drawn: the largest one times a whole number, near CELL."""
    largest = max(sizes)
    return largest * max(1, round(CELL / largest))


def draw_grid(
    path: Path,
    rows: Sequence[GridRow],
    *,
    titles: Sequence[str],
    picture_title: str = "picture",
    caption: str = "",
    legend: Legend | None = None,
) -> Path:
    """Write a PNG: for every row its label, its picture, and a block of samples and numbers for every model.

    titles: one a block. caption: a line below. Raises RCDMError when the file cannot be written.
    """
    text, small = ImageFont.load_default(_TEXT), ImageFont.load_default(_SMALL)
    cell = cell_side([picture.shape[-1] for row in rows for picture in _pictures(row)])
    label_width = max(_width(line, text) for row in rows for line in row.label) + 12
    picture_width = cell + BLOCK_GAP if any(row.picture is not None for row in rows) else 0
    number_widths = [
        max([0, *(_width(line, small) + 14 for row in rows for line in row.numbers[b])]) for b in range(len(titles))
    ]
    block_widths = [max(len(row.blocks[b]) for row in rows) * (cell + GAP) - GAP for b in range(len(titles))]
    block_widths = [max(w, _width(t, text) - n) for w, t, n in zip(block_widths, titles, number_widths, strict=True)]
    # a title may be wider than its block of samples, and the numbers then start behind it
    lefts, x = [], MARGIN + label_width + picture_width
    for width, numbers in zip(block_widths, number_widths, strict=True):
        lefts.append(x)
        x += width + numbers + BLOCK_GAP
    top = MARGIN + 26
    heights = [cell + GAP + (_CAPTION_HEIGHT if any(map(any, row.captions)) else 0) for row in rows]
    width = max(x - BLOCK_GAP + MARGIN, 2 * MARGIN + _width(caption, small))
    height = top + sum(heights) - GAP + MARGIN + (24 if legend else 0) + (24 if caption else 0)
    canvas = Image.new("RGB", (int(width), int(height)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    if picture_width:
        draw.text((MARGIN + label_width, MARGIN), picture_title, font=text, fill=_PALE)
    for left, title in zip(lefts, titles, strict=True):
        draw.text((left, MARGIN), title, font=text, fill=_INK)
    y = top
    for row, row_height in zip(rows, heights, strict=True):
        _lines(draw, (MARGIN, y + cell / 2), row.label, text, first=_INK, rest=_PALE)
        if row.picture is not None:
            _paste(canvas, row.picture, (MARGIN + label_width, y), cell)
        for b, (left, block, lines) in enumerate(zip(lefts, row.blocks, row.numbers, strict=True)):
            for k, picture in enumerate(block):
                corner = (left + k * (cell + GAP), y)
                _paste(canvas, picture, corner, cell)
                if row.captions and row.captions[b]:
                    draw.text((corner[0], y + cell + 1), row.captions[b][k], font=small, fill=_PALE)
                if row.framed and k in row.framed[b]:
                    right, bottom = corner[0] + cell - 1, y + cell - 1
                    draw.rectangle((*corner, right, bottom), outline=_FRAME, width=3)
            _lines(draw, (left + len(block) * (cell + GAP) + 10, y + cell / 2), lines, small, first=_INK, rest=_PALE)
        y += row_height
    if legend is not None:
        x, y = MARGIN, height - MARGIN - 14 - (24 if caption else 0)
        draw.text((x, y), legend.left, font=small, fill=_PALE)
        x += _width(legend.left, small) + 8
        canvas.paste(to_pil(legend.bar), (x, y + 2))
        draw.text((x + legend.bar.shape[2] + 8, y), legend.right, font=small, fill=_PALE)
    if caption:
        draw.text((MARGIN, height - MARGIN - 14), caption, font=small, fill=_PALE)
    with replacing(path) as temporary:
        canvas.save(temporary, format="PNG", compress_level=2)
    return path


def _pictures(row: GridRow) -> list[np.ndarray]:
    return [*([] if row.picture is None else [row.picture]), *(block[0] for block in row.blocks if len(block))]


def _paste(canvas: Image.Image, picture: np.ndarray, corner: tuple[float, float], cell: int) -> None:
    image = to_pil(picture)
    if image.width != cell:
        image = image.resize((cell, cell), Image.Resampling.BICUBIC)
    canvas.paste(image, (int(corner[0]), int(corner[1])))


def _lines(
    draw: ImageDraw.ImageDraw,
    left_middle: tuple[float, float],
    lines: Sequence[str],
    font: Font,
    *,
    first: tuple[int, int, int],
    rest: tuple[int, int, int],
) -> None:
    """Lines of text, centred vertically on a point."""
    step = 18
    y = left_middle[1] - step * len(lines) / 2 + 1
    for i, line in enumerate(lines):
        draw.text((left_middle[0], y + i * step), line, font=font, fill=rest if i else first)


def _width(line: str, font: Font) -> int:
    return int(np.ceil(font.getlength(line)))
