"""KID, precision and recall of two sets of features, of all pictures and of many halves of them at once.

Resamples with replacement are no good here: a picture that occurs twice is its own nearest neighbour. Halves without
replacement have none twice, and a number's spread over halves of n pictures is its standard error with n of them.
Kernels and distances are computed once for all halves, in blocks of rows, so that memory grows with n and not with n².
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rcdm_core.metrics.bootstrap import MIN_IMAGES

HALVES = 100
_NEAREST = 64  # of a picture, among which its neighbours in any half are: they are not in 1 of 10^15 cases
_BLOCK = 1 << 24  # distances held at a time


def members(n: int, *, seed: int, halves: int = HALVES) -> np.ndarray:
    """Which of n pictures count, bool [1 + halves, n]: all of them, and then halves; without these if n is too few."""
    rng = np.random.default_rng(seed)
    rows = [np.ones(n, dtype=bool)]
    for _ in range(halves if n >= MIN_IMAGES else 0):
        half = np.zeros(n, dtype=bool)
        half[rng.permutation(n)[: n // 2]] = True
        rows.append(half)
    return np.stack(rows)


def kernel_distances(sets: Sequence[np.ndarray], reference: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
    """KID (Bińkowski et al., 2018) of each set [n, dim] and the reference [n, dim], over each row of `chosen` [R, n].

    The unbiased estimate with the kernel (x·y / dim + 1)³, over all pictures at once: what the subsets of the usual
    one estimate, without the chance of which they are.
    """
    counts = chosen.sum(axis=1)
    weights = chosen.astype(np.float64)

    def within(x: np.ndarray) -> np.ndarray:
        itself = ((x.astype(np.float64) ** 2).sum(axis=1) / x.shape[1] + 1) ** 3
        return np.asarray((_kernel_sums(x, x, weights) - weights @ itself) / (counts * (counts - 1)))

    of_reference = within(reference)
    return [within(x) + of_reference - 2 * _kernel_sums(x, reference, weights) / counts**2 for x in sets]


def _kernel_sums(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = np.zeros(len(weights))
    for block in _blocks(len(x), len(y)):
        kernel = (x[block] @ y.T / x.shape[1] + 1.0).astype(np.float64) ** 3
        total += np.einsum("rb,br->r", weights[:, block], kernel @ weights.T)
    return total


@dataclass(frozen=True)
class Covered:
    """The share of pictures that are in a ball, [R]; and over the first row of R, which [n] of the pictures are."""

    shares: np.ndarray
    first: np.ndarray


def precision_recall(
    sets: Sequence[np.ndarray], reference: np.ndarray, chosen: np.ndarray, *, neighbours: int
) -> list[tuple[Covered, Covered]]:
    """Precision and recall (Kynkäänniemi et al., 2019) of each set [n, dim] over each row of `chosen` [R, n].

    The share of a set's pictures that lie in the ball of some picture of the reference, which reaches to its
    `neighbours`-th nearest one of the reference, and the same the other way round.
    """
    of_reference = _radii(reference, chosen, neighbours)
    return [
        (_covered(x, reference, of_reference, chosen), _covered(reference, x, _radii(x, chosen, neighbours), chosen))
        for x in sets
    ]


def _radii(x: np.ndarray, chosen: np.ndarray, neighbours: int) -> np.ndarray:
    """Of the ball of each picture that counts, float32 [R, n]; -1 of those that do not."""
    import torch

    n = len(x)
    rows = torch.from_numpy(x)
    radii = np.full(chosen.shape, -1.0, dtype=np.float32)
    for block in _blocks(n, n):
        found = torch.cdist(rows[block], rows).topk(min(_NEAREST, n), largest=False)
        nearest, places = found.values.numpy(), found.indices.numpy()
        for radius, counts in zip(radii, chosen, strict=True):
            wanted = min(neighbours, int(counts.sum()) - 1) + 1  # the picture itself is the first
            reached = np.cumsum(counts[places], axis=1) >= wanted
            of_block = np.take_along_axis(nearest, reached.argmax(axis=1)[:, None], axis=1)[:, 0]
            radius[block] = np.where(counts[block], of_block, -1.0)
    return radii


def _covered(points: np.ndarray, centres: np.ndarray, radii: np.ndarray, chosen: np.ndarray) -> Covered:
    """Of the points that count, those which are in a ball."""
    import torch

    inside = np.zeros(chosen.shape, dtype=bool)
    for block in _blocks(len(points), len(centres)):
        distances = torch.cdist(torch.from_numpy(points[block]), torch.from_numpy(centres)).numpy()
        for row, radius in zip(inside, radii, strict=True):
            row[block] = (distances <= radius).any(axis=1)
    inside &= chosen
    return Covered(inside.sum(axis=1) / chosen.sum(axis=1), inside[0])


def _blocks(n: int, columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK // columns)
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))
