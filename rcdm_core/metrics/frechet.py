"""The Fréchet distance of two sets of representations, each taken for a Gaussian (Heusel et al., 2017).

    d² = ‖m₁ − m₂‖² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½)

With X the centred rows of a set over √(n − 1), C = Xᵀ X, and Tr (C₁ C₂)^½ is the sum of the singular values of X₁ X₂ᵀ:
no root of a matrix is taken, which is exact where the dimensions outnumber the pictures, and quick.

It is biased: of n pictures, two sets of one distribution are apart by something of the order of dim / n.

Its interval takes no distance of any resample. With X₁ X₂ᵀ = U S Vᵀ, a picture that counts a little more moves d² by

    2 (m₁ − m₂)·(x − m₁) / n + ‖x − m₁‖² / (n − 1) − (U S Uᵀ)ᵢᵢ

which is known for all pictures from the decomposition that the value itself takes, and a resample moves it by the sum
(the infinitesimal jackknife). Distances of resamples spread too much by a quarter and more where the dimensions are as
many as the pictures, since a picture that is drawn twice makes a set narrower; these sums do less so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcdm_core.metrics.bootstrap import MIN_IMAGES, OTHER_STREAM, resampled_counts
from rcdm_core.metrics.resampled import RESAMPLES, Resampled

_NOTHING = 1e-10  # of the largest singular value: what is below has no direction


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """d² of h [n, dim] and h [m, dim]. Raises ValueError for fewer than two rows, or other shapes."""
    return _value(_gaussian(first), _gaussian(second))


def variance(h: np.ndarray) -> float:
    """Tr C: what d² is for a set that is all at the mean of h [n, dim]."""
    return _gaussian(h).variance


def distances(
    sets: Sequence[np.ndarray], reference: np.ndarray, *, seed: int, resamples: int = RESAMPLES
) -> tuple[list[Resampled], list[Resampled]]:
    """d² of each of the sets [n, dim] to the reference [m, dim]; and the same over Tr C of the reference.

    All sets are resampled alike: row i of each belongs to picture i. Raises ValueError for sets of several lengths.
    """
    n, m = len(sets[0]), len(reference)
    if any(len(one) != n for one in sets):
        raise ValueError(f"expected sets of one length, got {[len(one) for one in sets]}")
    against = _gaussian(reference)
    unit = max(against.variance, 1e-300)
    parts = [_moved(_gaussian(one), against) for one in sets]
    values = np.array([value for value, _, _ in parts])
    moves, others = (np.stack([part[i] for part in parts], axis=1) for i in (1, 2))  # [n, sets] and [m, sets]
    wider = (against.rows**2).sum(axis=1)[:, None] / (m - 1)  # how each picture of the reference moves the unit
    moves = np.concatenate([moves, moves / unit], axis=1)
    others = np.concatenate([others, (others - wider * values / unit) / unit], axis=1)
    values = np.concatenate([values, values / unit])
    draws = np.zeros((0, len(values)))
    if min(n, m) >= MIN_IMAGES:
        drawn, drawn_of_reference = (
            np.concatenate([counts @ move - move.sum(axis=0) for counts in resampled_counts(len(move), resamples, own)])
            for move, own in ((moves, seed), (others, seed + OTHER_STREAM))
        )
        draws = values + drawn + drawn_of_reference
    found = [Resampled(float(value), draws[:, i], min(n, m), (0.0, math.inf)) for i, value in enumerate(values)]
    return found[: len(sets)], found[len(sets) :]


@dataclass(frozen=True)
class _Gaussian:
    """mean [dim]; rows [n, dim], centred; root [r, dim], r = min(n, dim), with rootᵀ root = C."""

    mean: np.ndarray
    rows: np.ndarray
    root: np.ndarray

    @property
    def variance(self) -> float:
        return float((self.root**2).sum())


def _gaussian(h: np.ndarray) -> _Gaussian:
    h = np.asarray(h, dtype=np.float64)
    if h.ndim != 2 or len(h) < 2:
        raise ValueError(f"expected at least two rows of h [n, dim], got {h.shape}")
    mean = h.mean(axis=0)
    rows = h - mean
    root = rows / np.sqrt(len(h) - 1) if len(h) <= rows.shape[1] else _triangle(rows) / np.sqrt(len(h) - 1)
    return _Gaussian(mean, rows, root)


def _triangle(rows: np.ndarray) -> np.ndarray:
    """Upper R [dim, dim] with Rᵀ R = Xᵀ X, for more rows than dimensions."""
    try:
        return np.asarray(np.linalg.cholesky(rows.T @ rows).T)  # a third of the time
    except np.linalg.LinAlgError:  # dimensions that others determine
        return np.asarray(np.linalg.qr(rows, mode="r"))


def _product(first: _Gaussian, second: _Gaussian) -> np.ndarray:
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"expected h of one size, got {len(first.mean)} and {len(second.mean)} dimensions")
    return np.asarray(first.root @ second.root.T)


def _apart(first: _Gaussian, second: _Gaussian, singular: np.ndarray) -> float:
    apart = ((first.mean - second.mean) ** 2).sum() + first.variance + second.variance - 2 * singular.sum()
    return max(float(apart), 0.0)


def _value(first: _Gaussian, second: _Gaussian) -> float:
    return _apart(first, second, np.linalg.svd(_product(first, second), compute_uv=False))


def _moved(first: _Gaussian, second: _Gaussian) -> tuple[float, np.ndarray, np.ndarray]:
    """d², and by how much each picture of the first [n] and of the second [m] moves it when it counts once more."""
    u, singular, vt = np.linalg.svd(_product(first, second), full_matrices=False)
    kept = singular > _NOTHING * singular[0]
    weights = np.sqrt(singular[kept])
    moves = []
    for own, other, directions in ((first, second, vt[kept].T), (second, first, u[:, kept])):
        n = len(own.rows)
        # X₁ (X₂ᵀ V) S^-½ has the squared lengths (U S Uᵀ)ᵢᵢ of its rows
        shared = own.rows @ (other.root.T @ (directions / weights)) / np.sqrt(n - 1)
        moves.append(
            2 * own.rows @ (own.mean - other.mean) / n
            + (own.rows**2).sum(axis=1) / (n - 1)
            - np.einsum("ij,ij->i", shared, shared)
        )
    return _apart(first, second, singular), moves[0], moves[1]
