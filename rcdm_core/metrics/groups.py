"""Is the difference between two groups of pictures more than chance, where they are different ones, or in part?"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from rcdm_core.metrics.bootstrap import MIN_IMAGES, RESAMPLES, Estimate, interval, resampled_counts
from rcdm_core.metrics.paired import MIN_PAIRS, SIGN_FLIPS, Difference, signs

MIN_GROUP = 4  # with fewer pictures in each group no permutation of them can reach 0.05
_BATCH = 2**20  # numbers that are permuted at a time


def compare_groups(names: tuple[str, str], first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> Difference:
    """The difference of the means of two measurements [n] and [m], with an interval that resamples both groups.

    p: by permuting which pictures are in which group, so that it is about the means as the interval is; exact where no
    more than SIGN_FLIPS permutations exist. None with fewer than MIN_GROUP pictures in either, as is p_holm, which is
    left to whoever knows how many differences there are. NaN entries are left out.
    """
    groups = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    groups = [values[np.isfinite(values)] for values in groups]
    n = min(map(len, groups))
    if n == 0:
        return Difference(*names, Estimate(float("nan"), None, None, 0), None, None)
    value = float(groups[0].mean() - groups[1].mean())
    low = high = p = None
    if n >= MIN_IMAGES:
        rng = np.random.default_rng(seed)
        means = [values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1) for values in groups]
        low, high = interval(means[0] - means[1], n)
    if n >= MIN_GROUP:
        p = _permutation_p(*groups, seed=seed)
    return Difference(*names, Estimate(value, low, high, n), p, None)


def _permutation_p(first: np.ndarray, second: np.ndarray, *, seed: int) -> float:
    """Two-sided p of the same mean of both groups [n] and [m], by permuting their members."""
    pooled = np.concatenate([first, second])
    pooled = pooled - pooled.mean()  # the means are then apart by a multiple of the first group's sum
    n, total = len(first), len(pooled)
    exact = math.comb(total, n) <= SIGN_FLIPS
    if exact:
        sums = pooled[np.array(list(combinations(range(total), n)))].sum(axis=1)
    else:
        rng, size = np.random.default_rng(seed), max(1, _BATCH // total)
        rows = [min(size, SIGN_FLIPS - start) for start in range(0, SIGN_FLIPS, size)]
        sums = np.concatenate([rng.permuted(np.tile(pooled, (k, 1)), axis=1)[:, :n].sum(axis=1) for k in rows])
    # equal up to rounding is as extreme
    extreme = int((np.abs(sums) >= abs(pooled[:n].sum()) - 1e-9 * np.abs(pooled).sum()).sum())
    return extreme / len(sums) if exact else (extreme + 1) / (len(sums) + 1)


def compare_overlapping(names: tuple[str, str], first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> Difference:
    """The difference of the means of two measurements [n] of n pictures, each over the pictures in which it is not NaN.

    A picture that has both counts as a pair, the others by themselves: with all of them pairs it is `paired.compare`.
    The interval resamples the pictures. p: by swapping, for each picture, which measurement is the first one's and
    which the second's; None with fewer than MIN_PAIRS pictures that have either. p_holm as for `compare_groups`.
    """
    both = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    some = np.isfinite(both[0]) | np.isfinite(both[1])
    both = [values[some] for values in both]
    # sums and numbers of either: what the two means are made of
    parts = np.stack([part for v in both for part in (np.nan_to_num(v), np.isfinite(v).astype(np.float64))], axis=1)
    sums = parts.sum(axis=0)
    n = int(min(sums[1], sums[3]))
    if n == 0:
        return Difference(*names, Estimate(float("nan"), None, None, 0), None, None)
    value = float(_of_means(sums[None])[0])
    low = high = p = None
    if n >= MIN_IMAGES:
        draws = np.concatenate([_of_means(counts @ parts) for counts in resampled_counts(len(parts), RESAMPLES, seed)])
        low, high = interval(draws[np.isfinite(draws)], n)
    if len(parts) >= MIN_PAIRS:
        chosen, exact = signs(len(parts), seed=seed)
        swapped = _of_means((sums + sums[[2, 3, 0, 1]] + chosen @ (parts - parts[:, [2, 3, 0, 1]])) / 2)
        # one that leaves a group without pictures says nothing, and counts against a difference
        extreme = int((~(np.abs(swapped) < abs(value) * (1 - 1e-9))).sum())
        p = extreme / len(chosen) if exact else (extreme + 1) / (len(chosen) + 1)
    return Difference(*names, Estimate(value, low, high, n), p, None)


def _of_means(sums: np.ndarray) -> np.ndarray:
    """Sums [R, 4] of the first measurement, its number, and the same of the second: the difference of the means [R]."""
    numbers = np.where(sums[:, [1, 3]] > 0.5, sums[:, [1, 3]], np.nan)
    return np.asarray(sums[:, 0] / numbers[:, 0] - sums[:, 2] / numbers[:, 1])
