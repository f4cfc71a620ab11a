"""Distances between representations."""

from __future__ import annotations

import numpy as np


def mean_pair_distance(h: np.ndarray) -> float | None:
    """Mean Euclidean distance over the pairs of rows of h [n, dim]; None with fewer than two rows, or if it is 0."""
    if len(h) < 2:
        return None
    total = sum(float(np.linalg.norm(h[i + 1 :] - h[i], axis=1).sum()) for i in range(len(h) - 1))
    return total / (len(h) * (len(h) - 1) / 2) or None
