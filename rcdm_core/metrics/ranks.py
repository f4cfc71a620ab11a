"""Ranks in a gallery: how faithful samples are to the h that they were made from (paper, table 1b).

A rank is 1 plus the number of gallery pictures whose h is nearer to the query than the target's, in Euclidean
distance, as in the paper. Pictures at the same distance as the target share the average of their ranks: an encoder
that maps everything to one h gets (N + 1) / 2, chance, and not 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcdm_core.metrics.bootstrap import Estimate, bootstrap_mean, share

_BLOCK_BYTES = 64 << 20  # distances held at a time
_TIE = 1e-12  # of |q|^2 + |g|^2: differences below this are rounding of float64, not a difference in distance


def ranks(queries: np.ndarray, gallery: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The rank of gallery[targets[i]] among the gallery [N, dim], seen from queries[i]: float64 [Q], in [1, N].

    queries [Q, dim]; targets int [Q], indices into the gallery. Squared Euclidean distances in float64, in blocks of
    the gallery, so that memory beside what is given stays bounded whatever N is. Ties get the mid-rank.

    Raises ValueError for shapes that do not fit, a target outside the gallery, or values that are not finite.
    """
    queries = np.asarray(queries, dtype=np.float64)
    gallery = np.asarray(gallery)
    targets = np.asarray(targets)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"expected queries [Q, dim] and gallery [N, dim], got {queries.shape} and {gallery.shape}")
    if targets.shape != (len(queries),):
        raise ValueError(f"expected one target a query, got {targets.shape} for {len(queries)} queries")
    if len(targets) and not (targets.min() >= 0 and targets.max() < len(gallery)):
        raise ValueError(f"a target lies outside the gallery of {len(gallery)} pictures")
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise ValueError("queries and gallery must be finite")

    # Distances do not change when both sides move; near the origin the expanded square loses the fewest digits.
    centre = gallery.mean(axis=0, dtype=np.float64)
    queries = queries - centre
    query_norm = np.einsum("ij,ij->i", queries, queries)

    def squares(block: slice) -> tuple[np.ndarray, np.ndarray]:
        """|q - g|^2 without its |q|^2, which is the same for the whole gallery: [Q, block]; and |g|^2 [block]."""
        part = gallery[block] - centre
        norm = np.einsum("ij,ij->i", part, part)
        return norm - 2.0 * (queries @ part.T), norm

    rows = max(1, _BLOCK_BYTES // (8 * max(1, len(queries), gallery.shape[1])))
    blocks = [slice(start, start + rows) for start in range(0, len(gallery), rows)]
    to_target = np.empty((len(queries), 1))
    for block in blocks:
        mine = np.flatnonzero((targets >= block.start) & (targets < block.stop))
        if len(mine):
            part = gallery[targets[mine]] - centre
            to_target[mine, 0] = np.einsum("ij,ij->i", part, part) - 2.0 * np.einsum("ij,ij->i", queries[mine], part)
    nearer, tied = np.zeros(len(queries)), np.zeros(len(queries))
    for block in blocks:
        distance, norm = squares(block)
        slack = _TIE * (query_norm[:, None] + norm)
        nearer += (distance < to_target - slack).sum(axis=1)
        tied += (np.abs(distance - to_target) <= slack).sum(axis=1)  # counts the target itself
    return 1 + nearer + (tied - 1) / 2


@dataclass(frozen=True)
class RankSummary:
    """Table 1b for one model and gallery: mean rank (lower is better), mean reciprocal rank, share of first ranks."""

    mean_rank: Estimate
    mrr: Estimate
    top1: Estimate

    def as_json(self) -> dict[str, dict[str, float | int | None]]:
        """One entry a measure, each with value, low, high, n, level."""
        return {"mean_rank": self.mean_rank.as_json(), "mrr": self.mrr.as_json(), "top1": self.top1.as_json()}


def summarise(image_ranks: np.ndarray, *, seed: int = 0) -> RankSummary:
    """Ranks [images, samples] as mean rank, mean reciprocal rank and top-1, each with a 95% interval over images.

    A tie for the first place does not count as first. Top-1 is a share and gets Wilson's interval, of as many as there
    are images; the others are bootstrapped over images. NaN: an image has fewer samples than others.

    Raises ValueError unless `image_ranks` is [images, samples].
    """
    image_ranks = np.asarray(image_ranks, dtype=np.float64)
    if image_ranks.ndim != 2:
        raise ValueError(f"expected ranks [images, samples], got {image_ranks.shape}")
    first = np.where(np.isnan(image_ranks), np.nan, image_ranks == 1)
    return RankSummary(
        mean_rank=bootstrap_mean(np.nanmean(image_ranks, axis=1), seed=seed),
        mrr=bootstrap_mean(np.nanmean(1.0 / image_ranks, axis=1), seed=seed),
        top1=share(np.nanmean(first, axis=1)),
    )


@dataclass(frozen=True)
class Bin:
    """The share of samples whose rank is from `first` to `last`, over images; and by chance."""

    first: int
    last: int
    share: Estimate
    chance: float

    @property
    def label(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first}–{self.last}"

    def as_json(self) -> dict[str, object]:
        return {"ranks": self.label, "share": self.share.as_json(), "chance": self.chance}


def histogram(image_ranks: np.ndarray, n: int) -> list[Bin]:
    """Ranks [images, samples] among n pictures in bins that end at 1, 2, 5, 10, 20, 50 … and n.

    The shares have Wilson's intervals, of as many as there are images.
    A rank between two bins, which a tie can have, counts for the worse. NaN: an image has fewer samples than others.
    """
    image_ranks = np.asarray(image_ranks, dtype=np.float64)
    ends = [end for power in range(len(str(n))) for end in (10**power, 2 * 10**power, 5 * 10**power) if end < n]
    bins, before = [], 0
    for end in [*ends, n]:
        inside = np.where(np.isnan(image_ranks), np.nan, (image_ranks > before) & (image_ranks <= end))
        bins.append(Bin(before + 1, end, share(np.nanmean(inside, axis=1)), (end - before) / n))
        before = end
    return bins


def chance(n: int) -> dict[str, float]:
    """What a uniformly random rank among n pictures gives: (n + 1) / 2, H_n / n and 1 / n.

    Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"expected at least one picture in the gallery, got {n}")
    return {
        "mean_rank": (n + 1) / 2,
        "mrr": float((1.0 / np.arange(1, n + 1)).sum() / n),
        "top1": 1.0 / n,
    }
