"""Which dimensions of h a picture shares with its neighbours, and how far samples move when they are changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rcdm_core.metrics.attributes import measure
from rcdm_core.metrics.neighbours import Nearest
from rcdm_core.probes.drawing import draw
from rcdm_core.probes.encoding import h_of
from rcdm_core.probes.pictures import Picture, fit_of, read_arrays

if TYPE_CHECKING:
    from rcdm_core.model import RCDM
    from rcdm_core.probes.base import Context

WHICH = ("most common", "least common")
H = "h"
SPARSE = 0.01  # the share of exact zeros from which a representation is taken to have them


@dataclass(frozen=True)
class Threshold:
    """value: a dimension is zero where |h| is not above it. how: it was chosen. zeros: the share of exact ones."""

    value: float
    how: str
    zeros: float


@dataclass(frozen=True)
class Look:
    """One model on B pictures. kinds: unmodified and the two of WHICH.

    samples: kind -> [B, n, 3, S, S]. dims: of WHICH -> the dimensions that were changed, for each picture.
    candidates [B]: dimensions to choose from. asked: of WHICH -> ‖change of h‖ [B]. moved: of WHICH -> measure -> [B],
    the mean distance to unmodified samples. within: measure -> [B], between unmodified samples. toward: as moved, how
    much nearer to the partner samples are than unmodified ones; empty without one.
    """

    samples: dict[str, np.ndarray]
    dims: dict[str, list[np.ndarray]]
    candidates: np.ndarray
    asked: dict[str, np.ndarray]
    moved: dict[str, dict[str, np.ndarray]]
    within: dict[str, np.ndarray]
    toward: dict[str, dict[str, np.ndarray]]

    def numbers(self) -> Look:
        """The same without its samples, which are most of it."""
        return replace(self, samples={})


def threshold(given: float, h: np.ndarray) -> Threshold:
    """Below what |h| a dimension counts as zero; h [P, dim]: of other pictures.

    given: of 0 or more, taken as it is. Otherwise 0 where h has exact zeros, as after a ReLU, and else the median of
    |h|, so that half of all numbers count as zero.
    """
    zeros = float((h == 0).mean())
    if given >= 0:
        return Threshold(float(given), "given", zeros)
    if zeros >= SPARSE:
        return Threshold(0.0, "exact zeros", zeros)
    return Threshold(float(np.median(np.abs(h))), "median of |h|", zeros)


def common(h: np.ndarray, neighbours: np.ndarray, limit: float, share: float) -> tuple[np.ndarray, np.ndarray, int]:
    """The most and the least common of the dimensions that are not zero in h [dim], and the number of these.

    neighbours [k, dim]. Both are `share` of them, at least one, and have none in common; of equally common ones the
    most common takes the first, the least common the last. Empty with fewer than two.
    """
    candidates = np.flatnonzero(np.abs(h) > limit)
    if len(candidates) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64), len(candidates)
    counts = (np.abs(neighbours[:, candidates]) > limit).sum(axis=0)
    order = candidates[np.argsort(-counts, kind="stable")]
    number = max(1, min(round(share * len(order)), len(order) // 2))
    return order[:number], order[-number:], len(candidates)


def look_at(
    context: Context,
    model: RCDM,
    part: list[Picture],
    other: list[Picture] | None,
    ids: list[str],
    near: np.ndarray,
    limit: Threshold,
) -> Look:
    """One model on some pictures."""
    params, n = context.params, context.params["samples"]
    h = h_of(model, part, context).astype(np.float64)
    h_other = h_of(model, other, context).astype(np.float64) if other else np.zeros_like(h)
    k = params["neighbours"]
    search = Nearest(h, min(k + 1, len(near)))
    search.add(near)
    dims: dict[str, list[np.ndarray]] = {which: [] for which in WHICH}
    candidates = []
    for i, picture in enumerate(part):
        places = [j for j in search.indices[i] if ids[j] != picture.id][:k]  # not the picture itself
        most, least, number = common(h[i], near[places], limit.value, params["share"])
        dims[WHICH[0]].append(most)
        dims[WHICH[1]].append(least)
        candidates.append(number)
    changed = {}
    for which in WHICH:
        changed[which] = h.copy()
        for i, chosen in enumerate(dims[which]):
            changed[which][i, chosen] = h_other[i, chosen]
    streams = [picture.id for picture in part]  # one noise for the three of a picture
    drawn = {kind: draw(context, model, rows, n, streams) for kind, rows in {"unmodified": h, **changed}.items()}
    values = {
        kind: {
            **{
                name: one.reshape(len(part), n, -1)
                for name, one in measure(d.samples.reshape(-1, *d.samples.shape[2:])).items()
            },
            H: d.h,
        }
        for kind, d in drawn.items()
    }
    usable = np.array(candidates) >= 2
    within = {
        name: _mean(np.where(usable[:, None, None], _apart(one, one), np.nan), True)
        for name, one in values["unmodified"].items()
    }
    moved: dict[str, dict[str, np.ndarray]] = {}
    toward: dict[str, dict[str, np.ndarray]] = {}
    goal: dict[str, np.ndarray] = {}
    if other:
        shown = read_arrays(other, model.image_size, fit_of(model))
        goal = {**measure(shown), H: h_other}
    for which in WHICH:
        moved[which], toward[which] = {}, {}
        for name, one in values[which].items():
            plain = values["unmodified"][name]
            # two samples of one noise are more alike than two of the same h
            moved[which][name] = _mean(np.where(usable[:, None, None], _apart(one, plain), np.nan), True)
            if goal:
                nearer = _apart(plain, goal[name][:, None]) - _apart(one, goal[name][:, None])
                toward[which][name] = _mean(np.where(usable[:, None, None], nearer, np.nan), False)
    return Look(
        samples={kind: d.samples for kind, d in drawn.items()},
        dims=dims,
        candidates=np.array(candidates),
        asked={which: np.linalg.norm(changed[which] - h, axis=1) for which in WHICH},
        moved=moved,
        within=within,
        toward=toward,
    )


def _apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distances [B, n, m] between [B, n, d] and [B, m, d]; NaN where either is not defined."""
    return np.asarray(np.linalg.norm(first[:, :, None] - second[:, None], axis=-1))


def _mean(distances: np.ndarray, different: bool) -> np.ndarray:
    """Over the pairs of distances [B, n, m] that are defined, without those of one k if `different`: [B]."""
    distances = distances.copy()
    if different:
        distances[:, np.eye(*distances.shape[1:]) == 1] = np.nan
    defined = np.isfinite(distances)
    count = defined.sum(axis=(1, 2))
    total = np.where(defined, distances, 0).sum(axis=(1, 2))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
