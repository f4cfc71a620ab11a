"""The probe manipulation, on h whose dimensions and neighbours are planted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_rcdm import ExactRCDM
from PIL import Image

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes.base import Result
from rcdm_core.probes.manipulation_look import common, threshold

DATA = Shapes(60, seed=8)
# of the oracle shapes-all: background color, object color, size, position, shape, rotation
BACKGROUND, OBJECT = slice(0, 3), slice(3, 6)


class Planted(ExactRCDM):
    """The exact generator, whose h is the background's colour and, doubled, the object's where that is red or green.

    So the dimensions of the object are zero in many pictures, and those of the background in none: the most common
    dimensions are of the background, the least common of the object.
    """

    def __init__(self, name: str = "planted") -> None:
        super().__init__("shapes-all", name=name)
        self.h_dim = 6
        self.config.provider.dim = 6

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        h = super().encode(images)[:, :6].clone()
        h[:, OBJECT] = torch.where(h[:, OBJECT] < 0.5, 0.0, h[:, OBJECT])
        return h

    def sample(
        self, h: torch.Tensor, n: int = 1, *, streams: Sequence[str] | None = None, **settings: Any
    ) -> torch.Tensor:
        full = torch.zeros(len(h), 16)
        full[:, :6] = h
        # a gray or black colour has no hue, and what is drawn then is red; the rest does not depend on h
        middle = super().encode(torch.from_numpy(DATA.get_batch([0], 32)).float() / 255)
        full[:, 6:] = middle[:, 6:]
        return super().sample(full, n, streams=streams, **settings)


def run(models: list[Any], out: Path, **arguments: Any) -> Result:
    settings: dict[str, Any] = {"data": DATA, "count": 12, "samples": 3, "pool": 40, "neighbours": 10, "share": 0.25}
    return rcdm_core.run_probe("manipulation", models=models, out=out, **(settings | arguments))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run([Planted()], tmp_path_factory.mktemp("manipulation"))


def test_the_most_common_dimensions_are_found_and_move_what_they_hold(result: Result) -> None:
    entry = result.aggregates["planted"]
    assert entry["threshold"] == 0 and entry["threshold_is"] == "exact zeros" and entry["exact_zeros"] > 0.1
    for record in result.images:
        look = record["models"]["planted"]
        assert set(look["most common"]["dimensions"].tolist()) <= set(range(3))  # of the background
        assert set(look["least common"]["dimensions"].tolist()) <= set(range(3, 6))  # of the object
    background, object_ = (entry["measures"][f"{part} color"] for part in ("background", "object"))
    assert background["most common"]["low"] > 0.2 and abs(background["least common"]["value"]) < 0.02
    assert object_["least common"]["low"] > 0.2 and abs(object_["most common"]["value"]) < 0.1
    size = entry["measures"]["size"]
    assert abs(size["most common"]["value"]) < 0.1 and abs(size["least common"]["value"]) < 0.1
    tested = {d["first"]: d for d in result.aggregates["differences"]}
    assert tested["planted: background color, most"]["p_holm"] < 0.2
    assert all(d["p_holm"] >= d["p"] for d in tested.values() if d["p"] is not None)
    tested = entry["beyond_spread"]
    moved = {key for key, one in tested.items() if one["p_holm"] < 0.05 and one["difference"]["value"] > 0.05}
    assert {"background color, most common", "object color, least common"} <= moved
    assert not {"background color, least common", "size, most common", "size, least common"} & moved
    first, _, second = result.answer[0].partition(";")
    assert "in background color (" in first and "object color (" in second and "size" not in result.answer[0]


def test_the_output(result: Result) -> None:
    stored = json.loads((result.out / "result.json").read_text())
    assert stored["complete"] and len(stored["images"]) == 12 and "manipulation-001.png" in stored["files"]
    assert stored["aggregates"]["planted"]["threshold_is"] == "exact zeros"
    page = (result.out / "report.html").read_text()
    assert "|h| up to 0 (exact zeros)" in page and "Most against least common" in page and "set to zero" in page


def test_models_are_compared_in_every_measure(tmp_path: Path) -> None:
    """One generator draws what the dimensions hold, the other always the same."""
    deaf = Planted("deaf")
    deaf.spoiled = "constant"
    found = run([Planted(), deaf], tmp_path, samples=2)
    between = {d["first"]: d for d in found.aggregates["differences"] if d["second"] == "deaf"}
    assert {"planted: background color, most common", "planted: h, least common"} <= set(between)
    for title, one in between.items():
        measure, which = title.removeprefix("planted: ").split(", ")
        values = [found.aggregates[name]["measures"][measure][which]["value"] for name in ("planted", "deaf")]
        assert one["difference"]["value"] == pytest.approx(values[0] - values[1], abs=1e-6)
    one = between["planted: background color, most common"]
    assert one["difference"]["value"] > 0.2 and one["p"] < 0.05 and one["p_holm"] >= one["p"]
    assert "planted: background color, most common less deaf" in (tmp_path / "report.html").read_text()


def test_swapped_dimensions_bring_the_partners_colour(tmp_path: Path) -> None:
    found = run([Planted()], tmp_path, mode="swap")
    entry = found.aggregates["planted"]["measures"]["background color"]
    assert entry["most common, toward"]["value"] > 0.02 and abs(entry["least common, toward"]["value"]) < 0.02
    assert (
        found.images[0]["partner"] == found.images[1]["name"] and found.images[-1]["partner"] == found.images[0]["name"]
    )
    assert "Toward partner" in (tmp_path / "report.html").read_text()
    for key in ("changed", "candidates"):
        count = found.aggregates["planted"][key]
        assert count["n"] == len(found.images) and count["low"] <= count["value"] <= count["high"]


def test_without_exact_zeros_a_threshold_is_chosen_and_said(tmp_path: Path) -> None:
    found = run([ExactRCDM("shapes-no-shape")], tmp_path, count=2, samples=2)
    entry = found.aggregates["shapes-no-shape"]
    assert entry["threshold_is"] == "median of |h|" and entry["threshold"] > 0
    assert "(median of |h|)" in (tmp_path / "report.html").read_text()
    h = np.random.default_rng(0).standard_normal((100, 7))
    assert (np.abs(h) > threshold(-1.0, h).value).mean() == pytest.approx(0.5, abs=0.01)
    assert threshold(0.3, h).how == "given" and threshold(-1.0, np.maximum(h, 0)).value == 0


def test_common_dimensions() -> None:
    h = np.array([1.0, 0.0, -2.0, 0.5, 3.0])
    near = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0]], dtype=float)
    most, least, number = common(h, near, 0.0, 0.25)
    assert most.tolist() == [0] and least.tolist() == [4] and number == 4  # 1 is zero in h itself
    most, least, _ = common(h, near, 0.0, 0.5)
    assert most.tolist() == [0, 2] and sorted(least.tolist()) == [3, 4]
    most, least, number = common(h, near, 2.5, 0.5)
    assert len(most) == len(least) == 0 and number == 1


def test_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(DATA.get(0, 20).transpose(1, 2, 0)).save(path)
    model = [Planted()]
    for arguments, message in (
        ({"mode": "drop"}, "mode is 'drop'"),
        ({"among": "all"}, "among is 'all'"),
        ({"share": 0.7}, "share is 0.7"),
        ({"samples": 1}, "samples is 1"),
        ({"training": -1}, "training is -1"),
        ({"partner": str(path)}, "--partner is for --mode swap"),
        ({"mode": "swap", "images": [path, path]}, "takes two different pictures"),
        ({"mode": "swap", "images": [path], "partner": str(path)}, "is the picture itself"),
        ({"mode": "swap", "partner": str(tmp_path / "none.png")}, "no picture .*none.png"),
        ({"among": "training"}, "Fewer than two of the pictures that planted was trained on"),
    ):
        with pytest.raises(RCDMError, match=message):
            run(model, tmp_path / "out", **arguments)


def test_pictures_that_are_given(tmp_path: Path) -> None:
    """One twice, smaller than what the encoder takes; the model was trained on it; neighbours are of its training."""
    from rcdm_core.data.images import content_hash

    path = tmp_path / "small.png"
    Image.fromarray(DATA.get(0, 20).transpose(1, 2, 0)).save(path)
    model = Planted()
    model.trained = {content_hash(path), *sorted(DATA.ids)[:30]}
    found = run([model], tmp_path / "out", images=[path, path], among="training", samples=2)
    assert len(found.images) == 1
    for words in ("counts once", "smaller than the 32 pixels", "was trained on 1 of the 1", "too few for intervals"):
        assert any(words in note for note in found.notes), words
