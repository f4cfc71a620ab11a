"""The embedded shapes: exact geometry and colours, independence, determinism, speed."""

from __future__ import annotations

import colorsys
import math
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rcdm_core.data.shapes import (
    BACKGROUND_SATURATION,
    BACKGROUND_VALUE,
    OBJECT_SATURATION,
    OBJECT_VALUE,
    POSITIONS,
    SHAPES,
    SIZES,
    SYMMETRY,
    Factors,
    Shapes,
    hsv_to_rgb,
    open_data,
    render,
    render_batch,
)
from rcdm_core.data.source import ImageSource
from rcdm_core.errors import RCDMError


def coverage(picture: np.ndarray, factors: Factors) -> np.ndarray:
    """The object's share of every pixel [S, S], from the two colours that the factors name."""
    background = np.array(colorsys.hsv_to_rgb(factors.background_hue, BACKGROUND_SATURATION, BACKGROUND_VALUE))
    object_ = np.array(colorsys.hsv_to_rgb(factors.object_hue, OBJECT_SATURATION, OBJECT_VALUE))
    way = object_ - background
    share = np.tensordot(way, picture / 255 - background[:, None, None], 1) / (way @ way)
    # Over the whole background, what rounding to 8 bits leaves would add up to a visible area.
    return np.where(np.abs(share) < 0.02, 0, share)


@pytest.mark.parametrize("size", [32, 33, 128])
@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_area_centre_and_colours_are_those_of_the_factors(shape: int, size: int) -> None:
    random = np.random.RandomState(shape)
    for _ in range(8):
        factors = Factors(shape, *random.uniform(0, 1, 2), random.uniform(*SIZES), *random.uniform(0.42, 0.58, 2), 0.3)
        covered = coverage(render(factors, size), factors)
        area = covered.mean()
        grid = (np.arange(size) + 0.5) / size
        assert 2 * math.sqrt(area / math.pi) == pytest.approx(factors.size, abs=0.003)
        assert (covered.sum(0) @ grid) / covered.sum() == pytest.approx(factors.x, abs=0.003)
        assert (covered.sum(1) @ grid) / covered.sum() == pytest.approx(factors.y, abs=0.003)
        assert covered[0, 0] == pytest.approx(0, abs=0.01) and covered.max() == pytest.approx(1, abs=0.01)
        assert covered.min() > -0.01


def polygon(factors: Factors, side: int) -> np.ndarray | None:
    """The outline [side, side] as Pillow draws it from corners that are worked out here, or None for round shapes."""
    tips = {"triangle": 3, "square": 4, "star": 5}.get(factors.shape_name)
    if tips is None:
        return None
    ratio = 0.5 if factors.shape_name == "star" else math.cos(math.pi / tips)
    angles = 2 * math.pi * (factors.rotation + np.arange(0, tips, 0.5)) / tips
    radii = np.where(np.arange(2 * tips) % 2, ratio, 1.0)
    x, y = radii * np.sin(angles), -radii * np.cos(angles)
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    scale = math.sqrt(math.pi * (factors.size / 2) ** 2 / area)
    corners = [((factors.x + scale * a) * side, (factors.y + scale * b) * side) for a, b in zip(x, y, strict=True)]
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).polygon(corners, fill=255)
    return np.asarray(image) / 255


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("name", ["triangle", "square", "star"])
def test_polygons_agree_with_ones_drawn_at_high_resolution(name: str, size: int) -> None:
    random = np.random.RandomState(1)
    for _ in range(5):
        factors = Factors(
            SHAPES.index(name), 0.0, 0.5, random.uniform(*SIZES), *random.uniform(0.4, 0.6, 2), random.uniform()
        )
        outline = polygon(factors, 16 * size)
        assert outline is not None
        expected = outline.reshape(size, 16, size, 16).mean(axis=(1, 3))
        difference = np.abs(coverage(render(factors, size), factors) - expected)
        # The tips are sharper than a pixel.
        assert difference.max() < 0.35 and difference.mean() < 0.004


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_rotation_is_a_full_period_and_clockwise(shape: int) -> None:
    def turned(rotation: float) -> Factors:
        return Factors(shape, 0.1, 0.6, 0.44, 0.5, 0.5, rotation)

    start = render(turned(0.0), 64).astype(int)
    assert np.abs(render(turned(1.0), 64).astype(int) - start).max() <= 2
    for rotation in (0.25, 0.5, 0.75):
        assert np.abs(render(turned(rotation), 64).astype(int) - start).max() > 60
    # A quarter turn clockwise, as numpy turns an array.
    quarter = render(turned(SYMMETRY[shape] / 4), 64).astype(int)
    assert np.abs(quarter - np.rot90(start, -1, axes=(1, 2))).max() <= 2
    # Symmetric about the vertical axis when a tip points up, and the highest point is a tip in the middle.
    assert np.abs(start - start[:, :, ::-1]).max() <= 2
    covered = coverage(start, turned(0.0)) > 0.5
    highest = np.flatnonzero(covered[covered.any(1).argmax()])
    assert abs(highest.mean() - 31.5) <= 0.5


def test_object_and_background_differ_for_every_pair_of_hues() -> None:
    hues = np.linspace(0, 1, 60, endpoint=False)
    objects = hsv_to_rgb(hues, OBJECT_SATURATION, OBJECT_VALUE)
    backgrounds = hsv_to_rgb(hues, BACKGROUND_SATURATION, BACKGROUND_VALUE)
    assert np.linalg.norm(objects[:, None] - backgrounds[None], axis=2).min() > 0.45
    for hue, rgb in zip(hues, objects, strict=True):
        assert rgb == pytest.approx(colorsys.hsv_to_rgb(hue, OBJECT_SATURATION, OBJECT_VALUE))
    for rgb in (*objects, *backgrounds):
        assert rgb.max() - rgb.min() > 0.3  # a hue that can be measured


