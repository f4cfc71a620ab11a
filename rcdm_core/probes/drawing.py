"""Samples of rows of h, and what the encoder makes of them: what all probes do with a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rcdm_core.model import RCDM
    from rcdm_core.probes.base import Context

BLOCK = 64  # samples drawn at a time, about: what is done is on disk after each block


@dataclass(frozen=True)
class Drawn:
    """samples: float32 [B, n, 3, S, S] in [0, 1]. h: of the samples, encoded again, float64 [B, n, dim]."""

    samples: np.ndarray
    h: np.ndarray


def draw(
    context: Context, model: RCDM, h: np.ndarray, n: int, streams: Sequence[str], *, seed: int | None = None
) -> Drawn:
    """n samples of each row of h [B, dim], encoded again. Rows of one stream share their noise.

    seed: None: the run's. Progress advances by the number of samples.
    """
    import torch

    samples = model.sample(
        torch.from_numpy(np.ascontiguousarray(h, dtype=np.float32)),
        n,
        seed=context.seed if seed is None else seed,
        streams=list(streams),
        sampler=context.sampler,
        steps=context.steps,
        precision=context.precision,
        progress=context.progress.update,
    )
    again = model.encode(samples.flatten(0, 1)).unflatten(0, samples.shape[:2])
    return Drawn(samples.numpy(), again.numpy().astype(np.float64))


def blocks(count: int, samples_each: int) -> Iterator[slice]:
    """Slices of `count` rows, so that about BLOCK samples are drawn at a time."""
    rows = max(1, BLOCK // max(1, samples_each))
    for start in range(0, count, rows):
        yield slice(start, min(count, start + rows))


def pixel_variance(samples: np.ndarray) -> np.ndarray:
    """The variance of each value over n pictures [..., n, 3, S, S], without bias, over the channels' mean: [..., S, S].

    It is half the mean squared difference of two of them, and NaN with fewer than two.
    """
    samples = np.asarray(samples, dtype=np.float64)
    if samples.shape[-4] < 2:
        return np.full((*samples.shape[:-4], *samples.shape[-2:]), np.nan)
    return np.asarray(samples.var(axis=-4, ddof=1).mean(axis=-3))
