"""Pages of the widest probes, and the one of all, on a phone, at a desk, in the dark and on paper."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import in_frames, needs_browser, printed
from exact_rcdm import ExactRCDM

import rcdm_core
from rcdm_core.data.shapes import Shapes

WIDE = ("invariance", "manipulation", "adversarial")
SMALL = [
    *("invariance.pool=30", "manipulation.pool=30", "manipulation.neighbours=8", "adversarial.attacked=4"),
    *("adversarial.rows=1", "adversarial.epsilons=0,0.1", "adversarial.fit=20", "adversarial.test=10"),
]
PHONE, DESK, PAPER = 390, 1300, 1032  # pixels; A4 landscape without its margins is 273 mm
COLOURS = """
const style = getComputedStyle(document.body);
const light = (text) => {
  const parts = text.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
  const [r, g, b] = parts.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
found.paper = light(style.backgroundColor);
found.ink = contrast(style.color, style.backgroundColor);
found.worst = 21;
for (const one of document.querySelectorAll(".chip, .note, .answer p, td, th, small, figcaption")) {
  if (!one.textContent.trim()) continue;
  let behind = one, back = "rgba(0, 0, 0, 0)";
  for (; behind && /, 0\\)$/.test(back); behind = behind.parentElement) back = getComputedStyle(behind).backgroundColor;
  found.worst = Math.min(found.worst, contrast(getComputedStyle(one).color, back));
}
"""
WIDTHS = """
const frame = document.documentElement;
found.width = frame.clientWidth;
found.page = frame.scrollWidth;
const outside = (one) => !one.closest(".scroll, dialog") && one.getBoundingClientRect().right > frame.clientWidth + 1;
found.outside = [...document.querySelectorAll("main *")].filter(outside).map((one) => one.outerHTML.slice(0, 80));
found.pictures = document.querySelectorAll("main img").length;
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("all")
    models = [ExactRCDM("shapes-all"), ExactRCDM("shapes-no-position"), ExactRCDM("shapes-no-color")]
    arguments = {"only": ",".join(WIDE), "count": 3, "samples": 3, "set": SMALL}
    result = rcdm_core.run_probe("all", models=models, data=Shapes(90, seed=7), out=out, **arguments)
    assert {name: entry["reason"] for name, entry in result.aggregates["probes"].items()} == dict.fromkeys(WIDE)
    return [out / "report.html", *(out / name / "report.html" for name in WIDE)]


@needs_browser
def test_wide_pages_fit_a_phone_and_a_desk(pages: list[Path]) -> None:
    frames = [(page, width) for width in (PHONE, DESK) for page in pages]
    for (page, width), found in zip(frames, in_frames(frames, WIDTHS), strict=True):
        assert found["width"] in range(width - 20, width + 1) and found["pictures"] > 0
        assert found["page"] <= found["width"] and not found["outside"], (page, width)


@needs_browser
@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)])  # of Blink: dark, light
def test_words_can_be_read_in_the_dark_and_in_the_light(pages: list[Path], scheme: int, dark: bool) -> None:
    for found in in_frames(
        [(page, DESK) for page in pages], COLOURS, f"--blink-settings=preferredColorScheme={scheme}"
    ):
        assert (found["paper"] < 0.05) if dark else (found["paper"] > 0.8)
        assert found["ink"] > 10 and found["worst"] > 4.5  # WCAG's AA


@needs_browser
def test_paper_has_all_of_it(pages: list[Path]) -> None:
    assert printed(pages[0]) > 3
    papers = []
    for k, page in enumerate(pages):  # as on paper, where nothing scrolls
        paper = page.with_name(f"paper-{k}.html")
        paper.write_text(page.read_text().replace("@media print", "@media all"))
        papers.append((paper, PAPER))
    for (paper, _), found in zip(papers, in_frames(papers, WIDTHS), strict=True):
        assert found["page"] <= PAPER, paper
