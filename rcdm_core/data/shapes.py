"""Shapes: the embedded set of pictures, drawn from known factors.

Every picture is one saturated object on a pale, evenly coloured background. Because the factors that made a picture
are known, what an encoder keeps of it is known too, which makes the set the test of everything else.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from rcdm_core.data.folder import ImageFolder
from rcdm_core.data.images import DEFAULT_INTERPOLATION, check_fit
from rcdm_core.data.source import ImageSource, data_fingerprint
from rcdm_core.errors import RCDMError

SHAPES = ("ellipse", "triangle", "square", "star", "heart")
SYMMETRY = (2, 3, 4, 5, 1)
"""After how large a part of a full turn (one over this) each shape looks the same again."""

SIZES = (0.30, 0.46)
POSITIONS = (0.345, 0.655)
# The object is vivid and mid-dark and the background pale and light, so that they differ for any two hues and the two
# hues can be independent of each other.
OBJECT_SATURATION, OBJECT_VALUE = 0.92, 0.86
BACKGROUND_SATURATION, BACKGROUND_VALUE = 0.36, 1.0

_MAX_COUNT = 10_000_000
_BLOCK_PIXELS = 1 << 18  # keeps a block's temporaries in the processor's cache


@dataclass(frozen=True)
class Factors:
    """What one picture is made from; the factors of the pictures of `Shapes` are independent of each other.

    Attributes:
        shape: index into `SHAPES`.
        object_hue: HSV hue of the object, in turns, [0, 1).
        background_hue: HSV hue of the background, in turns, [0, 1).
        size: diameter of the disc that has the object's area, as a share of the picture's side.
        x: the object's centre of mass, from the left, as a share of the side.
        y: the same from the top.
        rotation: clockwise from a tip that points up, in [0, 1), as a share of the turn after which the shape looks
            the same again (`SYMMETRY`); so different values always look different.
    """

    shape: int
    object_hue: float
    background_hue: float
    size: float
    x: float
    y: float
    rotation: float

    @property
    def shape_name(self) -> str:
        return SHAPES[self.shape]


class Shapes(ImageSource):
    """`n` pictures drawn from independent, uniformly distributed factors.

    Picture `index` depends on `seed` and `index` alone: a longer set starts with the shorter one. The labels are the
    shapes. Nothing is stored: a picture is drawn at the size at which it is asked for.

    Raises:
        RCDMError: `n` or `seed` out of range.
    """

    def __init__(self, n: int = 20_000, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= n <= _MAX_COUNT:
            raise RCDMError(f"shapes cannot have {n} pictures: give a number from 1 to {_MAX_COUNT}.")
        if not 0 <= seed < 2**32:
            raise RCDMError(f"{seed} is no valid seed for shapes: give a number from 0 to {2**32 - 1}.")
        self.n, self.seed = n, seed
        # RandomState, because its streams are guaranteed never to change between numpy's versions.
        uniform = np.random.RandomState(seed).random_sample((n, 7))
        self._table = np.stack(
            [
                np.floor(uniform[:, 0] * len(SHAPES)),
                uniform[:, 1],
                uniform[:, 2],
                SIZES[0] + (SIZES[1] - SIZES[0]) * uniform[:, 3],
                POSITIONS[0] + (POSITIONS[1] - POSITIONS[0]) * uniform[:, 4],
                POSITIONS[0] + (POSITIONS[1] - POSITIONS[0]) * uniform[:, 5],
                uniform[:, 6],
            ],
            axis=1,
        )
        self.label_names = list(SHAPES)
        self.labels = [int(shape) for shape in self._table[:, 0]]

    def __len__(self) -> int:
        return self.n

    @functools.cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        return [f"shapes-{self.seed}-{index:06d}" for index in range(self.n)]

    @functools.cached_property
    def ids(self) -> list[str]:  # type: ignore[override]
        rows = self._table.astype("<f8")
        return [hashlib.sha256(b"rcdm shapes 1\n" + row.tobytes()).hexdigest() for row in rows]

    def factors(self, index: int) -> Factors:
        """The factors of picture `index`."""
        row = self._table[index]
        return Factors(int(row[0]), *(float(value) for value in row[1:]))

    def get(self, index: int, size: int, interpolation: str = DEFAULT_INTERPOLATION) -> np.ndarray:
        """Picture `index`, drawn at that size: uint8 `[3, size, size]`."""
        return _render_table(self._table[[index]], size)[0]

    def get_batch(self, indices: Sequence[int], size: int) -> np.ndarray:
        """Several pictures at once, which is much faster: uint8 `[B, 3, size, size]`."""
        return _render_table(self._table[np.asarray(indices, dtype=np.int64)], size)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "shapes",
            "path": f"shapes:{self.n}:{self.seed}",
            "count": self.n,
            "skipped": 0,
            "fingerprint": data_fingerprint(self.ids),
            "labels": self.label_names,
        }


def render(factors: Factors, size: int) -> np.ndarray:
    """Draw one picture: uint8 `[3, size, size]`, RGB. `factors` may lie outside the ranges of `Shapes`."""
    return render_batch([factors], size)[0]


def render_batch(factors: Sequence[Factors], size: int) -> np.ndarray:
    """Draw several pictures: uint8 `[N, 3, size, size]`, RGB.

    Raises:
        ValueError: a shape that is not an index into `SHAPES`, or a size below 1.
    """
    return _render_table(np.array([astuple(one) for one in factors], dtype=np.float64).reshape(-1, 7), size)


def hsv_to_rgb(hue: np.ndarray, saturation: float, value: float) -> np.ndarray:
    """RGB in [0, 1], `[..., 3]`, of hues in turns `[...]`."""
    # Each channel is a trapezium over the hue: full for a third of a turn, none for a third, ramps between.
    distance = np.abs((hue[..., None] - np.array([0.0, 1 / 3, 2 / 3]) + 0.5) % 1.0 - 0.5)
    return value * (1.0 - saturation * (1.0 - np.clip(2.0 - 6.0 * distance, 0.0, 1.0)))


def _render_table(table: np.ndarray, size: int) -> np.ndarray:
    """Draw the rows `[N, 7]` of factors (the order of `Factors`): uint8 `[N, 3, size, size]`."""
    shapes = table[:, 0].astype(np.int64)
    if size < 1 or np.any((shapes < 0) | (shapes >= len(SHAPES))):
        raise ValueError(f"shapes are numbered 0 to {len(SHAPES) - 1} and a picture has at least one pixel")
    object_rgb = hsv_to_rgb(table[:, 1], OBJECT_SATURATION, OBJECT_VALUE).astype(np.float32)
    background_rgb = hsv_to_rgb(table[:, 2], BACKGROUND_SATURATION, BACKGROUND_VALUE).astype(np.float32)
    pictures = np.empty((len(table), 3, size, size), dtype=np.uint8)
    samples = 2 if size < 96 else 1
    block = max(1, _BLOCK_PIXELS // (size * samples) ** 2)
    for shape in range(len(SHAPES)):
        members = np.flatnonzero(shapes == shape)
        for start in range(0, len(members), block):
            chosen = members[start : start + block]
            coverage = _coverage(shape, table[chosen, 3:].astype(np.float32), size, samples)[:, None]
            background = background_rgb[chosen, :, None, None]
            colour = background + coverage * (object_rgb[chosen, :, None, None] - background)
            pictures[chosen] = (255.0 * colour + 0.5).astype(np.uint8)
    return pictures


def _coverage(shape: int, geometry: np.ndarray, size: int, samples: int) -> np.ndarray:
    """How much of each pixel the object covers, in [0, 1]: `[N, size, size]`; geometry `[N, 4]`: size, x, y, rotation.

    Each of samples x samples points a pixel gets a ramp one point-spacing wide over the signed distance to the outline.
    """
    fine = size * samples
    grid = (np.arange(fine, dtype=np.float32) + 0.5) / fine
    diameter, centre_x, centre_y, rotation = (column[:, None, None] for column in geometry.T)
    radius = diameter / 2
    angle = rotation * np.float32(2 * math.pi / SYMMETRY[shape])
    right, up = (grid[None, None, :] - centre_x) / radius, (centre_y - grid[None, :, None]) / radius
    sine, cosine = np.sin(angle), np.cos(angle)
    distance = _DISTANCES[shape](right * sine + up * cosine, right * cosine - up * sine)
    points = np.clip(0.5 - distance * (radius * fine), 0.0, 1.0)
    return points.reshape(len(geometry), size, samples, size, samples).mean(axis=(2, 4))


# Signed distances, negative inside, to outlines that enclose the area pi around a centre of mass at the origin; they
# need to be right near the outline only. `along` points to a tip of the shape and `across` to its right, both in units
# of the radius of the disc of equal area.


def _ellipse(along: np.ndarray, across: np.ndarray) -> np.ndarray:
    long = np.float32(1.32)
    a, b = along / long, across * long
    level = np.sqrt(a * a + b * b)
    gradient = np.sqrt((a / long) ** 2 + (b * long) ** 2) / np.maximum(level, 1e-6)
    return (level - 1.0) / np.maximum(gradient, 1e-6)


def _star(tips: int, waist: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """An outline with `tips` tips at one radius and as many inner corners at `waist` times it.

    With waist = cos(pi / tips) it is the regular polygon.
    """
    sector = np.float32(math.pi / tips)
    outer = math.sqrt(math.pi / (tips * waist * math.sin(sector)))
    corner = (waist * outer * math.cos(sector), waist * outer * math.sin(sector))
    edge = math.hypot(corner[0] - outer, corner[1])
    normal = np.float32(math.atan2(outer - corner[0], corner[1]))
    offset = np.float32(outer * corner[1] / edge)

    def distance(along: np.ndarray, across: np.ndarray) -> np.ndarray:
        # All 2 * tips edges are mirror images: fold the plane onto the sector that holds the first one.
        rho = np.sqrt(along * along + across * across)
        theta = np.abs((np.arctan2(across, along) + sector) % (2 * sector) - sector)
        return rho * np.cos(theta - normal) - offset

    return distance


def _heart(along: np.ndarray, across: np.ndarray) -> np.ndarray:
    # A square on its corner and two half discs on its upper edges.
    side = math.sqrt(math.pi / (1 + math.pi / 4))
    half = np.float32(side / 2)
    middle = side / (2 * math.sqrt(2))  # of an edge, in both directions
    centre = (math.pi / 4) / (1 + math.pi / 4) * (middle + 2 * side / (3 * math.pi * math.sqrt(2)))
    along = along - np.float32(centre)
    across = np.abs(across)
    diamond = (np.abs(along) + across) * np.float32(math.sqrt(0.5)) - half
    disc = np.sqrt((along + np.float32(middle)) ** 2 + (across - np.float32(middle)) ** 2) - half
    return np.minimum(diamond, disc)


_DISTANCES: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    _ellipse,
    _star(3, 0.5),
    _star(4, math.sqrt(0.5)),
    _star(5, 0.5),
    _heart,
)


def is_shapes(spec: str | None) -> bool:
    """Whether `--data` names the embedded set (or means to), and no folder."""
    return not spec or spec.partition(":")[0] == "shapes"


def open_data(spec: str | None, *, fit: str = "crop", keep_duplicates: bool = False) -> ImageSource:
    """The set of pictures that the option `--data` names.

    Args:
        spec: None or "shapes", "shapes:N" or "shapes:N:SEED" for the embedded set, otherwise a folder of images (one
            that is called shapes is "./shapes").
        fit, keep_duplicates: for a folder, see `ImageFolder`; the embedded pictures are square and all different.

    Raises:
        RCDMError: numbers that are none, or as `Shapes` and `ImageFolder`.
    """
    if spec and not is_shapes(spec):
        return ImageFolder(spec, fit=fit, keep_duplicates=keep_duplicates)
    name, _, numbers = ("shapes" if spec is None else spec).partition(":")
    check_fit(fit)
    try:
        if not name:
            raise ValueError
        return Shapes(*(int(number) for number in numbers.split(":", 1) if numbers))
    except ValueError:
        raise RCDMError(
            f"--data {spec!r} is not understood: give a folder of images, or shapes, shapes:N or shapes:N:SEED."
        ) from None
