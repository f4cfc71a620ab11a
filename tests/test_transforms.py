"""The transforms of the invariance probe, against what they say they do."""

from __future__ import annotations

import numpy as np
import pytest
from fake_rcdm import discs
from PIL import Image

from rcdm_core.data.images import fit_image
from rcdm_core.metrics.attributes import measure
from rcdm_core.probes.pictures import squared
from rcdm_core.probes.transforms import TRANSFORMS, Original, pick, transformed

DISC = np.array([[0.9, 0.8, 0.7, 0.1, 0.2, 0.6, 0.18, 0.4, 0.62]])


def original(row: np.ndarray = DISC, size: int = 256) -> Original:
    pixels = np.round(discs(row, size)[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    return Original(Image.fromarray(pixels), (row[0, 7], row[0, 8]))


def after(name: str, strength: float = 1.0, seed: int = 0, of: Original | None = None) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    picture = transformed(TRANSFORMS[name], of or original(), strength=strength, generator=generator)
    assert picture.mode == "RGB" and picture.width == picture.height
    pixels = np.asarray(picture).transpose(2, 0, 1)[None] / 255
    return {key: values[0] for key, values in measure(pixels).items()}


def test_shifts_move_towards_room_by_what_they_say() -> None:
    assert after("vertical-shift")["position"] == pytest.approx([0.4, 0.62 - 0.15], abs=0.004)
    assert after("horizontal-shift")["position"] == pytest.approx([0.4 + 0.15, 0.62], abs=0.004)
    assert after("vertical-shift", 0.5)["position"] == pytest.approx([0.4, 0.62 - 0.075], abs=0.004)


def test_zooms_scale_about_the_object() -> None:
    before = measure(np.asarray(original().picture).transpose(2, 0, 1)[None] / 255)["size"][0]
    for name, factor in (("zoom-in", 1.25), ("zoom-out", 0.8)):
        found = after(name)
        assert found["size"] == pytest.approx(before * factor, rel=0.01)
        assert found["position"] == pytest.approx([0.4, 0.62], abs=0.004)


def test_flip_rotation_gray_and_jitter() -> None:
    assert after("flip")["position"] == pytest.approx([0.6, 0.62], abs=0.004)
    angle, (x, y) = np.radians(30), (-0.1, 0.12)
    turned = [0.5 + x * np.cos(angle) + y * np.sin(angle), 0.5 - x * np.sin(angle) + y * np.cos(angle)]
    assert after("rotation")["position"] == pytest.approx(turned, abs=0.004)
    plain = measure(np.asarray(original().picture).transpose(2, 0, 1)[None] / 255)
    gray = after("grayscale")
    assert gray["saturation"][0] == 0 and gray["brightness"] == pytest.approx(plain["brightness"][0], abs=0.003)
    assert after("grayscale", 0.5)["saturation"] == pytest.approx(plain["saturation"][0] / 2, abs=0.01)
    turns = set()
    for seed in range(8):
        jittered = after("color-jitter", seed=seed)
        turn = np.degrees(np.arccos(np.clip(jittered["object color"] @ plain["object color"][0], -1, 1)))
        assert 85 <= turn <= 149
        assert jittered["position"] == pytest.approx([0.4, 0.62], abs=0.01)
        turns.add(round(turn))
    assert len(turns) > 4
    assert np.array_equal(after("color-jitter", seed=3)["object color"], after("color-jitter", seed=3)["object color"])


@pytest.mark.parametrize("seed", range(4))
def test_a_stronger_jitter_changes_the_hue_no_less(seed: int) -> None:
    plain = measure(np.asarray(original().picture).transpose(2, 0, 1)[None] / 255)["object color"][0]
    cosines = [after("color-jitter", s, seed=seed)["object color"] @ plain for s in (0.25, 0.5, 1, 1.5, 2, 3)]
    turns = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    assert (np.diff(turns) > -3).all() and turns[-1] > 170  # hues are read from 8 bits
    assert "turned by 180 to 180 degrees" in pick("color-jitter")[0].says(3)
    assert "turned by 90 to 144 degrees" in pick("color-jitter")[0].says(1)


def test_blur_softens_and_moves_nothing() -> None:
    sharp, soft = (
        np.asarray(p).astype(float)
        for p in (original().picture, transformed(TRANSFORMS["blur"], original(), generator=np.random.default_rng()))
    )
    assert np.abs(np.diff(soft, axis=1)).max() < 0.3 * np.abs(np.diff(sharp, axis=1)).max()
    assert after("blur")["position"] == pytest.approx([0.4, 0.62], abs=0.004)


def test_outside_is_the_edge_or_white() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[0] = (200, 10, 10)
    generator = np.random.default_rng(0)
    for white, expected in ((False, (200, 10, 10)), (True, (255, 255, 255))):
        thing = Original(Image.fromarray(pixels), (0.5, 0.2), white)
        shifted = np.asarray(transformed(TRANSFORMS["vertical-shift"], thing, generator=generator))
        assert tuple(shifted[3, 32]) == expected and tuple(shifted[10, 32]) == (200, 10, 10)


def test_squares() -> None:
    wide = Image.new("RGB", (60, 30), "red")
    assert squared(wide, "crop").size == (30, 30)
    padded = np.asarray(squared(wide, "pad"))
    assert padded.shape == (60, 60, 3) and (padded[:15] == 255).all() and (padded[15:45] == (255, 0, 0)).all()
    assert squared(Image.new("RGB", (3000, 2000)), "crop").size == (1024, 1024)


@pytest.mark.parametrize("size", [(50, 31), (31, 50), (50, 30), (7, 4)])
def test_squares_are_those_of_training(size: tuple[int, int]) -> None:
    """Also where the margins cannot be the same on both sides."""
    width, height = size
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    for fit in ("crop", "pad"):
        square = squared(picture, fit)
        assert np.array_equal(np.asarray(square).transpose(2, 0, 1), fit_image(picture, square.width, fit))


def test_pick() -> None:
    assert [t.name for t in pick("all")] == list(TRANSFORMS)
    assert [t.name for t in pick("Zoom_in, flip")] == ["zoom-in", "flip"] == [t.name for t in pick(["zoom-in", "flip"])]
