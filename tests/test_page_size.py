"""A page with many large pictures: they get smaller, and nothing that is read is lost."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcdm_core.probes import PROBES
from rcdm_core.probes.conclusion import conclude
from rcdm_core.report import everything
from rcdm_core.report.html import data_uri
from rcdm_core.report.smaller import fitted, shares, weight

LIMITS = "<h2>What this cannot tell</h2><ul><li>much</li></ul>"


def pictures_of(text: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(code))) for code in re.findall(r"base64,([^\"]+)", text)]


def page(rows: int, side: int, tables: int = 2) -> str:
    """Tables of pictures that hardly compress, as a probe's page has them, with words and numbers around."""
    noise = np.random.default_rng(0)
    out = "<h1>Question</h1><table><tbody><tr><th>number</th><td>0.50</td></tr></tbody></table>"
    for _ in range(tables):
        lines = "".join(
            f'<tr><th>row {k}</th><td><img tabindex="0" src="{data_uri(noise.random((3, side, 2 * side)))}" alt="s">'
            "</td><td><small>h 0.1</small></td></tr>"
            for k in range(rows)
        )
        out += f'<figure><div class="scroll"><table class="pictures"><tbody>{lines}</tbody></table></div></figure>'
    return out + LIMITS


def test_shares_leave_what_the_small_ones_do_not_need_to_the_large() -> None:
    assert shares([10, 100, 1000], 3000) == [10, 100, 1000]
    assert shares([1000, 10, 500], 510) == [250, 10, 250]
    assert shares([5, 5], -3) == [0, 0] and shares([], 9) == []


def test_pictures_shrink_before_rows_go_and_words_never_do() -> None:
    text = page(rows=3, side=200)
    whole = weight(text)
    words = re.sub(r"base64,[^\"]+", "", text)
    assert fitted(text, whole, "x/report.html") == text
    sizes = []
    for room in (whole // 2, whole // 6, whole // 16):
        smaller = fitted(text, room, "x/report.html")
        found = pictures_of(smaller)
        assert weight(smaller) <= room and len(found) == 6
        assert all(one.format == "WEBP" and one.width == 2 * one.height for one in found)
        sizes.append(found[0].height)
        note = re.search(r'<p class="note">To keep this page small(.*?)</p>', smaller)
        assert note is not None and 'href="x/report.html"' in note[1] and "left out" not in note[1]
        without = re.sub(r"base64,[^\"]+", "", smaller.replace(note[0] + "\n", "")).replace("image/webp", "image/jpeg")
        assert without == words
    assert sizes == sorted(sizes, reverse=True) and 200 >= sizes[0] > sizes[-1] >= 64

    room = weight(fitted(text, whole // 60, "x/report.html")) // 2  # below what the smallest pictures take
    smaller = fitted(text, room, "x/report.html")
    assert weight(smaller) <= room and LIMITS in smaller and "0.50" in smaller
    kept = smaller.count("<th>row")
    assert 0 < kept < 6 and kept % 2 == 0 and f"{6 - kept} of 6 rows of pictures are left out" in smaller


def test_charts_stay_as_wide_as_their_words_need_and_scales_stay() -> None:
    tag = '<img tabindex="0" src="{}" alt="bars" class="{}">'
    chart = data_uri(np.random.default_rng(1).random((3, 300, 2000)))
    smaller = fitted(tag.format(chart, "chart") + tag.format(data_uri(np.ones((3, 10, 160))), "bar"), 1, "x")
    big, bar = pictures_of(smaller)
    assert (big.format, big.width) == ("WEBP", 1240) and (bar.format, bar.size) == ("PNG", (160, 10))


@pytest.mark.parametrize("budget", [400_000, everything.BUDGET])
def test_a_large_probe_keeps_its_tables_method_limits_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr(everything, "BUDGET", budget)
    rest = "<h2>How it was computed</h2><h2>How to repeat this</h2><pre>rcdm probe x</pre>"
    found: dict[str, dict[str, Any]] = {}
    for name, rows in (("invariance", 10), ("variance", 1)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "report.html").write_text(f"<!--section-->{page(rows, 200)}{rest}<!--/section-->")
        found[name] = {"answer": [], "notes": [], "files": ["report.html"], "command": "", "aggregates": {}}
    probes = {name: PROBES[name] for name in found}
    entries = {name: {"status": "done", "reason": None, "seconds": 1.0} for name in found}
    result: Any = SimpleNamespace(
        add_file=lambda name: tmp_path / name,
        aggregates={"probes": entries},
        to_json=lambda: {
            **{"answer": [], "notes": [], "command": "", "models": [], "data": None, "started": "", "versions": {}},
            **{"arguments": dict.fromkeys(("sampler", "sampling_steps", "seed", "precision")), "reproduces": ""},
        },
    )
    context: Any = SimpleNamespace(out=tmp_path, names=["a"])
    text = everything.write_report(result, context, probes, found, conclude(["a"], {}, {})).read_text()
    for words in ("Question", "0.50", "How it was computed", "What this cannot tell", "rcdm probe x"):
        assert text.count(words) == 2
    small = budget == 400_000
    assert len(text) < budget + 60_000  # the page's style and script
    assert ("To keep this page small" in text) == small == ('href="invariance/report.html">invariance/' in text)
    assert json.dumps(text).count("<img") >= 6
