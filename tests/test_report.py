"""Pages need nothing but themselves, say what they were given, and never let a name become markup."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_rcdm import FakeRCDM
from PIL import Image

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.report.grid import GridRow, ShownRows, cell_side, draw_grid, strip
from rcdm_core.report.html import data_uri, interval, number
from rcdm_core.report.page import Figure


class Reader(HTMLParser):
    """Collects tags that are open, links to elsewhere, and text."""

    VOID = ("meta", "img", "br", "line", "circle", "link", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report")
    models = [FakeRCDM("<script>alert(1)</script>"), FakeRCDM("plain", forgets=["position"])]
    rcdm_core.run_probe(
        "invariance",
        models=models,
        data=Shapes(80, seed=1),
        out=out,
        transform="vertical-shift,rotation",
        count=3,
        samples=2,
    )
    return (out / "report.html").read_text()


def test_the_page_is_well_formed_and_needs_no_other_file(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    assert reader.links and all(link.startswith("data:image/") for link in reader.links)
    assert "url(" not in page and "@import" not in page and "<script src" not in page
    assert reader.tags.count("script") == 1 and "default-src 'none'" in page  # which the browser holds to


def test_names_are_escaped(page: str) -> None:
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


def test_the_answer_comes_first_and_the_command_is_there(page: str) -> None:
    text = Reader(page).text
    answer, table, how, limits, repeat = (
        text.index(words)
        for words in (
            "plain does not keep vertical position",
            "Verdicts",
            "How it was computed",
            "What this cannot tell",
            "How to repeat",
        )
    )
    assert answer < table < how < limits < repeat
    assert "rcdm probe invariance" in text and "--transform vertical-shift,rotation" in text and "--samples 2" in text


def test_pictures_survive_embedding() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 40)).astype(np.uint8)
    uri = data_uri(pixels / 255)
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).transpose(2, 0, 1)
    assert np.array_equal(back, pixels)
    assert data_uri(np.zeros((3, 128, 128))).startswith("data:image/jpeg")


def test_numbers_for_readers() -> None:
    assert [number(0.126), number(-0.126), number(-0.001), number(None), number(float("nan"))] == [
        "0.13",
        "−0.13",
        "0.00",
        "–",
        "–",
    ]
    assert interval({"low": -0.1, "high": 0.25}) == "[−0.10, 0.25]" and interval({"low": None, "high": None}) == ""


def test_grid(tmp_path: Path) -> None:
    assert cell_side([32]) == 96 and cell_side([64, 32]) == 128 and cell_side([256]) == 256
    red, blue = np.zeros((2, 3, 32, 32))
    red[0], blue[2] = 1, 1
    rows = [GridRow([f"row {i}"], red, [np.stack([blue] * 3)], [["0.50"]]) for i in range(2)]
    with Image.open(draw_grid(tmp_path / "grid.png", rows, titles=["model"], caption="below")) as grid:
        pixels = np.asarray(grid.convert("RGB")).reshape(-1, 3)
    assert (pixels == (255, 0, 0)).all(1).sum() == 2 * 96**2 and (pixels == (0, 0, 255)).all(1).sum() == 6 * 96**2
    with pytest.raises(RCDMError, match="nowhere"):
        draw_grid(tmp_path / "nowhere" / "grid.png", rows, titles=["model"])


def test_rows_of_a_page_are_counted_where_they_are_not_held() -> None:
    row = GridRow(["a"], None, [np.zeros((1, 3, 8, 8), np.float32)], [[]])
    rows = ShownRows()
    for _ in range(16):
        rows.take([row] * 7)
    assert (len(rows), rows.total) == (28, 112)  # whole pieces
    assert Figure(rows, ["x"]).total == 112 and Figure([row], ["x"]).total == 1


def test_strip() -> None:
    pictures = np.random.default_rng(1).random((3, 3, 5, 5)).astype(np.float32)
    row = strip(pictures)
    assert row.shape == (3, 5, 17) and np.array_equal(row[:, :, 6:11], pictures[1]) and (row[:, :, 5] == 1).all()
