"""The unit of distances: what they are between two pictures on average."""

from __future__ import annotations

import numpy as np


def mean_of_pairs(distances: np.ndarray) -> float | None:
    """The mean of distances [N, N] over the pairs of two different rows; None with fewer than two, or if it is 0."""
    n = len(distances)
    if n < 2:
        return None
    return float((distances.sum() - np.trace(distances)) / (n * (n - 1))) or None
