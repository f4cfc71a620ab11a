"""Samples of rows of h, and what the encoder makes of them: what all probes do with a model.

What has been drawn is kept until the probe is done (keeping.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.probes.base import Context
from rcdm_core.probes.keeping import Arrays, keep

if TYPE_CHECKING:
    from rcdm_core.model import RCDM

BLOCK = 64  # samples drawn at a time, about: what is done is on disk after each block


@dataclass(frozen=True)
class Drawn:
    """samples: float32 [B, n, 3, S, S] in [0, 1]. h: of the samples, encoded again, float64 [B, n, dim].

    seconds: that the sampling took, without the encoding, when it was done.
    """

    samples: np.ndarray
    h: np.ndarray
    seconds: float = 0.0


def draw(
    context: Context,
    model: RCDM,
    h: np.ndarray,
    n: int,
    streams: Sequence[str],
    *,
    seed: int | None = None,
    encoded: int | None = None,
) -> Drawn:
    """n samples of each row of h [B, dim], encoded again. Rows of one stream share their noise.

    seed: None: the run's. encoded: how many samples of each row are encoded, the first ones; None: all. Progress
    advances by the number of samples. A block that a run with the same settings drew before it was stopped is taken
    from OUT. Raises RCDMError when OUT cannot be written.
    """
    import torch

    h = np.ascontiguousarray(h, dtype=np.float32)
    settings: dict[str, Any] = {"sampler": context.sampler, "steps": context.steps}
    settings["seed"] = context.seed if seed is None else seed
    encoded = n if encoded is None else min(encoded, n)

    def sample() -> Arrays:
        begun = time.perf_counter()
        samples = model.sample(
            torch.from_numpy(h),
            n,
            streams=list(streams),
            precision=context.precision,
            progress=context.progress.update,
            **settings,
        ).cpu()  # which waits for the device
        seconds = time.perf_counter() - begun
        again = np.zeros((len(h), 0, h.shape[1]))
        if encoded:
            first = samples[:, :encoded]
            again = model.encode(first.flatten(0, 1)).unflatten(0, first.shape[:2]).numpy().astype(np.float64)
        return {"samples": samples.numpy(), "h": again, "seconds": np.array(seconds)}

    depends = {**settings, "h": h, "n": n, "encoded": encoded, "streams": list(streams)}
    found = keep(context, model, "samples", depends, sample, steps=len(h) * n)
    return Drawn(found["samples"], found["h"], float(found["seconds"]))


def blocks(count: int, samples_each: int) -> Iterator[slice]:
    """Slices of `count` rows, so that about BLOCK samples are drawn at a time."""
    rows = max(1, BLOCK // max(1, samples_each))
    for start in range(0, count, rows):
        yield slice(start, min(count, start + rows))


def pixels_of(model: RCDM) -> int:
    """Numbers in one sample."""
    return 3 * int(model.image_size) ** 2


def pixel_variance(samples: np.ndarray) -> np.ndarray:
    """The variance of each value over n pictures [..., n, 3, S, S], without bias, over the channels' mean: [..., S, S].

    It is half the mean squared difference of two of them, and NaN with fewer than two.
    """
    samples = np.asarray(samples, dtype=np.float64)
    if samples.shape[-4] < 2:
        return np.full((*samples.shape[:-4], *samples.shape[-2:]), np.nan)
    return np.asarray(samples.var(axis=-4, ddof=1).mean(axis=-3))
