"""Descent to h with linear encoders, whose h can be reached exactly, and an encoder without a gradient."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_rcdm import SIZE, FakeRCDM
from torch import Tensor, nn

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.encoder import Encoder, resize_for_encoder
from rcdm_core.errors import RCDMError
from rcdm_core.metrics.paired import holm
from rcdm_core.probes import base
from rcdm_core.probes.base import Result
from rcdm_core.probes.baselines import METHODS
from rcdm_core.probes.inversion import Descent, deep_image_prior, match_pixels, total_variation

DATA = Shapes(40, seed=3)
DIM = 12
PLAIN: dict[str, Any] = {"tv": 0.0, "unit": 1.0, "seed": 0, "stream": "a", "step": lambda: None}


class Linear(nn.Module):
    """h = W x: fewer numbers than pixels, so that many pictures share one."""

    def __init__(self, size: int) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        weight = rng.standard_normal((DIM, 3 * size * size)) / np.sqrt(3 * size * size)
        self.register_buffer("weight", torch.from_numpy(weight.astype(np.float32)))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T  # type: ignore[operator]


def linear(size: int) -> Encoder:
    return Encoder(Linear(size), image_size=size, mean=(0.0,) * 3, std=(1.0,) * 3)


class LinearRCDM(FakeRCDM):
    """Its h is linear in the pixels; it draws discs, whatever h is."""

    def __init__(self, name: str) -> None:
        super().__init__(name, deaf=True)
        self.encoder: Any = linear(SIZE)
        self.h_dim = DIM

    def encode(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(self.encoder(resize_for_encoder(images.float(), SIZE)))


@pytest.mark.parametrize("descend", [match_pixels, deep_image_prior])
def test_descent_reaches_a_linear_h(descend: Any) -> None:
    encoder = linear(16)
    target = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    h = encoder(target)[0]
    start = descend(encoder, h, Descent(size=16, iterations=1, rate=1e-9, **PLAIN))
    found = descend(encoder, h, Descent(size=16, iterations=150, rate=0.02, **PLAIN))
    before, after = ((encoder(x[None])[0] - h).square().sum().item() for x in (start, found))
    assert after < 1e-4 * before and found.shape == (3, 16, 16) and found.min() >= 0 and found.max() <= 1
    # it has the h without being the picture
    assert (found - target[0]).abs().mean() > 0.1
    again = descend(encoder, h, Descent(size=16, iterations=150, rate=0.02, **PLAIN))
    assert torch.equal(found, again)
    other = descend(encoder, h, Descent(size=16, iterations=1, rate=1e-9, **PLAIN | {"stream": "b"}))
    assert not torch.equal(start, other)


def test_total_variation_and_its_weight() -> None:
    ramp = torch.linspace(0, 1, 5).expand(1, 3, 5, 5)
    assert total_variation(ramp).item() == pytest.approx(0.25)
    assert not total_variation(torch.ones(2, 3, 4, 4)).any()
    encoder = linear(16)
    h = encoder(torch.full((1, 3, 16, 16), 0.5))[0]
    rough, smooth = (
        match_pixels(encoder, h, Descent(size=16, iterations=120, rate=0.1, **PLAIN | {"tv": tv})) for tv in (0.0, 5.0)
    )
    assert total_variation(smooth[None]).item() < 0.2 * total_variation(rough[None]).item()


@pytest.mark.parametrize("size", [3, 7, 12])
def test_the_prior_takes_any_size(size: int) -> None:
    found = deep_image_prior(linear(16), torch.zeros(DIM), Descent(size=size, iterations=1, rate=0.01, **PLAIN))
    assert found.shape == (3, size, size)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    settings: dict[str, Any] = {"count": 6, "samples": 2, "pool": 20, "iterations": 100}
    out = tmp_path_factory.mktemp("baselines")
    return rcdm_core.run_probe("baselines", models=[LinearRCDM("linear")], data=DATA, out=out, **settings)


def test_the_descents_are_at_h_and_a_deaf_generator_is_not(result: Result) -> None:
    entry = result.aggregates["linear"]
    for method in ("pixels", "prior"):
        assert entry[method]["relative"]["high"] < 0.01 < 0.3 < entry["rcdm"]["relative"]["low"]
        assert entry[method]["seconds"]["low"] > 0
    assert entry["pixels"]["roughness"]["low"] > 3 > entry["rcdm"]["roughness"]["high"]
    square = np.mean([record["models"]["linear"]["rcdm"]["square"] for record in result.images])
    assert entry["rcdm"]["square"]["value"] == pytest.approx(square)
    by_pair = {(d["first"], d["second"]): d for d in result.aggregates["differences"]}
    assert by_pair["linear: RCDM", "gradient on pixels"]["difference"]["low"] > 0 and len(by_pair) == 3


def test_the_output(result: Result) -> None:
    stored = json.loads((result.out / "result.json").read_text())
    assert stored["complete"] and stored["files"] == [*(f"baselines-{i:03d}.png" for i in range(1, 7)), "report.html"]
    page = (result.out / "report.html").read_text()
    assert "Deep Image Prior" in page and "Methods against each other" in page and "rcdm probe baselines" in page
    assert page.count("data:image/png") == 6 * (1 + 2 + 1 + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"rate": 0.0}, "rate is 0"),
        ({"prior_rate": -1.0}, "prior_rate is -1"),
        ({"tv": -1.0}, "tv is -1"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RCDMError, match=message):
        rcdm_core.run_probe("baselines", models=[LinearRCDM("x")], data=DATA, out=tmp_path, **arguments)


def test_what_does_not_say_that_it_has_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LinearRCDM("cut")
    monkeypatch.setattr(Linear, "forward", lambda self, images: (images.flatten(1) @ self.weight.T).detach())
    assert model.encoder.differentiable
    with pytest.raises(RCDMError, match="encoder of cut has no gradient"):
        rcdm_core.run_probe("baselines", models=[model], data=DATA, out=tmp_path)


def test_methods_are_compared_in_random_pairs_and_corrected_over_all_models(tmp_path: Path) -> None:
    models = [LinearRCDM("one"), LinearRCDM("two")]
    settings: dict[str, Any] = {"count": 8, "samples": 1, "pool": 20, "iterations": 2}
    found = rcdm_core.run_probe("baselines", models=models, data=DATA, out=tmp_path, **settings).aggregates
    rows = found["differences"]
    assert [d["p_holm"] for d in rows] == pytest.approx(holm([d["p"] for d in rows])) and len(rows) == 2 * 3 + 3
    titles = {title: key for key, title in METHODS.items()}
    for d in rows:
        name, first = d["first"].split(": ")
        other, second = (name, d["second"]) if d["second"] in titles else (d["second"], first)
        expected = found[name][titles[first]]["relative"]["value"] - found[other][titles[second]]["relative"]["value"]
        assert d["difference"]["value"] == pytest.approx(expected, rel=1e-6, abs=1e-9) and d["difference"]["n"] == 8
    assert {d["first"] for d in rows if d["second"] == "two"} == {f"one: {title}" for title in titles}
    page = (tmp_path / "report.html").read_text()
    assert "Models against each other" in page and "one: RCDM less two" in page


def test_the_seconds_are_those_of_the_sampling_also_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_bundle_digest", lambda folder: "digest")
    settings: dict[str, Any] = {"count": 2, "samples": 1, "pool": 20, "iterations": 1, "data": DATA, "out": tmp_path}
    calls: list[int] = []

    def slow() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        time.sleep(0.2)

    model = LinearRCDM("slow")
    model.path, model.before_sampling = tmp_path, slow  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        rcdm_core.run_probe("baselines", models=[model], **settings)
    result = rcdm_core.run_probe("baselines", models=[model], **settings)
    assert len(calls) == 3
    assert all(record["models"]["slow"]["rcdm"]["seconds"] >= 0.2 for record in result.images)


def test_an_encoder_without_a_gradient(tmp_path: Path) -> None:
    model = LinearRCDM("frozen")
    model.encoder.network.differentiable = False
    with pytest.raises(RCDMError, match="encoder of frozen has no gradient, which the probe baselines descends along"):
        rcdm_core.run_probe("baselines", models=[model], data=DATA, out=tmp_path)
