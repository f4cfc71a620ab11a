"""Numbers about whole sets of pictures, with what they are in resamples of these: intervals, p, and differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rcdm_core.metrics.bootstrap import LEVEL, MIN_IMAGES, Estimate, interval, quantile, wilson

RESAMPLES = 1000
_STILL = 1e-9  # of the value: resamples that spread less do not vary, but for rounding


@dataclass(frozen=True)
class Resampled:
    """A number, what it is in the resamples [R], and the n pictures that it rests on.

    bounds: what it cannot leave. flags: of a share of the pictures, which [n] of them are in it; of the difference of
    two shares, those of both; otherwise none.
    """

    value: float
    draws: np.ndarray
    n: int
    bounds: tuple[float, float] = (-math.inf, math.inf)
    flags: tuple[np.ndarray, ...] = ()

    def estimate(self) -> Estimate:
        """With a 95% interval as wide as the resamples, around the value instead of around their own mean.

        So it is of what n pictures give on average, with the bias that n has; none with fewer than MIN_IMAGES pictures.
        Of a share it holds Wilson's too, and is that alone for few pictures: one of 0 or 1 does not vary in resamples.
        Of a difference of shares it holds that of Agresti and Min (2005), from the pictures that are in one of them.
        """
        if not math.isfinite(self.value):
            return Estimate(self.value, None, None, self.n)
        found: list[tuple[float, float]] = []
        if len(self.draws) and self.n >= MIN_IMAGES:
            low, high = interval(self.draws - self.draws.mean(), self.n)
            found.append((self.value + low, self.value + high))
        if len(self.flags) == 1:
            of_count = wilson(float(self.flags[0].sum()), self.n)
            assert of_count.low is not None and of_count.high is not None
            found.append((of_count.low, of_count.high))
        elif self.flags:
            centre, spread = _of_pairs(*self.flags)
            half = quantile(LEVEL) * spread
            found.append((min(centre - half, self.value), max(centre + half, self.value)))
        if not found:
            return Estimate(self.value, None, None, self.n)
        least, most = self.bounds
        lows, highs = zip(*found, strict=True)
        return Estimate(self.value, max(least, min(lows)), min(most, max(highs)), self.n)

    def p(self) -> float | None:
        """Two-sided, of a value of 0, by Student's distribution and the spread of the resamples.

        A count of resamples could not be less than one over their number, which a correction for many tests uses up.
        For a difference of shares the larger one of this and of the p by the pictures that are in one share only. It is
        never below 2^(1 - n), the least that any test by exchanging what is compared in n pictures can give. None with
        fewer than MIN_IMAGES pictures, or where nothing varies and the value is not 0.
        """
        from scipy.special import stdtr

        if self.n < MIN_IMAGES:
            return None
        if self.value == 0:
            return 1.0
        away = []
        spread = float(self.draws.std()) * (self.n / (self.n - 1)) ** 0.5
        if spread > _STILL * abs(self.value):
            away.append(abs(self.value) / spread)
        if len(self.flags) == 2:
            centre, of_pairs = _of_pairs(*self.flags)
            away.append(abs(centre) / of_pairs)
        if not away:
            return None
        return max(float(2 * stdtr(self.n - 1, -min(away))), 2.0 ** (1 - self.n))

    def less(self, other: Resampled) -> Resampled:
        """The difference, from resamples of the same pictures."""
        (least, most), (its_least, its_most) = self.bounds, other.bounds
        flags = (*self.flags, *other.flags) if len(self.flags) == len(other.flags) == 1 else ()
        return Resampled(
            self.value - other.value,
            self.draws - other.draws,
            min(self.n, other.n),
            (least - its_most, most - its_least),
            flags,
        )


def _of_pairs(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Centre and standard error of the difference of two shares of the same pictures, bool [n] each.

    Half a picture more is counted in each of the four cells (Agresti and Min, Statistics in Medicine 24, 2005), so that
    no difference is without one.
    """
    n = len(first) + 2
    only_first, only_second = (first & ~second).sum() + 0.5, (second & ~first).sum() + 0.5
    apart = (only_first - only_second) / n
    return float(apart), float(math.sqrt((only_first + only_second) / n - apart**2) / math.sqrt(n))


def over_images(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    seed: int,
    resamples: int,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Resampled:
    """statistic(rows) of all n pictures and of resamples of them. bounds: of the statistic."""
    rng = np.random.default_rng(seed)
    draws = [statistic(rng.integers(0, n, n)) for _ in range(resamples if n >= MIN_IMAGES else 0)]
    return Resampled(statistic(np.arange(n)), np.array(draws), n, bounds)
