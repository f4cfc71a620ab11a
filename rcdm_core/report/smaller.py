"""The pictures of a page made smaller until they fit: never its words, tables or charts of numbers."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from itertools import accumulate

from PIL import Image

LEVELS = ((None, 85), (128, 80), (96, 75), (64, 60))
"""(height in pixels at most, quality of WebP), in the order in which they are tried; pages show pictures at 96."""
CHART_WIDTH = 1240  # pixels: what a chart, whose words have to be read, is not made narrower than

_PICTURE = re.compile(r'<img[^>]*?src="data:image/[a-z]+;base64,([^"]+)"[^>]*>')
_TABLE = re.compile(r'<table class="pictures.*?</table>', re.DOTALL)
_ROW = re.compile(r"<tr>(?:(?!</tr>).)*?<img.*?</tr>", re.DOTALL)
_BEFORE = re.compile(r'(?=<div class="scroll"><table class="pictures)')


def weight(text: str) -> int:
    """Bytes that the pictures of a piece of HTML take in it."""
    return sum(len(match[1]) for match in _PICTURE.finditer(text))


def shares(weights: Sequence[int], room: int) -> list[int]:
    """How much of `room` each one gets: what it needs, or an equal part of what those that need less leave."""
    given = [0] * len(weights)
    order = sorted(range(len(weights)), key=lambda i: weights[i])
    for rank, i in enumerate(order):
        given[i] = min(weights[i], max(room, 0) // (len(order) - rank))
        room -= given[i]
    return given


def fitted(text: str, room: int, whole: str) -> str:
    """HTML whose pictures take at most `room` bytes, with a sentence before the first of them on what was done.

    Pictures are first written as WebP, then reduced (`LEVELS`); where that is not enough, every table of pictures
    keeps its first rows, as many as fit. whole: the file that has them as they were.
    """
    if weight(text) <= room:
        return text
    done = ""
    smaller = text
    for height, quality in LEVELS:
        smaller = _PICTURE.sub(_shrink(height, quality), text)
        size = f"at most {height} pixels high and " if height else ""
        done = f"To keep this page small, pictures are {size}compressed (WebP, quality {quality})"
        if weight(smaller) <= room:
            break
    else:
        smaller, gone, rows = _first_rows(smaller, room)
        if gone:
            done += f", and {gone} of {rows} rows of pictures are left out"
    note = f'<p class="note">{done}: <a href="{whole}">{whole}</a> beside this page has them as they were.</p>\n'
    return _BEFORE.sub(lambda _: note, smaller, count=1) if _BEFORE.search(smaller) else note + smaller


def reduced(image: Image.Image, width: int, height: int | None, quality: int) -> str:
    """A picture as a WebP data URI, at most so large in pixels; its proportions stay."""
    scale = min(1.0, width / image.width, (height or image.height) / image.height)
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _shrink(height: int | None, quality: int) -> Callable[[re.Match[str]], str]:
    """What replaces an image's tag; one that would grow, and a colour scale, stays."""

    def shrink(match: re.Match[str]) -> str:
        tag, payload = match[0], match[1]
        if 'class="bar"' in tag:
            return tag
        image = Image.open(io.BytesIO(base64.b64decode(payload))).convert("RGB")
        uri = reduced(image, *((CHART_WIDTH, None) if 'class="chart"' in tag else (image.width, height)), quality)
        if len(uri) >= len(payload):
            return tag
        start, end = tag.index("data:image/"), match.end(1) - match.start()
        return tag[:start] + uri + tag[end:]

    return shrink


def _first_rows(text: str, room: int) -> tuple[str, int, int]:
    """The text with the first rows of each table of pictures, as many as fit; how many rows went, and there were."""
    tables = [_ROW.findall(table) for table in _TABLE.findall(text)]
    longest = max(map(len, tables), default=0)
    others = weight(text) - sum(weight(row) for rows in tables for row in rows)
    by_place = [sum(weight(rows[k]) for rows in tables if k < len(rows)) for k in range(longest)]
    kept = sum(others + total <= room for total in accumulate(by_place))

    def cut(table: re.Match[str]) -> str:
        places = iter(range(longest))
        return _ROW.sub(lambda row: row[0] if next(places) < kept else "", table[0])

    gone = sum(max(0, len(rows) - kept) for rows in tables)
    return _TABLE.sub(cut, text), gone, sum(map(len, tables))
