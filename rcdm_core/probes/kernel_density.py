"""Appendix B: representations without a picture, from a kernel density over those of pictures.

p(h) = 1/N Σ N(h; f(x_n), Iσ), σ = 0.01: one of N pictures' h and Gaussian noise. The pictures are taken in turn, in
random order, so that each is used as often as any other, and once where N suffices: what is drawn near one picture is
no two independent cases. Iσ is read as a standard deviation of σ in every dimension; as a covariance it would be one of
√σ, which `std` takes as well (0.1 for the paper's 0.01).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.probes.pictures import Picture, Pictures, from_source
from rcdm_core.probes.reference import gallery, training_pictures
from rcdm_core.provider import Option

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.probes.base import Context

TRAINING, DATA = "training", "data"
PARAMETERS = {
    "std": Option(float, 0.01, "standard deviation of the noise on h, in h's own units"),
    "source": Option(str, TRAINING, "pictures whose h the density is over: training, or data (those of --data)"),
    "training": Option(int, 5000, "pictures of the source to take; 0: all"),
}


@dataclass(frozen=True)
class Density:
    """A kernel density over the h [N, dim] of pictures."""

    pictures: list[Picture]
    h: np.ndarray
    std: float

    def draw(self, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """h float64 [count, dim], and the places [count] of the pictures that they are near.

        The k-th depends on the seed and k alone, and is near the same picture as the (k + N)-th.
        """
        from rcdm_core.randomness import generator

        rngs = [generator(seed, "kernel density", k) for k in range(count)]
        order = generator(seed, "kernel density", "order").permutation(len(self.h))
        places = order[np.arange(count) % len(order)]
        noise = np.stack([rng.standard_normal(self.h.shape[1]) for rng in rngs])
        return self.h[places].astype(np.float64) + self.std * noise, places

    def owners(self, count: int) -> np.ndarray:
        """Of which picture each of the first `count` is, int [count]: numbered as they are drawn, from 0 on."""
        return np.arange(count) % len(self.h)


def stream(k: int) -> str:
    """The stream of the noise that the k-th drawn h is sampled with, in the form of a content id."""
    return hashlib.sha256(f"kernel density {k}".encode()).hexdigest()


def check_density(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for a source or noise that does not exist."""
    if params["std"] < 0:
        raise RCDMError(f"std is {params['std']:g}, but expected a standard deviation of at least 0.")
    if params["source"] not in (TRAINING, DATA):
        raise RCDMError(f"source is {params['source']!r}, but expected {TRAINING} or {DATA}.")


def most_compared(params: Mapping[str, Any], data: ImageSource | None, count: int) -> int:
    """How many of `count` held-out pictures what is drawn may be compared with: those of `density`'s `skip`.

    Where the density is over the same pictures, `data`, they are half of these at the most.
    """
    return count if data is None or params["source"] == TRAINING else min(count, len(set(data.ids)) // 2)


def density(context: Context, m: int, data: ImageSource | None, skip: Collection[str] = ()) -> Density:
    """The density over the h of model m's source.

    skip: ids of pictures that what is drawn is compared with. They are no part of a density over --data: a sample of
    the h of the very picture would be held against it.

    Raises RCDMError for fewer than three pictures of it at hand.
    """
    params, name, model = context.params, context.names[m], context.models[m]
    if params["source"] == TRAINING:
        found = training_pictures(model, data, params["training"], gone=context.gone)
        remedy = f"give their folder with --data, or --source {DATA} for the density over what is there"
    else:
        ids = {} if data is None else {content_id: i for i, content_id in enumerate(data.ids)}
        chosen = sorted(set(ids) - set(skip) - context.gone)[: params["training"] or None]
        found = Pictures([from_source(data, ids[one]) for one in chosen]) if data is not None else Pictures([])
        remedy = "give a larger folder with --data"
    pictures: list[Picture] = []
    parts: list[np.ndarray] = []
    if len(found) >= 3:
        context.progress.start(len(found), f"{name}: encoding the {params['source']}", unit="picture")
        for part, h, _ in gallery(context, model, found, pixels=False):
            pictures += part
            parts.append(h)
        context.progress.finish()
    if len(pictures) < 3:
        what = f"that {name} was trained on" if params["source"] == TRAINING else "of the data"
        raise RCDMError(
            f"{'Fewer than three' if pictures or len(found) else 'None'} of the pictures {what} are at hand, and h is "
            f"drawn from a density over theirs; {remedy}."
        )
    return Density(pictures, np.concatenate(parts), params["std"])
