"""The exact sampler draws from the posterior: what h tells is in every sample, and the rest is as in the prior."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_rcdm import RANGES, ExactRCDM, read_factors
from rcdm_plugin_shapes import FORGETS, PARTS
from scipy import stats

from rcdm_core.data.shapes import SHAPES, Shapes
from rcdm_core.encoder import load_encoder

DATA = Shapes(60, seed=21)
PICTURES = torch.from_numpy(DATA.get_batch(range(60), 32)).float() / 255


@pytest.mark.parametrize("oracle", list(FORGETS))
def test_every_sample_has_the_h_that_it_was_made_from(oracle: str) -> None:
    model = ExactRCDM(oracle)
    h = model.encode(PICTURES)
    again = model.encode(model.sample(h, 2, streams=DATA.ids).flatten(0, 1)).unflatten(0, (60, 2))
    assert float(((again - h[:, None]) / h.std(0)).square().mean().sqrt()) < 0.06


@pytest.mark.parametrize(
    ("oracle", "factors"),
    [
        ("shapes-no-color", ("object_hue", "background_hue")),
        ("shapes-no-position", ("x", "y")),
        ("shapes-no-size", ("size",)),
        ("shapes-no-rotation", ("rotation",)),
    ],
)
def test_what_h_forgets_is_as_in_the_prior(oracle: str, factors: tuple[str, ...]) -> None:
    model = ExactRCDM(oracle)
    samples = model.sample(model.encode(PICTURES), 5, streams=DATA.ids).flatten(0, 1)
    with torch.no_grad():
        seen = load_encoder("shapes-all")(samples).numpy()
    told = [read_factors(row, tuple(PARTS)) for row in seen]
    for factor in factors:
        low, high = RANGES[factor]
        values = np.clip([(one[factor] - low) / (high - low) for one in told], 0, 1)
        assert stats.kstest(values, "uniform").pvalue > 0.01, factor
        own = [getattr(DATA.factors(i), factor) for i in range(60)]
        assert abs(np.corrcoef(np.repeat(own, 5), values)[0, 1]) < 0.15


def test_a_forgotten_shape_is_any_shape() -> None:
    model = ExactRCDM("shapes-no-shape")
    samples = model.sample(model.encode(PICTURES), 5, streams=DATA.ids).flatten(0, 1)
    with torch.no_grad():
        seen = load_encoder("shapes-all")(samples).numpy()
    shapes = [read_factors(row, tuple(PARTS))["shape"] for row in seen]
    assert stats.chisquare(np.bincount(shapes, minlength=len(SHAPES))).pvalue > 0.01


def test_noise_depends_on_seed_stream_and_number_alone() -> None:
    model = ExactRCDM("shapes-no-color")
    h = model.encode(PICTURES[:3])
    many = model.sample(h, 3, seed=1, streams=["a", "b", "c"])
    assert torch.equal(model.sample(h[1:2], 2, seed=1, streams=["b"])[0], many[1, :2])
    assert not torch.equal(model.sample(h[1:2], 2, seed=2, streams=["b"])[0], many[1, :2])


def test_a_code_is_undone_and_nothing_linear_finds_the_position_in_it() -> None:
    plain, coded = ExactRCDM(), ExactRCDM(coded=True)
    h = plain.encode(PICTURES)
    assert (
        float((coded.sample(coded.encode(PICTURES), streams=DATA.ids) - plain.sample(h, streams=DATA.ids)).abs().max())
        < 0.05
    )
    place = [model.encode(PICTURES)[:, 7].numpy() for model in (plain, coded)]
    assert abs(np.corrcoef(*place)[0, 1]) < 0.35


def test_a_coarse_h_tells_in_which_part_a_factor_is_and_samples_are_anywhere_in_it() -> None:
    coarse = {"background_hue": 2, "object_hue": 1, "size": 3, "x": 4}
    model = ExactRCDM(coarse=coarse)
    h = model.encode(PICTURES)
    samples = model.sample(h, 4, streams=DATA.ids).flatten(0, 1)
    with torch.no_grad():
        seen = load_encoder("shapes-all")(samples).numpy()
    told = [read_factors(row, tuple(PARTS)) for row in seen]
    for factor, parts in coarse.items():
        low, high = RANGES[factor]
        assert len(np.unique([round(read_factors(row, model.parts)[factor], 4) for row in h.numpy()])) == parts
        own = np.array([getattr(DATA.factors(i), factor) for i in range(60) for _ in range(4)])
        places = [(values - low) / (high - low) * parts for values in (own, np.array([one[factor] for one in told]))]
        inside = places[1] - np.floor(places[0])
        assert np.mean((inside > -0.05) & (inside < 1.05)) > 0.98, factor  # but for what is read wrong at an edge
        assert stats.kstest(np.clip(inside, 0, 1), "uniform").pvalue > 0.01, factor
    y = np.array([[DATA.factors(i).y] * 4 for i in range(60)]).ravel()
    assert np.allclose([one["y"] for one in told], y, atol=0.01)  # what is not coarse is told as it is
