"""What the probe invariance needs to know of pictures that nobody transformed, to judge what transforms do."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rcdm_core.metrics.attributes import measure
from rcdm_core.metrics.bootstrap import Estimate
from rcdm_core.metrics.readout import Readout, fit_readout
from rcdm_core.probes.base import Context
from rcdm_core.probes.opening import pool_of
from rcdm_core.probes.pictures import Pictures
from rcdm_core.probes.reference import Random, random_pictures

MIN_READOUT = 64  # pictures from which a linear readout is worth fitting


@dataclass(frozen=True)
class Reference:
    """What a model does to pictures that nobody transformed.

    random: those that random pairs are of, without the pictures. readouts: attribute -> a linear readout of h, empty
    with fewer than 64 pictures beside the probed ones, on which alone they are fitted. growth: what the second half of
    those added to each readout's R².
    """

    random: Random
    readouts: dict[str, Readout]
    growth: dict[str, float]

    @property
    def n(self) -> int:
        return len(self.random.h)

    @property
    def distance(self) -> float | None:
        """Mean ‖h − h'‖ over random pairs, None without one."""
        return self.random.mean(self.random.distances)

    def in_units(self, distances: np.ndarray, *, seed: int) -> Estimate:
        """The mean of distances of h [images] in those of random pairs."""
        return self.random.in_units(distances, self.random.distances, seed=seed)


@dataclass(frozen=True)
class Usual:
    """What a model's samples are like for pictures that nobody transformed; None where that cannot be measured.

    retention and variance: attribute -> of the samples. heard: of h itself.
    """

    retention: dict[str, Estimate | None]
    variance: dict[str, Estimate | None]
    heard: Estimate | None


def take_references(context: Context, pictures: Pictures, pool: Pictures) -> list[Reference]:
    """For each model: random pairs of the pool (of the pictures where it has none), and readouts fitted on the pool."""
    references = []
    fits = len(pool) >= MIN_READOUT  # otherwise nothing is measured in the pictures
    others = pool if len(pool) > 1 else pool_of(context, None, pictures, 0)
    for random in random_pictures(context, others, kept=None if fits else 0):
        readouts, growth = {}, {}
        if fits:
            half = len(pool) // 2  # in the order of content ids, which is a random one
            for name, values in measure(random.pictures).items():
                if (readout := fit_readout(random.h, values)) is not None:
                    before = fit_readout(random.h[:half], values[:half])
                    readouts[name], growth[name] = readout, readout.r2 - (before.r2 if before else 0.0)
        references.append(Reference(replace(random, pictures=random.pictures[:0].copy()), readouts, growth))
    return references
