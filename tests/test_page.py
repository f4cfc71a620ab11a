"""What the script of every page does, in a browser; without the script a page reads the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import in_browser, needs_browser

from rcdm_core.report.html import write_page

TEMPLATE = """{% extends "base.html.j2" %}{% block body %}
<div class="scroll"><table id="numbers">
<thead><tr><th>name</th><th>value <span class="scale"><i>0</i></span></th><th></th></tr></thead><tbody>
{% for name, value in rows %}<tr><th>{{ name }}</th><td>{{ value }}</td><td></td></tr>{% endfor %}
</tbody></table></div>
<table class="pictures"><tbody>{% for row in pictures %}<tr><th>row {{ loop.index }}</th>
{% for picture in row %}<td><img src="{{ picture | data_uri }}" alt="sample"></td>{% endfor %}</tr>{% endfor %}
</tbody></table><details id="more"><summary>more</summary>more</details>{% endblock %}"""
RESULT: dict[str, Any] = {
    "answer": ["The answer."],
    "notes": [],
    "command": "rcdm probe x",
    "models": [],
    "arguments": {"sampler": "dpm++", "sampling_steps": 1, "seed": 0, "precision": "float32"},
    "data": None,
    "started": "now",
    "versions": {},
    "reproduces": "figure 1",
}
ROWS = [("b 10", "0.50 [0.40, 0.60]"), ("b 9", "−2.00"), ("a", "–"), ("c", "cannot tell"), ("d", "10.0"), ("e", "9%")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import jinja2

    from rcdm_core.report import html as module

    pictures = np.random.default_rng(0).random((2, 3, 3, 16, 16))
    environment = module._environment()
    with pytest.MonkeyPatch.context() as patch:
        loaders = [jinja2.DictLoader({"x": TEMPLATE}), environment.loader]
        patch.setattr(environment, "loader", jinja2.ChoiceLoader(loaders))
        path = tmp_path_factory.mktemp("page") / "report.html"
        write_page(path, "x", title="x", names=["a"], result=RESULT, rows=ROWS, pictures=pictures)
    return path


@needs_browser
def test_tables_sort_and_pictures_enlarge_by_click_and_by_keyboard(page: Path) -> None:
    found = in_browser(
        page,
        """
        const table = document.getElementById("numbers"), heads = [...table.tHead.rows[0].cells];
        const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
        const buttons = [...table.querySelectorAll("th button")];
        found.buttons = buttons.length;
        found.orders = [];
        for (let k = 0; k < 3; k++) {
          buttons[1].click();
          found.orders.push([heads[1].getAttribute("aria-sort"), order()]);
        }
        buttons[1].click(); buttons[0].click();
        found.names = [heads[1].getAttribute("aria-sort"), heads[0].getAttribute("aria-sort"), order()];
        found.scale = heads[1].lastElementChild.className;

        const pictures = [...document.querySelectorAll("table.pictures img")];
        const dialog = document.querySelector("dialog"), shown = () => dialog.open && dialog.querySelector("img").src;
        const press = (key) =>
          document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        found.stops = pictures.map((picture) => picture.tabIndex);
        pictures[0].focus(); press("ArrowRight"); press("ArrowDown");
        found.focus = pictures.indexOf(document.activeElement);
        press("Enter");
        found.enlarged = [pictures.findIndex((one) => one.src === shown()), dialog.querySelector("p").textContent];
        found.width = parseInt(dialog.querySelector("img").style.width) > 200;
        press("ArrowLeft");
        found.beside = pictures.findIndex((one) => one.src === shown());
        dialog.close(); pictures[5].click();
        found.clicked = pictures.findIndex((one) => one.src === shown());
        dialog.click();
        found.closed = !dialog.open;
        const more = document.getElementById("more");
        dispatchEvent(new Event("beforeprint")); found.print = more.open;
        dispatchEvent(new Event("afterprint")); found.after = more.open;
        """,
    )
    up = ["b 9", "b 10", "e", "d", "c", "a"]  # numbers, then text, then what is missing
    down = ["d", "e", "b 10", "b 9", "c", "a"]
    given = [name for name, _ in ROWS]
    assert found["buttons"] == 2 and found["scale"] == "scale"  # a column without a name has none
    assert found["orders"] == [["ascending", up], ["descending", down], [None, given]]
    assert found["names"] == [None, "ascending", ["a", "b 9", "b 10", "c", "d", "e"]]
    assert found["stops"] == [0, -1, -1, -1, -1, -1] and found["focus"] == 4
    assert found["enlarged"] == [4, "row 2 · sample"] and found["width"] and found["beside"] == 3
    assert found["clicked"] == 5 and found["closed"] and found["print"] and not found["after"]


@needs_browser
def test_a_narrow_page_does_not_scroll_sideways(page: Path) -> None:
    wide = page.with_name("wide.html")
    wide.write_text(page.read_text().replace("<td>9%</td>", "<td style='min-width: 900px'>9%</td>"))
    found = in_browser(
        wide,
        """
        const frame = document.documentElement, box = document.querySelector(".scroll");
        found.page = frame.scrollWidth <= frame.clientWidth;
        found.table = box.scrollWidth > box.clientWidth;
        """,
        "--window-size=500,800",
    )
    assert found == {"page": True, "table": True}


def test_without_the_script_every_picture_can_be_focused_and_that_enlarges_it(page: Path) -> None:
    text = page.read_text()
    assert text.count("<img ") == text.count('<img tabindex="0" src=') + 1 == 7  # and the script's own
    assert "html:not(.js) img[tabindex]:focus" in text
