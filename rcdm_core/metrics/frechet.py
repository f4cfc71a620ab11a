"""The Fréchet distance of two sets of representations, each taken for a Gaussian (Heusel et al., 2017).

    d² = ‖m₁ − m₂‖² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½)

With X the centred rows of a set over √(n − 1), C = Xᵀ X, and Tr (C₁ C₂)^½ is the sum of the singular values of X₁ X₂ᵀ:
no root of a matrix is taken, which is exact where the dimensions outnumber the pictures, and quick.

It is biased: of n pictures, two sets of one distribution are apart by something of the order of dim / n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rcdm_core.metrics.bootstrap import LEVEL, MIN_IMAGES, Estimate

RESAMPLES = 200  # a distance takes the singular values of a matrix


@dataclass(frozen=True)
class Resampled:
    """A number, what it is in the resamples [R], and the n pictures that it rests on."""

    value: float
    draws: np.ndarray
    n: int

    def estimate(self) -> Estimate:
        """With a 95% interval as wide as the resamples, around the value instead of around their own mean.

        A picture that is drawn twice makes a set look narrower, so that distances of resamples are too large on
        average: the plain percentiles of them need not even contain the value. So the interval is of what n pictures
        give on average, with the bias that n has; none with fewer than MIN_IMAGES pictures.
        """
        if self.n < MIN_IMAGES:
            return Estimate(self.value, None, None, self.n)
        tail = (1 - LEVEL) / 2
        low, high = self.value + np.quantile(self.draws - self.draws.mean(), [tail, 1 - tail])
        return Estimate(self.value, float(low), float(high), self.n)

    def p(self) -> float | None:
        """Two-sided, of a value of 0, from the same resamples; None where there is no interval."""
        if self.n < MIN_IMAGES:
            return None
        extreme = np.abs(self.draws - self.draws.mean()) >= abs(self.value)
        return float((extreme.sum() + 1) / (len(self.draws) + 1))

    def less(self, other: Resampled) -> Resampled:
        """The difference, from resamples of the same pictures."""
        return Resampled(self.value - other.value, self.draws - other.draws, min(self.n, other.n))


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """d² of h [n, dim] and h [m, dim]. Raises ValueError for fewer than two rows, or other shapes."""
    return _distance(_gaussian(first), _gaussian(second))


def variance(h: np.ndarray) -> float:
    """Tr C: what d² is for a set that is all at the mean of h [n, dim]."""
    return float((_gaussian(h)[1] ** 2).sum())


def distances(
    sets: Sequence[np.ndarray], reference: np.ndarray, *, seed: int, resamples: int = RESAMPLES
) -> tuple[list[Resampled], list[Resampled]]:
    """d² of each of the sets [n, dim] to the reference [m, dim]; and the same over Tr C of the reference.

    All sets are resampled alike: row i of each belongs to picture i. Raises ValueError for sets of several lengths.
    """
    n, m = len(sets[0]), len(reference)
    if any(len(one) != n for one in sets):
        raise ValueError(f"expected sets of one length, got {[len(one) for one in sets]}")
    sets, reference = [np.asarray(one, np.float64) for one in sets], np.asarray(reference, np.float64)

    def measure(counts: np.ndarray | None, of_reference: np.ndarray | None) -> np.ndarray:
        against = _gaussian(reference, of_reference)
        apart = np.array([_distance(_gaussian(one, counts), against) for one in sets])
        return np.concatenate([apart, apart / max(float((against[1] ** 2).sum()), 1e-300)])

    value, draws = measure(None, None), np.empty((0, 2 * len(sets)))
    if min(n, m) >= MIN_IMAGES:
        rng = np.random.default_rng(seed)
        draws = np.stack([measure(_counts(rng, n), _counts(rng, m)) for _ in range(resamples)])
    found = [Resampled(float(value[i]), draws[:, i], min(n, m)) for i in range(2 * len(sets))]
    return found[: len(sets)], found[len(sets) :]


def over_images(
    statistic: Callable[[np.ndarray], float], n: int, *, seed: int, resamples: int = RESAMPLES, halves: bool = False
) -> Resampled:
    """statistic(rows) of all n pictures and of resamples of them.

    halves: of halves, drawn without replacement, whose spread is that of the whole: for what a picture that occurs
    twice would upset, as it does any nearest neighbour.
    """
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples if n >= MIN_IMAGES else 0):
        draws.append(statistic(rng.permutation(n)[: n // 2] if halves else rng.integers(0, n, n)))
    return Resampled(statistic(np.arange(n)), np.array(draws), n)


def _counts(rng: np.random.Generator, n: int) -> np.ndarray:
    """How often each of n pictures is drawn; at least two of them are."""
    while True:
        counts = rng.multinomial(n, np.full(n, 1.0 / n))
        if (counts > 0).sum() > 1:
            return counts.astype(np.float64)


def _gaussian(h: np.ndarray, counts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The mean [dim], and rows X [min(n, dim), dim] with Xᵀ X = C, of h [n, dim] in which rows occur `counts` times."""
    h = np.asarray(h, dtype=np.float64)
    if h.ndim != 2 or len(h) < 2:
        raise ValueError(f"expected at least two rows of h [n, dim], got {h.shape}")
    counts = np.ones(len(h)) if counts is None else counts
    mean = counts @ h / counts.sum()
    drawn = counts > 0
    rows = (h[drawn] - mean) * np.sqrt(counts[drawn] / (counts.sum() - 1))[:, None]
    return mean, np.asarray(np.linalg.qr(rows, mode="r")) if len(rows) > rows.shape[1] else rows


def _distance(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    (mean, rows), (other_mean, other_rows) = first, second
    if mean.shape != other_mean.shape:
        raise ValueError(f"expected h of one size, got {len(mean)} and {len(other_mean)} dimensions")
    shared = np.linalg.svd(rows @ other_rows.T, compute_uv=False).sum()
    apart = ((mean - other_mean) ** 2).sum() + (rows**2).sum() + (other_rows**2).sum() - 2 * shared
    return max(float(apart), 0.0)
