"""How much of an attribute the samples of h bring back, and whether they vary as much as pictures do.

All are ratios of variances and covariances over held-out pictures (traces, where the attribute is a vector), with the
bootstrap's 95% interval over pictures, in which every resample has means of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rcdm_core.metrics.bootstrap import MIN_IMAGES, Estimate, Summed, bootstrap_sums


@dataclass(frozen=True)
class Observed:
    """One attribute over N pictures; rows that are not finite are left out.

    real    [N, d], of the pictures
    drawn   [N, d], the mean over the samples of each picture's h
    spread  [N], the variance of the samples around that mean, summed over d
    floor   standard deviation of the pictures below which the attribute is not measurable
    seen    [N, d], what the instrument that measured the samples makes of the real pictures, where that is not `real`
            itself: a class has labels, but of samples it can only be guessed
    """

    real: np.ndarray
    drawn: np.ndarray
    spread: np.ndarray
    floor: float
    seen: np.ndarray | None = None

    @property
    def usable(self) -> np.ndarray:
        """Which pictures count: bool [N]."""
        return np.isfinite(self.real).all(axis=1) & np.isfinite(self.drawn).all(axis=1)

    def measurable(self) -> bool:
        """Whether the pictures are enough for an interval and vary by more than the floor."""
        real = self.real[self.usable]
        return len(real) >= MIN_IMAGES and math.sqrt(real.var(axis=0).sum()) >= self.floor

    def estimate(self, statistic: Callable[[Moments], np.ndarray], *, seed: int) -> Estimate | None:
        """A function of the moments with its interval; None where the attribute is not measurable."""
        if not self.measurable():
            return None
        return bootstrap_sums(self._parts(), self._of_sums(statistic), seed=seed)

    def rendered(self) -> Summed:
        """The rendered retention, to be resampled together with another one of the same pictures."""
        return Summed(self._parts(), self._of_sums(_rendered), self._shares)

    def _of_sums(self, statistic: Callable[[Moments], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        d = self.real.shape[1]
        return lambda sums: statistic(Moments(sums, d))

    def _parts(self) -> np.ndarray:
        """[N, 7 + 3 d]: what `Moments` takes the sums of; NaN for pictures that do not count."""
        usable = self.usable
        # centred, because moments are differences of sums
        real, drawn, seen = (values[usable] - values[usable].mean(axis=0) for values in self._all)
        parts = np.full((len(usable), 7 + 3 * real.shape[1]), np.nan)
        parts[usable] = np.concatenate(
            [
                np.ones((len(real), 1)),
                np.stack([(a * b).sum(axis=1) for a, b in ((real, drawn), (real, seen), (real, real))], axis=1),
                np.stack([(drawn**2).sum(axis=1), (seen**2).sum(axis=1), self.spread[usable]], axis=1),
                *(real, drawn, seen),
            ],
            axis=1,
        )
        return parts

    @property
    def _all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.real, self.drawn, self.real if self.seen is None else self.seen

    def _shares(self, counts: np.ndarray) -> np.ndarray:
        """[n]: numbers whose mean over the pictures that count, bool [N], is their rendered retention."""
        if not counts.any():
            return np.empty(0)
        real, drawn, seen = (values[counts] - values[counts].mean(axis=0) for values in self._all)
        bottom = (real * seen).sum(axis=1).mean()
        return np.asarray((real * drawn).sum(axis=1) / bottom if bottom else np.full(len(real), np.nan))


class Moments:
    """(Co)variances in R resamples, each [R] and traced over the vector: those of the columns of `Observed.estimate`.

    real_drawn, real_seen: covariances. real, drawn, seen: variances. spread: the mean of the samples' own variance.
    """

    def __init__(self, sums: np.ndarray, d: int) -> None:
        n = sums[:, 0]
        means = sums[:, 1:] / n[:, None]
        real, drawn, seen = (means[:, 6 + i * d : 6 + (i + 1) * d] for i in range(3))
        self.real_drawn = means[:, 0] - (real * drawn).sum(axis=1)
        self.real_seen = means[:, 1] - (real * seen).sum(axis=1)
        self.real = means[:, 2] - (real**2).sum(axis=1)
        self.drawn = means[:, 3] - (drawn**2).sum(axis=1)
        self.seen = means[:, 4] - (seen**2).sum(axis=1)
        self.spread = means[:, 5]


def over_samples(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values [N, n, d] over the n samples in which they are defined: mean [N, d], variance summed over d [N], and the
    share in which they are not [N]."""
    defined = np.isfinite(values).all(axis=2, keepdims=True)
    number = defined.sum(axis=1)  # [N, 1]
    mean = np.where(number > 0, np.where(defined, values, 0).sum(axis=1) / np.maximum(number, 1), np.nan)
    squares = np.where(defined, (values - mean[:, None]) ** 2, 0).sum(axis=(1, 2))
    spread = np.where(number[:, 0] > 0, squares / np.maximum(number[:, 0], 1), np.nan)
    return mean, spread, 1 - number[:, 0] / values.shape[1]


