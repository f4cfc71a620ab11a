"""What a picture looks like, as a few numbers that are read from its pixels: colour, size, position, light, sharpness.

The object is the largest connected region that stands out from the colour of the picture's border. That is exact for
one object on a plain background and a rough guide on photographs, where it finds whatever stands out most. No trained
network is involved, so that what an encoder is blind to can still be measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

CHROMA_FLOOR = 0.10  # max - min of a colour's RGB below which its hue is noise
CONTRAST_FLOOR = 10.0  # Lab distance between object and border below which there is no object
AREA_FLOOR = 0.003  # share of the picture below which a region is a speck, not an object
BLUR_WIDTH = 5  # pixels over which a picture is blurred once more to tell how sharp it was
_BLOCK_PIXELS = 1 << 21  # pixels worked on at a time: bounds memory for many or large pictures


@dataclass(frozen=True)
class Attribute:
    """dim: length of its vector. floor: the least shift that counts as measurable. unit: of both, for readers."""

    dim: int
    floor: float
    unit: str


ATTRIBUTES: Mapping[str, Attribute] = {
    "object color": Attribute(2, 0.35, "(cos, sin) of the object's hue; undefined for a gray object"),
    "background color": Attribute(2, 0.35, "(cos, sin) of the border's hue; undefined for a gray border"),
    "size": Attribute(1, 0.03, "side of a square with the object's area, in sides of the picture"),
    "position": Attribute(2, 0.03, "(x, y) of the object's centre of mass, in sides of the picture, from the top left"),
    "brightness": Attribute(1, 0.03, "mean luma (Rec. 601), 0 black to 1 white"),
    "saturation": Attribute(1, 0.03, "mean over pixels of max - min of RGB, 0 gray to 1 pure"),
    "sharpness": Attribute(
        1,
        0.06,
        "share of the steps between pixels that one more blur takes away, 0 soft to 0.8 sharp; undefined if flat",
    ),
}


def measure(images: Any) -> dict[str, np.ndarray]:
    """Attributes of pictures [B, 3, H, W] in [0, 1] (array or CPU tensor): name -> float64 [B, d], as in ATTRIBUTES.

    A row that is not defined (no object stands out; a hue of a gray) is NaN throughout.

    Raises ValueError for another shape.
    """
    pixels = np.asarray(images)
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"expected images [B, 3, H, W], got {pixels.shape}")
    step = max(1, _BLOCK_PIXELS // (pixels.shape[2] * pixels.shape[3]))
    blocks = [_measure_block(pixels[i : i + step]) for i in range(0, len(pixels), step)]
    if not blocks:
        return {name: np.empty((0, attribute.dim)) for name, attribute in ATTRIBUTES.items()}
    return {name: np.concatenate([block[name] for block in blocks]) for name in ATTRIBUTES}


def _measure_block(pixels: np.ndarray) -> dict[str, np.ndarray]:
    rgb = np.clip(np.moveaxis(pixels, 1, -1).astype(np.float32), 0.0, 1.0)  # [B, H, W, 3]
    height, width = rgb.shape[1:3]
    coverage, found = object_coverage(rgb)
    area = coverage.sum(axis=(1, 2))
    weight = coverage / np.where(area > 0, area, 1.0)[:, None, None]
    x = np.einsum("bhw,w->b", weight, (np.arange(width) + 0.5) / width)
    y = np.einsum("bhw,h->b", weight, (np.arange(height) + 0.5) / height)
    # the fringe mixes object and background: only pixels that are the object's own say its colour
    inner = np.where(coverage > 0.9, coverage, 0.0)
    inner_area = inner.sum(axis=(1, 2))
    object_rgb = np.einsum("bhw,bhwc->bc", inner, rgb) / np.where(inner_area > 0, inner_area, 1.0)[:, None]
    object_rgb[~found | (inner_area == 0)] = np.nan

    def undefined_without_object(values: np.ndarray) -> np.ndarray:
        return np.where(found[:, None], values, np.nan).astype(np.float64)

    return {
        "object color": hue_vector(object_rgb),
        "background color": hue_vector(np.median(_border(rgb), axis=1)),
        "size": undefined_without_object(np.sqrt(area / (height * width))[:, None]),
        "position": undefined_without_object(np.stack([x, y], axis=1)),
        "brightness": (rgb @ np.array([0.299, 0.587, 0.114], np.float32)).mean(axis=(1, 2))[:, None].astype(np.float64),
        "saturation": (rgb.max(-1) - rgb.min(-1)).mean(axis=(1, 2))[:, None].astype(np.float64),
        "sharpness": sharpness(rgb)[:, None],
    }


def hue_vector(rgb: np.ndarray) -> np.ndarray:
    """(cos, sin) of the hue of colours [B, 3] in [0, 1]: [B, 2]; NaN where max - min is below CHROMA_FLOOR."""
    rgb = np.asarray(rgb, dtype=np.float64)
    red, green, blue = rgb.T
    vector = np.stack([red - (green + blue) / 2, np.sqrt(0.75) * (green - blue)], axis=1)
    gray = ~(rgb.max(1) - rgb.min(1) >= CHROMA_FLOOR)  # written so that NaN counts as gray
    length = np.linalg.norm(vector, axis=1)
    vector /= np.where(gray | (length == 0), 1.0, length)[:, None]
    vector[gray | (length == 0)] = np.nan
    return vector


def sharpness(rgb: np.ndarray) -> np.ndarray:
    """How much of the steps between neighbouring pixels of pictures [B, H, W, 3] one more blur takes away: [B].

    A sharp picture loses most of them and a blurred one hardly any, whatever its contrast: Crete et al., "The blur
    effect" (2007), with directions and channels taken together. NaN for a picture that is flat.
    """
    lost = np.zeros(len(rgb))
    total = np.zeros(len(rgb))
    half = BLUR_WIDTH // 2
    for lines in (rgb.transpose(0, 3, 1, 2), rgb.transpose(0, 3, 2, 1)):
        padded = np.pad(lines, ((0, 0), (0, 0), (0, 0), (half + 1, half)), mode="edge")
        running = np.cumsum(padded, axis=3, dtype=np.float64)
        blurred = (running[..., BLUR_WIDTH:] - running[..., :-BLUR_WIDTH]) / BLUR_WIDTH
        steps, fewer = np.abs(np.diff(lines, axis=3)), np.abs(np.diff(blurred, axis=3))
        lost += np.maximum(steps - fewer, 0).sum(axis=(1, 2, 3))
        total += steps.sum(axis=(1, 2, 3))
    flat = total <= 1e-3 * (rgb.shape[1] + rgb.shape[2])
    return np.where(flat, np.nan, lost / np.where(flat, 1.0, total))


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB [..., 3] in [0, 1] to CIE L*a*b* (D65) [..., 3], where Euclidean distance is about perceived difference."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
        rgb.dtype,
    )
    ratio = linear @ (to_xyz / to_xyz.sum(axis=1, keepdims=True)).T
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _border(pixels: np.ndarray) -> np.ndarray:
    """The outer ring [B, P, 3] of pictures [B, H, W, 3], 1/16 of the shorter side wide."""
    ring = max(1, min(pixels.shape[1:3]) // 16)
    inside = np.zeros(pixels.shape[1:3], bool)
    inside[ring:-ring, ring:-ring] = True
    return pixels[:, ~inside]


def object_coverage(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of pictures [B, H, W, 3]: the object's share of each pixel, float32 [B, H, W]; whether there is one, bool [B]."""
    lab = to_lab(rgb)
    distance = np.linalg.norm(lab - np.median(_border(lab), axis=1)[:, None, None], axis=-1)
    threshold = _otsu(distance)[:, None, None]
    region = largest_region(distance > threshold)
    # contrast and coverage rest on the region's core, which the antialiased edge does not dilute
    core = _shrink(region)
    core = np.where(np.any(core, axis=(1, 2), keepdims=True), core, region)
    size = region.sum(axis=(1, 2))
    contrast = (distance * core).sum(axis=(1, 2)) / np.maximum(core.sum(axis=(1, 2)), 1)
    found = (contrast >= CONTRAST_FLOOR) & (size >= AREA_FLOOR * rgb.shape[1] * rgb.shape[2])
    fringe = np.clip(distance / np.where(contrast > 0, contrast, 1.0)[:, None, None], 0.0, 1.0)
    coverage = np.where(core, 1.0, np.where(_grow(region), fringe, 0.0))
    return np.where(found[:, None, None], coverage, 0.0).astype(np.float32), found


