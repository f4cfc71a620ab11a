"""How much of an attribute the samples of h bring back, and whether they vary as much as pictures do.

Both are ratios of sums over held-out pictures, with the bootstrap's 95% interval over pictures; variances and
covariances of an attribute that is a vector are traces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rcdm_core.metrics.bootstrap import MIN_IMAGES, Estimate, bootstrap_ratio


@dataclass(frozen=True)
class Observed:
    """One attribute over N pictures; rows that are not finite are left out.

    real    [N, d], of the pictures
    drawn   [N, d], the mean over the samples of each picture's h
    spread  [N], the variance of the samples around that mean, summed over d
    floor   standard deviation of the pictures below which the attribute is not measurable
    """

    real: np.ndarray
    drawn: np.ndarray
    spread: np.ndarray
    floor: float

    def deviations(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """`real` and `drawn` less their means over the pictures, and `spread`; None where too little can be said."""
        usable = np.isfinite(self.real).all(axis=1) & np.isfinite(self.drawn).all(axis=1)
        real, drawn, spread = self.real[usable], self.drawn[usable], self.spread[usable]
        if len(real) < MIN_IMAGES:
            return None
        real = real - real.mean(axis=0)
        if math.sqrt((real**2).sum(axis=1).mean()) < self.floor:
            return None
        return real, drawn - drawn.mean(axis=0), spread


def rendered_retention(observed: Observed, *, seed: int) -> Estimate | None:
    """Cov(a(x), mean_k a(s_k)) / Var(a(x)).

    For a perfect generator it is Var(E[a | h]) / Var(a), what h retains; a generator that ignores h gets 0. None with
    fewer pictures than an interval needs, or where the attribute does not vary measurably.
    """
    deviations = observed.deviations()
    if deviations is None:
        return None
    real, drawn, _ = deviations
    return bootstrap_ratio((real * drawn).sum(axis=1), (real**2).sum(axis=1), seed=seed)


def variance_ratio(observed: Observed, *, seed: int) -> Estimate | None:
    """Var(a(s)) over all samples / Var(a(x)).

    Far from 1, the generator is the limit: it draws less, or more, than the pictures have. None as for
    `rendered_retention`.
    """
    deviations = observed.deviations()
    if deviations is None:
        return None
    real, drawn, spread = deviations
    return bootstrap_ratio((drawn**2).sum(axis=1) + spread, (real**2).sum(axis=1), seed=seed)
