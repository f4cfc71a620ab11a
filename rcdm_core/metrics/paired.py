"""Is the difference between two models, on the same pictures, more than chance?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rcdm_core.metrics.bootstrap import Estimate, bootstrap_mean

MIN_PAIRS = 6  # with fewer pictures Wilcoxon's test cannot reach 0.05


@dataclass(frozen=True)
class Difference:
    """first, second: names. difference: of the means, first less second, in the measure's own unit.

    p: of Wilcoxon's signed-rank test; p_holm: after Holm's correction over all pairs that were compared. None with
    fewer than MIN_PAIRS pictures.
    """

    first: str
    second: str
    difference: Estimate
    p: float | None
    p_holm: float | None

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
    if len(values) < 2:  # scipy.stats takes seconds to import
        return []
    from scipy.stats import wilcoxon

    found: list[tuple[str, str, Estimate, float | None]] = []
    for first, second in combinations(values, 2):
        difference = np.asarray(values[first], dtype=np.float64) - np.asarray(values[second], dtype=np.float64)
        usable = difference[np.isfinite(difference)]
        p = None
        if len(usable) >= MIN_PAIRS:
            p = float(wilcoxon(usable).pvalue) if usable.any() else 1.0
        found.append((first, second, bootstrap_mean(difference, seed=seed), p))
    corrected = iter(holm([p for *_, p in found if p is not None]))
    return [Difference(a, b, d, p, None if p is None else next(corrected)) for a, b, d, p in found]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the given order."""
    count, largest = len(p_values), 0.0
    corrected = [0.0] * count
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (count - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
