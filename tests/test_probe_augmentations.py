"""Augmentations against plain numpy, and chains that depend on nothing but what they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from rcdm_core.probes.augmentations import Augmentation, augmented, chain, singles

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)


def make(augmentation: Augmentation, k: int = 0, seed: int = 0, stream: str = "x") -> np.ndarray:
    return augmented(augmentation, Image.fromarray(PIXELS), 40, "bicubic", seed=seed, stream=stream, k=k)


def test_single_ones_are_what_they_say() -> None:
    made = {one.name: make(one) for one in singles()}
    plain = PIXELS.transpose(2, 0, 1).astype(np.float32) / 255
    assert np.array_equal(made["flip"], plain[:, :, ::-1])
    solarized = np.where(PIXELS < 128, PIXELS, 255 - PIXELS).transpose(2, 0, 1).astype(np.float32) / 255
    assert np.array_equal(made["solarize"], solarized)
    luma = np.tensordot([0.299, 0.587, 0.114], plain, 1)
    assert np.allclose(made["grayscale"], luma, atol=1 / 255) and made["centre crop"].shape == (3, 40, 40)
    assert not np.array_equal(made["jitter"], plain)


def test_the_centre_crop_shows_the_centre() -> None:
    picture = Image.new("RGB", (40, 40), "black")
    picture.paste("white", (5, 5, 35, 35))  # three quarters of the side
    (crop,) = (one for one in singles() if one.name == "centre crop")
    assert augmented(crop, picture, 20, "bicubic", seed=0, stream="x", k=0).min() == 1


@pytest.mark.parametrize("name", ["dino", "swav"])
def test_chains_depend_on_seed_stream_and_number_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make(chain(name), 3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    np.random.seed(2)
    assert np.array_equal(first, make(chain(name), 3))
    for other in (make(chain(name), 4), make(chain(name), 3, seed=1), make(chain(name), 3, stream="y")):
        assert not np.array_equal(first, other)
    assert first.shape == (3, 40, 40) and first.dtype == np.float32


def test_a_chain_for_a_very_small_encoder() -> None:
    for k in range(2):
        one = augmented(chain("dino"), Image.fromarray(PIXELS), 5, "bicubic", seed=0, stream="x", k=k)
        assert one.shape == (3, 5, 5)
