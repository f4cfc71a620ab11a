"""The measured attributes against the geometry and the colours that pictures were drawn from."""

from __future__ import annotations

import colorsys
import time

import numpy as np
import pytest
from fake_rcdm import discs, random_rows
from PIL import Image, ImageFilter
from scipy import ndimage

from rcdm_core.data.shapes import Shapes
from rcdm_core.metrics.attributes import ATTRIBUTES, hue_vector, largest_region, measure, to_lab


def test_position_and_size_of_discs() -> None:
    rows = random_rows(np.random.default_rng(0), 300)
    found = measure(discs(rows))
    assert np.abs(found["position"] - rows[:, 7:9]).max() < 0.005
    assert np.abs(found["size"][:, 0] - np.sqrt(np.pi) * rows[:, 6]).max() < 0.02


@pytest.mark.parametrize("size", [32, 64])
def test_shapes_are_measured_as_their_factors_say(size: int) -> None:
    source = Shapes(150, seed=4)
    found = measure(source.get_batch(range(150), size).astype(np.float32) / 255)
    factors = [source.factors(i) for i in range(150)]
    truth = np.array([[f.x, f.y] for f in factors])
    assert np.abs(found["position"] - truth).max() < 0.02
    assert np.abs(found["size"][:, 0] - [f.size * np.sqrt(np.pi) / 2 for f in factors]).max() < 0.03
    for name, hue in (("object color", "object_hue"), ("background color", "background_hue")):
        angle = 2 * np.pi * np.array([getattr(f, hue) for f in factors])
        assert (found[name] * np.stack([np.cos(angle), np.sin(angle)], 1)).sum(1).min() > np.cos(np.radians(6))


def test_hue_agrees_with_colorsys_and_gray_has_none() -> None:
    colours = np.random.default_rng(1).random((500, 3))
    vectors = hue_vector(colours)
    vivid = colours.max(1) - colours.min(1) > 0.1
    assert np.isnan(vectors[~vivid]).all() and np.isfinite(vectors[vivid]).all()
    angle = 2 * np.pi * np.array([colorsys.rgb_to_hsv(*colour)[0] for colour in colours[vivid]])
    agreement = (vectors[vivid] * np.stack([np.cos(angle), np.sin(angle)], 1)).sum(1)
    assert agreement.min() > np.cos(np.radians(1.2))  # the two definitions of hue differ by at most 1.12 degrees


def test_lab_of_known_colours() -> None:
    lab = to_lab(np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    assert np.allclose(lab, expected, atol=0.05)


def test_brightness_is_luma_and_saturation_is_zero_for_gray() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (5, 3, 24, 24)).astype(np.uint8)
    found = measure(pixels / 255)
    luma = [np.asarray(Image.fromarray(p.transpose(1, 2, 0)).convert("L")).mean() / 255 for p in pixels]
    assert np.allclose(found["brightness"][:, 0], luma, atol=0.003)
    assert np.allclose(found["saturation"][:, 0], (pixels.max(1) - pixels.min(1).astype(float)).mean((1, 2)) / 255)
    gray = np.repeat(pixels[:, :1], 3, axis=1) / 255
    assert measure(gray)["saturation"].max() == 0


def test_what_is_not_there_is_nan() -> None:
    constant = np.full((1, 3, 32, 32), 0.5)
    found = measure(constant)
    assert all(np.isnan(found[name]).all() for name in ("object color", "background color", "size", "position"))
    assert found["brightness"][0, 0] == pytest.approx(0.5)
    black_on_white = discs(np.array([[1, 1, 1, 0, 0, 0, 0.2, 0.5, 0.5]]))
    found = measure(black_on_white)
    assert np.isnan(found["object color"]).all() and found["position"] == pytest.approx(np.array([[0.5, 0.5]]))


def test_blur_and_noise_as_generators_make_them() -> None:
    rng = np.random.default_rng(3)
    rows = random_rows(rng, 100)
    spoiled = []
    for picture in discs(rows):
        image = Image.fromarray((picture.transpose(1, 2, 0) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))
        spoiled.append(np.asarray(image).transpose(2, 0, 1) / 255 + 0.03 * rng.standard_normal((3, 32, 32)))
    found, clean = measure(np.stack(spoiled)), measure(discs(rows))
    assert np.abs(found["position"] - clean["position"]).max() < 0.02
    assert np.abs(found["size"] - clean["size"]).max() < 0.05
    vivid = np.isfinite(clean["object color"]).all(1)
    assert np.nanmean((found["object color"] * clean["object color"]).sum(1)[vivid]) > 0.98


def test_only_the_largest_object_counts() -> None:
    picture = discs(np.array([[0.9, 0.9, 0.9, 0.8, 0.1, 0.1, 0.2, 0.35, 0.4]]))
    picture[:, :, 26:29, 26:29] = 0.0
    assert measure(picture)["position"][0] == pytest.approx([0.35, 0.4], abs=0.005)


def test_largest_region_against_scipy() -> None:
    masks = np.random.default_rng(4).random((60, 23, 17)) > 0.45
    masks[0], masks[1] = False, True
    for mask, region in zip(masks, largest_region(masks), strict=True):
        labels, count = ndimage.label(mask)
        sizes = np.bincount(labels.ravel())[1:]
        assert region.sum() == (sizes.max() if count else 0)
        assert not (region & ~mask).any() and ndimage.label(region)[1] == min(count, 1)


def test_a_thousand_pictures_take_less_than_two_seconds() -> None:
    pictures = discs(random_rows(np.random.default_rng(5), 1000)).astype(np.float32)
    start = time.process_time()
    measure(pictures)
    assert time.process_time() - start < 2


def test_shapes_of_input_and_output() -> None:
    assert {name: values.shape for name, values in measure(np.zeros((0, 3, 8, 8))).items()} == {
        name: (0, attribute.dim) for name, attribute in ATTRIBUTES.items()
    }
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        measure(np.zeros((3, 8, 8)))
