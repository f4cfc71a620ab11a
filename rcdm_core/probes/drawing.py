"""Samples of rows of h, and what the encoder makes of them: what all probes do with a model.

What has been drawn is kept in OUT/.rcdm-drawn until the probe is done: one that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.atomic import make_folder, replacing
from rcdm_core.probes.base import Context, describe_model
from rcdm_core.versions import versions

if TYPE_CHECKING:
    from rcdm_core.model import RCDM

BLOCK = 64  # samples drawn at a time, about: what is done is on disk after each block
FOLDER = ".rcdm-drawn"  # in OUT, while the probe runs
_OWN = re.compile(r"[0-9a-f]{32}\.npz|\.[0-9a-f]{32}\.npz\..*\.tmp")  # a block, or one that a kill left unfinished


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
    kept = _kept(context, model, h, {**settings, "n": n, "encoded": encoded, "streams": list(streams)})
    if kept is not None and (before := _read(kept)) is not None:
        context.progress.update(len(h) * n)
        return before
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
    drawn = Drawn(samples.numpy(), again, seconds)
    if kept is not None:
        make_folder(kept.parent)
        with replacing(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, samples=drawn.samples, h=drawn.h, seconds=drawn.seconds)
    return drawn


def forget(out: Path) -> None:
    """Remove what `draw` kept, once a probe is done, and nothing else that may be in its folder."""
    folder = out / FOLDER
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if _OWN.fullmatch(path.name):
                path.unlink()
        folder.rmdir()


def _kept(context: Context, model: RCDM, h: np.ndarray, settings: dict[str, Any]) -> Path | None:
    """The file of a block, named after all that its samples depend on; None for a model that is not on disk, whose
    weights have no name."""
    model_is = describe_model("", model, context.precision)
    if model_is["bundle_digest"] is None:
        return None
    depends = {
        "model": {key: model_is[key] for key in ("bundle_digest", "device", "computes_in", "provider")},
        "versions": versions(),
        "h": hashlib.sha256(h.tobytes()).hexdigest(),
        **settings,
    }
    name = hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()[:32]
    return context.out / FOLDER / f"{name}.npz"


def _read(path: Path) -> Drawn | None:
    """What was written there; None where there is nothing, or a broken file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Drawn(file["samples"], file["h"], float(file["seconds"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


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
