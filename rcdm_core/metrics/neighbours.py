"""The nearest pictures of a gallery, exactly, with memory that does not grow with the gallery."""

from __future__ import annotations

import numpy as np

_BLOCK_BYTES = 64 << 20  # of the gallery in float64, and of distances, held at a time


class Nearest:
    """The k nearest pictures of each query, by Euclidean distance, in a gallery that comes in blocks.

    squares  float64 [Q, k], squared distances, ascending; infinite where the gallery has been smaller than k
    indices  int64 [Q, k], places in the gallery, in the order in which it came; -1 there
    """

    def __init__(self, queries: np.ndarray, k: int) -> None:
        """queries: [Q, dim]. Raises ValueError for another shape, k < 1, or values that are not finite."""
        self._queries = np.array(queries, dtype=np.float64)  # a copy, which is moved below
        if self._queries.ndim != 2 or k < 1 or not np.isfinite(self._queries).all():
            raise ValueError(f"expected finite queries [Q, dim] and k of at least 1, got {queries.shape} and {k}")
        self._centre: np.ndarray | None = None
        self._norm = np.empty(0)
        self.squares = np.full((len(self._queries), k), np.inf)
        self.indices = np.full((len(self._queries), k), -1, np.int64)
        self.seen = 0

    def add(self, gallery: np.ndarray) -> None:
        """Take more of the gallery [n, dim], of any type of number. Raises ValueError unless it is finite, and fits."""
        if gallery.ndim != 2 or gallery.shape[1] != self._queries.shape[1]:
            raise ValueError(f"expected a gallery [n, {self._queries.shape[1]}], got {gallery.shape}")
        rows = max(1, _BLOCK_BYTES // (8 * max(1, gallery.shape[1], len(self._queries))))
        for start in range(0, len(gallery), rows):
            self._add(np.asarray(gallery[start : start + rows], dtype=np.float64))

    def _add(self, block: np.ndarray) -> None:
        if not np.isfinite(block).all():
            raise ValueError("the gallery must be finite")
        if self._centre is None:
            # Distances do not change when both sides move; near the origin the expanded square loses the fewest digits.
            self._centre = block.mean(axis=0)
            self._queries -= self._centre
            self._norm = np.einsum("ij,ij->i", self._queries, self._queries)
        block = block - self._centre
        squares = self._queries @ block.T
        squares *= -2.0
        squares += self._norm[:, None]
        squares += np.einsum("ij,ij->i", block, block)
        np.maximum(squares, 0.0, out=squares)
        k = self.squares.shape[1]
        found = np.broadcast_to(np.arange(len(block)), squares.shape)
        if len(block) > k:
            found = np.argpartition(squares, k - 1, axis=1)[:, :k]
            squares = np.take_along_axis(squares, found, axis=1)
        merged = np.concatenate([self.squares, squares], axis=1)
        indices = np.concatenate([self.indices, found + self.seen], axis=1)
        best = np.argsort(merged, axis=1, kind="stable")[:, :k]
        self.squares = np.take_along_axis(merged, best, axis=1)
        self.indices = np.take_along_axis(indices, best, axis=1)
        self.seen += len(block)
