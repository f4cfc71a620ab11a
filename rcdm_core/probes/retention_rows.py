"""What the probe retention measures of every picture and its samples; on disk as it goes, to be taken up again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.atomic import replacing
from rcdm_core.metrics.attributes import measure
from rcdm_core.metrics.retention import over_samples
from rcdm_core.probes.pictures import Pictures, fit_of, h_of, read_arrays

if TYPE_CHECKING:
    from rcdm_core.metrics.judge import Judge
    from rcdm_core.model import RCDM
    from rcdm_core.probes.base import Context

BATCH = 32  # pictures read, encoded and sampled from at a time
CLASS = "class"


@dataclass
class Rows:
    """Arrays of the first N pictures, by name.

    h [N, dim], "h of a sample" [N, dim] (the first one of each picture); and for every attribute `a`, and for "class"
    as the judge sees it: "real a" [N, d], "drawn a" [N, d] (the mean over the samples in which it is defined),
    "spread a" [N] (their variance, summed over d) and "undefined a" [N] (the share of samples in which it is not).
    "pictures" [R, 3, S, S] and "samples" [R, n, 3, S, S], uint8: the first R pictures to be shown.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.arrays["h"]) if self.arrays else 0

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def append(self, part: Mapping[str, np.ndarray]) -> None:
        """Rows of further pictures."""
        for name, values in part.items():
            self.arrays[name] = np.concatenate([self.arrays[name], values]) if name in self.arrays else values

    def save(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Write the arrays, whole or not at all. Raises RCDMError on a full disk."""
        stored: dict[str, Any] = {f"array {name}": values for name, values in self.arrays.items()}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, identity=np.array(json.dumps(identity, sort_keys=True)), **stored)

    @classmethod
    def read(cls, path: Path, identity: Mapping[str, Any]) -> Rows:
        """What `save` wrote for the same `identity`; nothing where there is no such file, or a broken one."""
        import zipfile

        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["identity"]) != json.dumps(identity, sort_keys=True):
                    return cls()
                return cls({name[6:]: file[name] for name in file.files if name.startswith("array ")})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return cls()


def take_rows(
    context: Context,
    model: RCDM,
    pictures: Pictures,
    judge: Judge | None,
    path: Path,
    identity: Mapping[str, Any] | None,
) -> Rows:
    """Sample and measure every picture, going on from what `path` holds.

    identity: of all that the numbers depend on; None: a model that is not on disk, of which nothing is written.
    """
    rows = Rows() if identity is None else Rows.read(path, identity)
    n = context.params["samples"]
    done = min(len(rows), len(pictures))
    context.progress.start(len(pictures) * n, f"{model.name}: sampling", unit="sample", done=done * n)
    for start in range(done, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        rows.append(_measured(context, model, part, judge, shown=max(0, context.params["rows"] - start)))
        if identity is not None:
            rows.save(path, identity)
    context.progress.finish()
    return rows


def _measured(
    context: Context, model: RCDM, pictures: Sequence[Any], judge: Judge | None, *, shown: int
) -> dict[str, np.ndarray]:
    import torch

    real = read_arrays(pictures, model.image_size, fit_of(model))
    h = h_of(model, pictures)
    samples = model.sample(
        torch.from_numpy(h),
        context.params["samples"],
        seed=context.seed,
        streams=[picture.id for picture in pictures],
        sampler=context.sampler,
        steps=context.steps,
        precision=context.precision,
        progress=context.progress.update,
    )
    found = {"h": h, "h of a sample": model.encode(samples[:, 0]).numpy()}
    found |= _attributes(real, samples.numpy(), measure)
    if judge is not None:
        instrument = judge
        found |= _attributes(real, samples.numpy(), lambda images: {CLASS: instrument.one_hot(images)})
    if shown:
        found["pictures"], found["samples"] = (_bytes(images[:shown]) for images in (real, samples.numpy()))
    return found


def _bytes(images: np.ndarray) -> np.ndarray:
    return np.round(images * 255).astype(np.uint8)


def _attributes(
    real: np.ndarray, samples: np.ndarray, measuring: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Pictures [N, 3, S, S] and samples [N, n, 3, S, S] as the columns of `Rows`."""
    found: dict[str, np.ndarray] = {}
    count, n = samples.shape[:2]
    drawn = measuring(samples.reshape(count * n, *samples.shape[2:]))
    for name, values in measuring(real).items():
        of_samples = drawn[name].reshape(count, n, -1)
        mean, spread, undefined = over_samples(of_samples)
        found |= {f"real {name}": values, f"drawn {name}": mean}
        found |= {f"spread {name}": spread, f"undefined {name}": undefined}
    return found
