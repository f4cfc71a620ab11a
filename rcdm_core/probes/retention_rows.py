"""What the probe retention measures of every picture and its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.metrics.attributes import measure
from rcdm_core.metrics.retention import over_samples
from rcdm_core.probes.drawing import draw
from rcdm_core.probes.encoding import BATCH, h_of
from rcdm_core.probes.pictures import Pictures, fit_of, read_arrays

if TYPE_CHECKING:
    from rcdm_core.metrics.judge import Judge
    from rcdm_core.model import RCDM
    from rcdm_core.probes.base import Context

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


def take_rows(context: Context, model: RCDM, pictures: Pictures, judge: Judge | None) -> Rows:
    """Sample and measure every picture."""
    rows = Rows()
    context.progress.start(len(pictures) * context.params["samples"], f"{model.name}: sampling", unit="sample")
    for start in range(0, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        rows.append(_measured(context, model, part, judge, shown=max(0, context.params["rows"] - start)))
    context.progress.finish()
    return rows


def _measured(
    context: Context, model: RCDM, pictures: Sequence[Any], judge: Judge | None, *, shown: int
) -> dict[str, np.ndarray]:
    real = read_arrays(pictures, model.image_size, fit_of(model))
    h = h_of(model, pictures, context)
    streams = [picture.id for picture in pictures]
    drawn = draw(context, model, h, context.params["samples"], streams, encoded=1)
    samples = drawn.samples
    found = {"h": h, "h of a sample": drawn.h[:, 0]}
    found |= _attributes(real, samples, measure)
    if judge is not None:
        instrument = judge
        found |= _attributes(real, samples, lambda images: {CLASS: instrument.one_hot(images)})
    if shown:
        found["pictures"], found["samples"] = (_bytes(images[:shown]) for images in (real, samples))
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
