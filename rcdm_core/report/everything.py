"""The page of all probes: the answer, the verdicts of every model, and each probe's own page, shortened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from rcdm_core.report.html import figure_uri, write_page
from rcdm_core.report.retention import CHIPS
from rcdm_core.report.smaller import CHART_WIDTH, LEVELS, fitted, reduced, shares, weight

if TYPE_CHECKING:
    from rcdm_core.probes.base import Context, Probe, Result
    from rcdm_core.probes.conclusion import Conclusion

_SECTION = re.compile(r"<!--section-->(.*)<!--/section-->", re.DOTALL)
_MORE = re.compile(r'<details class="more">.*?</details>', re.DOTALL)
_HEADING = re.compile(r"(</?h)([1-5])\b")
BUDGET = 12 << 20
"""Bytes of the page: browsers on phones open it, and as an attachment (4/3 of it) it stays below the usual 20 MB."""


def write_report(
    result: Result,
    context: Context,
    probes: Mapping[str, Probe],
    found: Mapping[str, Mapping[str, Any]],
    conclusion: Conclusion,
) -> Path:
    """report.html. probes: all that were to run; found: the result.json of those that did."""
    sections = {name: section(context.out / name) for name in found}
    words = sum(len(text) - weight(text) for text in sections.values() if text)
    weights = [
        sum(_sizes(context.out / name, found[name]["files"]).values()) if text is None else weight(text)
        for name, text in sections.items()
    ]
    rooms = dict(zip(sections, shares(weights, BUDGET - words), strict=True))
    figures = {
        name: figures_of(context.out / name, found[name]["files"], rooms[name])
        for name, text in sections.items()
        if text is None
    }
    return write_page(
        result.add_file("report.html"),
        "everything.html.j2",
        title="What the representations keep",
        result=result.to_json(),
        names=context.names,
        table=conclusion.table,
        chips=CHIPS,
        probes=probes,
        found=found,
        entries={name: result.aggregates["probes"][name] for name in probes},
        sections={name: text and fitted(text, rooms[name], f"{name}/report.html") for name, text in sections.items()},
        figures=figures,
    )


def section(out: Path) -> str | None:
    """What a probe's page says between its head and the settings, its headings two levels lower, without the rows of
    pictures that are folded in it; None where the page is not of this kind."""
    try:
        match = _SECTION.search((out / "report.html").read_text(encoding="utf-8"))
    except OSError:
        return None
    if match is None:
        return None
    more = f'<p class="note">More rows are in <a href="{out.name}/report.html">the probe\'s own page</a>.</p>'
    text = _MORE.sub(lambda _: more, match[1])
    text = _HEADING.sub(lambda heading: f"{heading[1]}{min(6, int(heading[2]) + 1)}", text)
    return text


def figures_of(out: Path, files: list[str], room: int) -> tuple[list[str], list[str]]:
    """A probe's PNG files as data URIs of at most `room` bytes, compressed and reduced where it takes that, and the
    names of those that do not fit."""
    sizes = _sizes(out, files)
    if sum(sizes.values()) <= room:
        return [figure_uri(out / name) for name in sizes], []
    shown: list[str] = []
    left_out: list[str] = []
    for name in sizes:
        try:
            with Image.open(out / name) as image:
                uri = reduced(image.convert("RGB"), CHART_WIDTH, None, LEVELS[-1][1])
        except (OSError, Image.DecompressionBombError):
            uri = None
        if uri is None or len(uri) > room:
            left_out.append(name)
        else:
            room -= len(uri)
            shown.append(uri)
    return shown, left_out


def _sizes(out: Path, files: list[str]) -> dict[str, int]:
    """The PNG files that are there, with their bytes in a page."""
    there = [name for name in files if name.endswith(".png") and (out / name).is_file()]
    return {name: 4 * -(-(out / name).stat().st_size // 3) for name in there}
