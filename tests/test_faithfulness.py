"""Table 1b with models whose truth is known: an exact generator reaches the ceiling, one that ignores h gets chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fake_rcdm import FakeRCDM
from PIL import Image

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes.base import Result

DATA = Shapes(150, seed=5)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    trained = sorted(DATA.ids)[:30]
    models = [
        FakeRCDM("exact", trained=trained),
        FakeRCDM("deaf", deaf=True),
        FakeRCDM("size", forgets=["object", "background", "position"]),
    ]
    out = tmp_path_factory.mktemp("faithfulness")
    return rcdm_core.run_probe("faithfulness", models=models, data=DATA, out=out, count=80, samples=2, rows=3)


def test_an_exact_generator_is_near_the_ceiling_and_a_deaf_one_at_chance(result: Result) -> None:
    exact, deaf, size = (result.aggregates[name] for name in ("exact", "deaf", "size"))
    chance = exact["chance"]
    assert chance == pytest.approx({"mean_rank": 60.5, "mrr": sum(1 / k for k in range(1, 121)) / 120, "top1": 1 / 120})
    for gallery in ("originals", "at image size"):
        of_exact, of_deaf = (entry["galleries"][gallery] for entry in (exact, deaf))
        assert of_exact["samples"]["mrr"]["value"] > 0.9 and of_exact["samples"]["mean_rank"]["value"] < 1.5
        low, high = (of_deaf["samples"]["mean_rank"][end] for end in ("low", "high"))
        assert low < chance["mean_rank"] + 8 and high > chance["mean_rank"] - 8
        assert of_deaf["samples"]["mrr"]["value"] < 0.12
    assert (
        2 < size["galleries"]["originals"]["samples"]["mean_rank"]["value"] < 40
    )  # one number is not enough to find it


def test_the_ceiling_at_image_size_is_perfect(result: Result) -> None:
    for name in ("exact", "deaf"):
        ceiling = result.aggregates[name]["galleries"]["at image size"]["ceiling"]
        assert ceiling["mean_rank"]["value"] == 1 and ceiling["top1"]["value"] == 1
        assert ceiling["mrr"]["low"] == 1


def test_held_out_pictures_alone(result: Result) -> None:
    assert result.provenance["gallery_size"] == 120 and result.provenance["conditioning_pictures"] == 80
    used = [picture["content_id"] for picture in result.provenance["pictures"]]
    assert used == sorted(DATA.ids)[30:]
    assert len(result.images) == 80 and np.array(result.images[0]["ranks"]["exact"]["originals"]).shape == (2,)


def test_the_output(result: Result) -> None:
    stored = json.loads((result.out / "result.json").read_text())
    assert stored["complete"] and stored["files"] == ["faithfulness.png", "report.html"]
    with Image.open(result.out / "faithfulness.png") as grid:
        assert grid.height > 3 * 96
    page = (result.out / "report.html").read_text()
    assert page.count("data:image/png") == 3 * (1 + 3) and "60.5" in page
    assert any(sentence.startswith("exact: seen from a sample") for sentence in result.answer)


def test_the_first_sample_does_not_depend_on_how_many_are_asked_for(result: Result, tmp_path: Path) -> None:
    one = rcdm_core.run_probe(
        "faithfulness",
        models=[FakeRCDM("exact", trained=sorted(DATA.ids)[:30])],
        data=DATA,
        out=tmp_path,
        count=10,
        rows=0,
    )
    assert one.files == ["report.html"]
    for few, many in zip(one.images, result.images[:10], strict=True):
        assert few["ranks"]["exact"]["originals"][0] == many["ranks"]["exact"]["originals"][0]
    assert one.aggregates["exact"]["galleries"]["originals"]["samples"]["top1"]["n"] == 10


def test_bad_input(tmp_path: Path) -> None:
    model = FakeRCDM("exact")
    with pytest.raises(RCDMError, match="--data"):
        rcdm_core.run_probe("faithfulness", models=[model], images=["x.png"], out=tmp_path)
    with pytest.raises(RCDMError, match="only one"):
        rcdm_core.run_probe("faithfulness", models=[model], data=Shapes(1), out=tmp_path)
    with pytest.raises(RCDMError, match="count"):
        rcdm_core.run_probe("faithfulness", models=[model], data=DATA, out=tmp_path, count=0)
    blind = FakeRCDM("blind", forgets=["object", "background", "size", "position"])
    with pytest.raises(RCDMError, match="without a representation"):
        rcdm_core.run_probe("faithfulness", models=[blind], data=DATA, out=tmp_path)
