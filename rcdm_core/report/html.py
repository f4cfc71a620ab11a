"""A page in one file: pictures, style and charts are inside it, and it asks the network for nothing."""

from __future__ import annotations

import base64
import functools
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.atomic import replace_text
from rcdm_core.report.grid import GridRow, to_pil

if TYPE_CHECKING:
    import jinja2

_SMALLEST_CELL, _LARGEST_CELL, _PAGE_WIDTH = 40, 96, 960  # pixels
_LOSSLESS_SIDE = 64  # pixels: pictures up to this height are embedded as PNG, larger ones as JPEG

# word for a verdict, and a sign that does not need its colour
VERDICTS = {
    "follows": ("follows", "●"),
    "partly": ("in part", "◐"),
    "ignores": ("ignores", "○"),
    "generator": ("generator is the limit", "△"),
    "cannot tell": ("cannot tell", "?"),
    "kept": ("kept", "●"),
    "nonlinear": ("kept, not linearly", "◑"),
    "dropped": ("dropped", "○"),
    "not moved": ("not moved", "–"),
    "not measurable": ("not measurable", "–"),
}


def data_uri(picture: np.ndarray) -> str:
    """A picture [3, H, W] in [0, 1] as a data URI: PNG up to 64 pixels high, JPEG of high quality above."""
    buffer = io.BytesIO()
    small = picture.shape[1] <= _LOSSLESS_SIDE
    if small:
        to_pil(picture).save(buffer, format="PNG", optimize=True)
    else:
        to_pil(picture).save(buffer, format="JPEG", quality=90, subsampling=0)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def cell_pictures(row: GridRow, block: int) -> list[dict[str, Any]]:
    """The pictures of a block for the page: src, caption, framed."""
    captions = row.captions[block] if row.captions else ()
    framed = row.framed[block] if row.framed else ()
    return [
        {
            "src": data_uri(picture),
            "caption": captions[k] if k < len(captions) else "",
            "framed": k in framed,
        }
        for k, picture in enumerate(row.blocks[block])
    ]


def figure_uri(path: Path) -> str:
    """A PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def cell_height(columns: int) -> int:
    """Pixels at which pictures are shown, this many beside each other: 96, or less so that they fit on a page."""
    return max(_SMALLEST_CELL, min(_LARGEST_CELL, _PAGE_WIDTH // columns))


def number(value: float | None, digits: int = 2) -> str:
    """A number for readers: a true minus sign, and a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def interval(estimate: Mapping[str, Any] | None, digits: int = 2) -> str:
    """An estimate's interval as [low, high]; empty where there is none."""
    if not estimate or estimate["low"] is None or estimate["high"] is None:
        return ""
    return f"[{number(estimate['low'], digits)}, {number(estimate['high'], digits)}]"


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Fill a template of this package (see `templates/`) and write it. Raises RCDMError when it cannot be written."""
    html = _environment().get_template(template).render(**values)
    # every picture can be reached by keyboard and enlarged, in any template: see page.js, and page.css without it
    replace_text(path, re.sub(r"<img (?=src=)", '<img tabindex="0" ', html))
    return path


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    from rcdm_core.probes.reference import UNIT_PICTURES

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rcdm_core.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=data_uri, number=number, interval=interval, cell_pictures=cell_pictures)
    environment.globals.update(verdicts=VERDICTS, unit_pictures=UNIT_PICTURES)
    return environment