def _otsu(values: np.ndarray, bins: int = 64) -> np.ndarray:
    """Otsu's threshold of each of B maps [B, H, W] of values >= 0: float [B]."""
    count = len(values)
    flat = values.reshape(count, -1)
    top = np.maximum(flat.max(axis=1), 1e-6)
    index = np.minimum((flat * (bins / top)[:, None]).astype(np.int64), bins - 1)
    index += bins * np.arange(count)[:, None]
    histogram = np.bincount(index.ravel(), minlength=count * bins).reshape(count, bins).astype(np.float64)
    level = np.arange(bins) + 0.5
    below, total = np.cumsum(histogram, axis=1), flat.shape[1]
    below_sum = np.cumsum(histogram * level, axis=1)
    above, above_sum = total - below, below_sum[:, -1:] - below_sum
    means = below_sum / np.maximum(below, 1), above_sum / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2
    # between two clean clusters every cut is as good as the next: take the middle one
    best = between >= between.max(axis=1, keepdims=True) * (1 - 1e-9)
    cut = (best * np.arange(1, bins + 1)).sum(axis=1) / best.sum(axis=1)
    return cut * top / bins


def largest_region(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected region of each mask [B, H, W]: bool [B, H, W], empty where the mask is.

    The largest label of each run along the rows, then along the columns, spreads until nothing changes: a handful of
    sweeps for compact regions, all pictures at once.
    """
    count, height, width = mask.shape
    if mask.size == 0:
        return mask.astype(bool)
    labels = np.where(mask.ravel(), np.arange(1, mask.size + 1), 0).reshape(mask.shape)
    rows, columns = _runs(mask), _runs(mask.swapaxes(1, 2))
    while True:
        spread = _spread(labels, rows)
        spread = _spread(np.ascontiguousarray(spread.swapaxes(1, 2)), columns).swapaxes(1, 2)
        if np.array_equal(spread, labels):
            break
        labels = np.ascontiguousarray(spread)
    sizes = np.bincount(labels.ravel(), minlength=mask.size + 1)[1:].reshape(count, -1)
    winner = sizes.argmax(axis=1) + 1 + height * width * np.arange(count)
    return (labels == winner[:, None, None]) & mask


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of equal values along the last axis, flattened: where each starts, and the run of each pixel."""
    change = np.ones(mask.shape, bool)
    change[..., 1:] = mask[..., 1:] != mask[..., :-1]
    return np.flatnonzero(change), np.cumsum(change.ravel()) - 1


def _spread(labels: np.ndarray, runs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    starts, run = runs
    return np.maximum.reduceat(labels.ravel(), starts)[run].reshape(labels.shape)


def _grow(mask: np.ndarray) -> np.ndarray:
    """The mask [B, H, W] and its eight neighbours."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    wide = padded[:, :, 1:-1] | padded[:, :, :-2] | padded[:, :, 2:]
    return wide[:, 1:-1] | wide[:, :-2] | wide[:, 2:]


def _shrink(mask: np.ndarray) -> np.ndarray:
    """The pixels of mask [B, H, W] whose eight neighbours belong to it; outside the picture counts as inside."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    wide = padded[:, :, 1:-1] & padded[:, :, :-2] & padded[:, :, 2:]
    return wide[:, 1:-1] & wide[:, :-2] & wide[:, 2:]