def _over(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    usable = np.abs(bottom) > 1e-12
    return np.where(usable, top / np.where(usable, bottom, 1.0), np.nan)


def _rendered(moments: Moments) -> np.ndarray:
    return _over(moments.real_drawn, moments.real_seen)


def rendered_retention(observed: Observed, *, seed: int) -> Estimate | None:
    """Cov(a(x), mean_k a(s_k)) / Var(a(x)).

    For a perfect generator it is Var(E[a | h]) / Var(a), what h retains; a generator that ignores h gets 0. With an
    instrument of its own, Cov(a(x), seen(x)) is below the line: what the instrument misses in real pictures does not
    count against the samples. None with fewer pictures than an interval needs, or where the attribute does not vary
    measurably.
    """
    return observed.estimate(_rendered, seed=seed)


def hearing(h: np.ndarray, again: np.ndarray, *, seed: int) -> Estimate | None:
    """The rendered retention of h itself [N, dim] in the h of a sample of each, again [N, dim].

    0 for a generator that ignores h. Each dimension counts in its own standard deviations. None for an h that is the
    same for all pictures, and as for `rendered_retention`.
    """
    h, again = np.asarray(h, dtype=np.float64), np.asarray(again, dtype=np.float64)
    scale = h.std(axis=0)
    varies = scale > 1e-6 * np.abs(h).max(axis=0)  # relative: the units of h say nothing
    if not varies.any():
        return None
    h, again = h[:, varies] / scale[varies], again[:, varies] / scale[varies]
    return rendered_retention(Observed(h, again, np.zeros(len(h)), floor=0.0), seed=seed)


def variance_ratio(observed: Observed, *, seed: int) -> Estimate | None:
    """Var(a(s)) over all samples / Var(a(x)).

    Far from 1, the generator is the limit: it draws less, or more, than the pictures have. None as for
    `rendered_retention`.
    """
    return observed.estimate(lambda m: _over(m.drawn + m.spread, m.seen), seed=seed)


def agreement(observed: Observed, *, seed: int) -> Estimate | None:
    """Cov(a(x), mean_k a(s_k))² / (Var(a(x)) Var(mean_k a(s_k))), with the covariance's sign.

    The samples' mean is a function of h (and noise), so h retains at least this much, whatever the generator is like:
    one that exaggerates, or always draws the likeliest, has a higher rendered retention than h has, but not this. None
    as for `rendered_retention`.
    """
    return observed.estimate(lambda m: _over(m.real_drawn * np.abs(m.real_drawn), m.real * m.drawn), seed=seed)


def instrument(observed: Observed, *, seed: int) -> Estimate | None:
    """Cov(a(x), seen(x)) / Var(a(x)): 1 for an instrument that is always right. None as for `rendered_retention`."""
    return observed.estimate(lambda m: _over(m.real_seen, m.real), seed=seed)
