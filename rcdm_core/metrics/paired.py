"""Is the difference between two models, on the same pictures, more than chance?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from rcdm_core.metrics.bootstrap import Estimate, Summed, bootstrap_difference, bootstrap_mean

MIN_PAIRS = 6  # with fewer pictures no flip of signs can reach 0.05
SIGN_FLIPS = 9999  # at the most: 13 pictures have fewer, and all of them are taken
SURE = 0.05  # p, after Holm's correction, below which a difference is told to be beyond chance


@dataclass(frozen=True)
class Difference:
    """first, second: names. difference: of the means, first less second, in the measure's own unit.

    p: by flipping signs; p_holm: after Holm's correction over all pairs that were compared. None with fewer than
    MIN_PAIRS pictures.
    """

    first: str
    second: str
    difference: Estimate
    p: float | None
    p_holm: float | None

    @property
    def beyond_chance(self) -> bool:
        return self.p_holm is not None and self.p_holm < SURE

    def as_json(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference.as_json(),
            "p": self.p,
            "p_holm": self.p_holm,
        }


def compare(values: Mapping[str, np.ndarray], *, seed: int = 0) -> list[Difference]:
    """Every two of the named measurements [n] of the same n pictures; those that are NaN in either are left out."""
    names = list(combinations(values, 2))
    if not names:
        return []
    columns = [np.asarray(values[a], dtype=np.float64) - np.asarray(values[b], dtype=np.float64) for a, b in names]
    enough = [int(np.isfinite(column).sum()) >= MIN_PAIRS for column in columns]
    flipped = sign_flip_p(np.stack(columns, axis=1), seed=seed).tolist()
    p_values = [p if usable else None for p, usable in zip(flipped, enough, strict=True)]
    return together(
        [
            Difference(a, b, bootstrap_mean(column, seed=seed), p, None)
            for (a, b), column, p in zip(names, columns, p_values, strict=True)
        ]
    )


def compare_summed(pairs: Sequence[tuple[str, Summed, str, Summed]], *, seed: int = 0) -> list[Difference]:
    """Names and numbers (over the same n pictures) of pairs: their differences over the pictures that count in both.

    Intervals resample both numbers of a pair together (`bootstrap_difference`); signs are flipped of the differences
    that pictures make, with denominators as they are in these pictures.
    """
    if not pairs:
        return []
    columns = []
    for _, one, _, other in pairs:
        counts = one.counts & other.counts
        column = np.full(len(counts), np.nan)
        column[counts] = one.shares(counts) - other.shares(counts)
        columns.append(column)
    flipped = sign_flip_p(np.stack(columns, axis=1), seed=seed).tolist()
    return together(
        [
            Difference(
                first,
                second,
                bootstrap_difference(one, other, seed=seed),
                p if int(np.isfinite(column).sum()) >= MIN_PAIRS else None,
                None,
            )
            for (first, one, second, other), column, p in zip(pairs, columns, flipped, strict=True)
        ]
    )


def compare_each(values: Mapping[str, Mapping[str, np.ndarray]], *, seed: int = 0) -> list[Difference]:
    """Every two models in each measure that both have, on the same pictures, with Holm's correction over all.

    values: model -> measure -> [n]. The first name of a difference says the measure too.
    """
    found: list[Difference] = []
    for measure in dict.fromkeys(measure for of_model in values.values() for measure in of_model):
        having = {name: of_model[measure] for name, of_model in values.items() if measure in of_model}
        found += [replace(one, first=f"{one.first}: {measure}") for one in compare(having, seed=seed)]
    return together(found)


def together(*parts: Sequence[Difference]) -> list[Difference]:
    """Differences of one run, however they were compared, with Holm's correction over all of them."""
    found = [difference for part in parts for difference in part]
    corrected = iter(holm([d.p for d in found if d.p is not None]))
    return [d if d.p is None else replace(d, p_holm=next(corrected)) for d in found]


def sign_flip_p(differences: np.ndarray, *, seed: int) -> np.ndarray:
    """Two-sided p of a mean of 0 for each column of paired differences [n, m], by flipping signs of pictures: [m].

    It asks for no shape of the distribution, and about the mean, which is what the table beside it gives. With few
    pictures all flips are taken and p is exact, with more SIGN_FLIPS random ones. A picture that is NaN in a column
    does not count there; a column without any gets 1.
    """
    values = np.nan_to_num(np.asarray(differences, dtype=np.float64), posinf=0.0, neginf=0.0)
    n = len(values)
    flips, exact = signs(n, seed=seed)
    # equal up to rounding is as extreme
    extreme = (np.abs(flips @ values) >= np.abs(values.sum(axis=0)) * (1 - 1e-9)).sum(axis=0)
    # random flips are counted with the one that was observed, so that p is never 0
    p: np.ndarray = extreme / len(flips) if exact else (extreme + 1) / (len(flips) + 1)
    return p


def _is_exact(n: int) -> bool:
    """Whether all flips of the signs of n pictures are taken."""
    return n < 31 and 2**n <= SIGN_FLIPS


def pairs_needed(count: int) -> int | None:
    """Pictures from which on one of `count` differences can be below SURE after Holm's correction; None: none are."""
    for n in range(MIN_PAIRS, 64):
        # of random flips some may be those that turn no sign or all of them: that many are to be expected
        least = 2.0 ** (1 - n) + (0 if _is_exact(n) else 1 / (SIGN_FLIPS + 1))
        if least * count < SURE:
            return n
    return None


def signs(n: int, *, seed: int) -> tuple[np.ndarray, bool]:
    """Signs of n pictures, -1 or 1, [flips, n]; and whether they are all that there are, or SIGN_FLIPS random ones."""
    if _is_exact(n):
        return 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1), True
    return np.random.default_rng(seed).integers(0, 2, (SIGN_FLIPS, n)) * 2.0 - 1.0, False


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the given order."""
    count, largest = len(p_values), 0.0
    corrected = [0.0] * count
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (count - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
