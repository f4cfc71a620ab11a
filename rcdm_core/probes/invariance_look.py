"""One model on one picture and its transforms: what it is shown, what it draws, and how far both move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from rcdm_core.metrics.attributes import ATTRIBUTES, measure
from rcdm_core.metrics.retention import over_samples
from rcdm_core.probes.drawing import draw
from rcdm_core.probes.encoding import h_of_pixels
from rcdm_core.probes.pictures import Picture, fit_of, to_array
from rcdm_core.probes.transforms import Transform, transformed

if TYPE_CHECKING:
    from rcdm_core.model import RCDM
    from rcdm_core.probes.base import Context

Views = dict[str, list[Image.Image]]  # "crop" or "pad" -> the picture and its transforms, square


@dataclass(frozen=True)
class Block:
    """One model on one picture. Rows are the identity and the transforms.

    pictures [R, 3, S, S] and samples [R, n, 3, S, S], float32 in [0, 1], S the generator's image size; h [R, dim];
    again [dim], h of the first sample of the identity; real and drawn: attribute -> [R, d], of the picture and the mean
    over its samples. spread: attribute -> [R], the mean squared distance of the samples from their mean.
    """

    pictures: np.ndarray
    samples: np.ndarray
    h: np.ndarray
    again: np.ndarray
    real: dict[str, np.ndarray]
    drawn: dict[str, np.ndarray]
    spread: dict[str, np.ndarray]

    def numbers(self) -> Block:
        """The same without its pictures and samples, which are most of it."""
        return replace(self, pictures=self.pictures[:0].copy(), samples=self.samples[:0].copy())


def views_of(context: Context, picture: Picture, rows: Sequence[Transform], strength: float) -> Views:
    """The picture and its transforms, squared in every way that one of the models asks for."""
    from rcdm_core.randomness import generator

    views: Views = {}
    for fit in dict.fromkeys(map(fit_of, context.models)):
        original = picture.original(fit)
        views[fit] = [original.picture]
        for row in rows:
            own = generator("transform", context.seed, picture.id, row.name)
            views[fit].append(transformed(row, original, strength=strength, generator=own))
    return views


def look_at(context: Context, model: RCDM, picture: Picture, views: Views) -> Block:
    """Samples of the h of every view, all from one noise, and the attributes of both."""
    side, how = model.encoder.image_size, model.encoder.interpolation
    seen = np.stack([to_array(view, side, how) for view in views[fit_of(model)]])
    shown = np.stack([to_array(view, model.image_size) for view in views[fit_of(model)]])
    h = h_of_pixels(model, seen, context)
    # one stream for all rows: they are compared with each other
    samples = draw(context, model, h, context.params["samples"], [picture.id] * len(h), encoded=0).samples
    drawn, spread = _over_samples(samples)
    return Block(
        pictures=shown,
        samples=samples,
        h=h.astype(np.float64),
        again=h_of_pixels(model, samples[0, :1], context)[0].astype(np.float64),
        real=measure(shown),
        drawn=drawn,
        spread=spread,
    )


def _over_samples(samples: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Attributes of samples [R, n, 3, S, S] over the n in which they are defined, as in `Block`: mean and spread."""
    count, n = samples.shape[:2]
    means, spread = {}, {}
    for name, values in measure(samples.reshape(count * n, *samples.shape[2:])).items():
        means[name], spread[name], _ = over_samples(values.reshape(count, n, -1))
    return means, spread


def shifts(blocks: Sequence[Block], r: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """What row r does to an attribute of each picture, and of the mean of its samples: [images, d] each."""
    real = np.stack([block.real[name][r] - block.real[name][0] for block in blocks])
    drawn = np.stack([block.drawn[name][r] - block.drawn[name][0] for block in blocks])
    return real, drawn


def moves(blocks: Sequence[Block], r: int) -> np.ndarray:
    """‖h(Tx) − h(x)‖ of row r for each picture: [images]."""
    return np.array([np.linalg.norm(block.h[r] - block.h[0]) for block in blocks])


def image_response(block: Block, r: int, name: str) -> float | None:
    """One picture's response of one attribute to row r; None where T does not measurably move it."""
    (real,), (drawn,) = shifts([block], r, name)
    square = float((real**2).sum())
    if not math.isfinite(square) or math.sqrt(square) < ATTRIBUTES[name].floor:
        return None
    value = float((real * drawn).sum() / square)
    return value if math.isfinite(value) else None
