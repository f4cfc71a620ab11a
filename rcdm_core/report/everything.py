"""The page of all probes: the answer, the verdicts of every model, and each probe's own page, shortened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_core.report.html import figure_uri, write_page
from rcdm_core.report.retention import CHIPS

if TYPE_CHECKING:
    from rcdm_core.probes.base import Context, Probe, Result
    from rcdm_core.probes.conclusion import Conclusion

_SECTION = re.compile(r"<!--section-->(.*)<!--/section-->", re.DOTALL)
_MORE = re.compile(r'<details class="more">.*?</details>', re.DOTALL)
_HEADING = re.compile(r"(</?h)([1-5])\b")
_LARGEST = 4 << 20  # bytes of a section, or of the figures in the place of one


def write_report(
    result: Result,
    context: Context,
    probes: Mapping[str, Probe],
    found: Mapping[str, Mapping[str, Any]],
    conclusion: Conclusion,
) -> Path:
    """report.html. probes: all that were to run; found: the result.json of those that did."""
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
        sections={name: section(context.out / name) for name in found},
        figures={name: figures(context.out / name, found[name]["files"]) for name in found},
    )


def section(out: Path) -> str | None:
    """What a probe's page says between its head and the settings, its headings two levels lower, without the rows of
    pictures that are folded in it; None where the page is not of this kind, or too large."""
    try:
        match = _SECTION.search((out / "report.html").read_text(encoding="utf-8"))
    except OSError:
        return None
    if match is None:
        return None
    more = f'<p class="note">More rows are in <a href="{out.name}/report.html">the probe\'s own page</a>.</p>'
    text = _MORE.sub(lambda _: more, match[1])
    text = _HEADING.sub(lambda heading: f"{heading[1]}{min(6, int(heading[2]) + 1)}", text)
    return text if len(text) <= _LARGEST else None


def figures(out: Path, files: list[str]) -> list[str]:
    """A probe's PNG files as data URIs, as many as a section may be large."""
    found: list[str] = []
    left = _LARGEST
    for name in files:
        path = out / name
        if path.suffix == ".png" and path.is_file() and (left := left - 4 * path.stat().st_size // 3) > 0:
            found.append(figure_uri(path))
    return found