def test_factors_are_independent_and_uniform() -> None:
    shapes = Shapes(20_000)
    factors = [shapes.factors(index) for index in range(len(shapes))]
    columns = np.array(
        [[one.shape, one.object_hue, one.background_hue, one.size, one.x, one.y, one.rotation] for one in factors]
    )
    correlation = np.corrcoef(np.concatenate([columns, np.cos(2 * np.pi * columns[:, [1, 2, 6]])], axis=1).T)
    same = np.eye(10, dtype=bool)
    for hue, cosine in ((1, 7), (2, 8), (6, 9)):
        same[hue, cosine] = same[cosine, hue] = True
    assert np.abs(correlation[~same]).max() < 0.03
    low, high = columns.min(0), columns.max(0)
    assert low == pytest.approx([0, 0, 0, SIZES[0], POSITIONS[0], POSITIONS[0], 0], abs=1e-3)
    assert high == pytest.approx([len(SHAPES) - 1, 1, 1, SIZES[1], POSITIONS[1], POSITIONS[1], 1], abs=1e-3)
    assert np.bincount(columns[:, 0].astype(int)) == pytest.approx(len(shapes) / len(SHAPES), rel=0.05)


def test_objects_stay_inside_the_picture() -> None:
    pictures = Shapes(3000).get_batch(range(3000), 32).astype(int)
    corner = pictures[:, :, :1, :1]
    frame = np.ones((32, 32), bool)
    frame[1:-1, 1:-1] = False
    touched = (np.abs(pictures - corner).max(axis=1) > 60)[:, frame].sum(axis=1)
    assert (touched > 0).mean() < 0.01 and touched.max() <= 2


def test_a_picture_depends_on_seed_and_index_alone() -> None:
    short, long, other = Shapes(10), Shapes(1000), Shapes(10, seed=1)
    assert [short.factors(index) for index in range(10)] == [long.factors(index) for index in range(10)]
    assert short.ids == long.ids[:10] and short.labels is not None and long.labels is not None
    assert short.labels == long.labels[:10]
    assert not set(short.ids) & set(other.ids)
    assert len(set(long.ids)) == 1000 and all(len(content_id) == 64 for content_id in long.ids)
    batch = long.get_batch([7, 3, 7], 32)
    for picture, index in zip(batch, [7, 3, 7], strict=True):
        np.testing.assert_array_equal(picture, short.get(index, 32))
        np.testing.assert_array_equal(picture, render(short.factors(index), 32))
    # Recorded, so that a set never changes under a bundle that was trained on it.
    assert short.ids[0] == RECORDED_ID
    assert short.factors(0) == RECORDED_FACTORS


RECORDED_ID = "7288b0bb8fc207a2ea95660be9e04ad60ec05d59a32d9d55e90e7f350cc7adfd"
RECORDED_FACTORS = Factors(
    shape=2,
    object_hue=0.7151893663724195,
    background_hue=0.6027633760716439,
    size=0.3871813092795035,
    x=0.47633298779506045,
    y=0.5452271750506634,
    rotation=0.4375872112626925,
)


def test_another_size_shows_the_same_picture() -> None:
    shapes = Shapes(8)
    large, small = shapes.get_batch(range(8), 128), shapes.get_batch(range(8), 32)
    averaged = large.reshape(8, 3, 32, 4, 32, 4).mean(axis=(3, 5))
    assert np.abs(averaged - small).max() < 25 and np.abs(averaged - small).mean() < 0.5


def test_source_contract() -> None:
    shapes = Shapes(12, seed=3)
    assert isinstance(shapes, ImageSource) and len(shapes) == len(shapes.names) == len(shapes.ids) == 12
    picture = shapes.get(4, 20)
    assert picture.shape == (3, 20, 20) and picture.dtype == np.uint8
    assert shapes.label_names == list(SHAPES)
    assert shapes.labels == [shapes.factors(index).shape for index in range(12)]
    assert shapes.factors(0).shape_name in SHAPES
    description = shapes.describe()
    assert (description["kind"], description["count"], description["skipped"]) == ("shapes", 12, 0)
    again = open_data(description["path"])
    assert again.describe() == description
    assert shapes.skipped == [] and shapes.get_batch([], 8).shape == (0, 3, 8, 8)


def test_open_data_reads_its_numbers() -> None:
    assert open_data(None).describe()["path"] == open_data("shapes").describe()["path"] == "shapes:20000:0"
    assert open_data("shapes:30").describe()["path"] == "shapes:30:0"
    assert open_data("shapes:30:2").describe()["path"] == "shapes:30:2"


@pytest.mark.parametrize("spec", ["shapes:many", "shapes:5:x", "shapes:1:2:3", "", "shapes:-4", "shapes:5:-1"])
def test_open_data_refuses_what_it_cannot_read(spec: str) -> None:
    with pytest.raises(RCDMError, match="shapes"):
        open_data(spec)


def test_factors_out_of_range() -> None:
    with pytest.raises(ValueError, match="numbered"):
        render(Factors(9, 0, 0, 0.3, 0.5, 0.5, 0), 32)
    with pytest.raises(ValueError, match="pixel"):
        render_batch([Factors(0, 0, 0, 0.3, 0.5, 0.5, 0)], 0)


def test_drawing_is_fast() -> None:
    shapes = Shapes(2000)
    start = time.process_time()
    shapes.get_batch(range(2000), 32)
    assert time.process_time() - start < 4  # a tenth of what 20,000 may take, with room for a busy machine
