"""What the probe invariance needs to know of pictures that nobody transformed, to judge what transforms do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcdm_core.metrics.attributes import measure
from rcdm_core.metrics.bootstrap import Estimate
from rcdm_core.metrics.distances import mean_pair_distance
from rcdm_core.metrics.readout import Readout, fit_readout
from rcdm_core.probes.base import Context
from rcdm_core.probes.pictures import Pictures, fit_of, h_of, read_arrays
from rcdm_core.probes.reference import batches

MIN_READOUT = 64  # pictures from which a linear readout is worth fitting


@dataclass(frozen=True)
class Reference:
    """What a model does to pictures that nobody transformed.

    distance: mean ‖h − h'‖ over pairs of n pictures, None without at least two. readouts: attribute -> a linear
    readout of h, empty with fewer than 64 pictures beside the probed ones, on which alone they are fitted. growth: what
    the second half of those added to each readout's R².
    """

    distance: float | None
    readouts: dict[str, Readout]
    growth: dict[str, float]
    n: int


@dataclass(frozen=True)
class Usual:
    """What a model's samples are like for pictures that nobody transformed; None where that cannot be measured.

    retention and variance: attribute -> of the samples. heard: of h itself.
    """

    retention: dict[str, Estimate | None]
    variance: dict[str, Estimate | None]
    heard: Estimate | None


def take_references(context: Context, pictures: Pictures, pool: Pictures) -> list[Reference]:
    """For each model: the distances of h between all of the pictures, and readouts fitted on the pool alone."""
    h_parts: list[list[np.ndarray]] = [[] for _ in context.models]
    shown: list[list[np.ndarray]] = [[] for _ in context.models]
    every = Pictures([*pictures, *pool])
    context.progress.start(len(every), "encoding pictures to compare with", unit="picture")
    for block in batches(context, every):
        part = every[block]
        for m, model in enumerate(context.models):
            h_parts[m].append(h_of(model, part).astype(np.float64))
            shown[m] += [*read_arrays(part, model.image_size, fit_of(model))]
    context.progress.finish()
    references = []
    for parts, images in zip(h_parts, shown, strict=True):
        h = np.concatenate(parts)
        readouts, growth = {}, {}
        if len(pool) >= MIN_READOUT:
            of_pool, half = h[len(pictures) :], len(pool) // 2  # in the order of content ids, which is a random one
            for name, values in measure(np.stack(images[len(pictures) :])).items():
                if (readout := fit_readout(of_pool, values)) is not None:
                    before = fit_readout(of_pool[:half], values[:half])
                    readouts[name], growth[name] = readout, readout.r2 - (before.r2 if before else 0.0)
        references.append(Reference(mean_pair_distance(h), readouts, growth, len(every)))
    return references
