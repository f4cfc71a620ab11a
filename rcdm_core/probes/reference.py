"""What samples are compared with: random pairs of held-out pictures, and the pictures of the training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from rcdm_core.errors import UnreadableImage
from rcdm_core.metrics.bootstrap import Estimate, bootstrap_over_pairs
from rcdm_core.metrics.distances import mean_of_pairs
from rcdm_core.metrics.neighbours import Nearest
from rcdm_core.probes.encoding import BATCH, h_of
from rcdm_core.probes.pictures import Picture, Pictures, default_data, fit_of, from_source, known_readable, read_arrays

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.encoder import Encoder
    from rcdm_core.model import RCDM
    from rcdm_core.probes.base import Context

UNIT_PICTURES = 512  # whose pairs are the unit of distances, at most


@dataclass(frozen=True)
class Random:
    """N held-out pictures as one model sees them.

    h [N, dim] float64; pictures [N, 3, S, S], S the generator's size, or fewer of them, the first ones. Of at most
    UNIT_PICTURES of the N, the first by content id: distances, squares [M, M], of h; pixels [M, M], half the mean
    squared difference of two pictures, which is what `pixel_variance` is of two.
    """

    h: np.ndarray
    pictures: np.ndarray
    distances: np.ndarray
    pixels: np.ndarray

    @property
    def squares(self) -> np.ndarray:
        return self.distances**2

    @cached_property
    def nearest(self) -> np.ndarray:
        """Of each of the N pictures, the distance of h to the nearest of the others: [N]; infinite without another."""
        search = Nearest(self.h, 2)
        search.add(self.h)
        own = search.indices[:, 0] == np.arange(len(self.h))
        # a picture is its own nearest, but for one of the same h, and that one is then as near
        other = np.where(own, search.indices[:, 1], search.indices[:, 0])
        found = np.linalg.norm(self.h - self.h[other], axis=1)  # again: the search rounds
        return np.where(other < 0, np.inf, found)

    def mean(self, pairs: np.ndarray) -> float | None:
        """The unit of one of the matrices: its mean over pairs of different pictures; None without one, or if 0."""
        return mean_of_pairs(pairs)

    def in_units(self, values: np.ndarray, pairs: np.ndarray, *, seed: int) -> Estimate:
        """The mean of `values` [images] in units of the pairs' mean, with an interval over both."""
        return bootstrap_over_pairs(values, pairs, seed=seed)


def batches(context: Context, pictures: Pictures) -> Iterator[slice]:
    """Where the pictures are in blocks of BATCH; progress advances by the number of pictures after each."""
    for start in range(0, len(pictures), BATCH):
        part = slice(start, min(start + BATCH, len(pictures)))
        yield part
        context.progress.update(part.stop - start)


def random_pictures(context: Context, pool: Pictures, *, kept: int | None = None) -> list[Random]:
    """For each model, what it makes of the pool. kept: how many of the pictures stay in memory; None: all."""
    from scipy.spatial.distance import pdist, squareform

    context.progress.start(len(pool) * len(context.models), "encoding pictures to compare with", unit="picture")
    # by content id, whatever the order of the pool is: that may be by class
    unit = np.sort(sorted(range(len(pool)), key=lambda i: pool[i].id)[:UNIT_PICTURES])
    found = []
    for model in context.models:
        h_parts, shown, of_unit = [], [], []
        for part in batches(context, pool):
            h_parts.append(h_of(model, pool[part], context).astype(np.float64))
            read = read_arrays(pool[part], model.image_size, fit_of(model))
            shown.append(read[: None if kept is None else max(0, kept - part.start)])
            of_unit.append(read[unit[(unit >= part.start) & (unit < part.stop)] - part.start])
        h, pictures = np.concatenate(h_parts), np.concatenate(shown)
        flat = np.concatenate(of_unit).reshape(len(unit), -1)
        pixels = pdist(flat, "sqeuclidean") / (2 * flat.shape[1])
        found.append(Random(h, pictures, squareform(pdist(h[unit])), squareform(pixels)))
    context.progress.finish()
    return found


def training_pictures(
    model: RCDM, data: ImageSource | None, count: int, *, gone: Collection[str] = frozenset()
) -> Pictures:
    """Pictures that the model was trained on, the first `count` by content id (0: all), each once; none if not known.

    They are looked for in `data` and then in the set of the model's own training. gone: ids of those that went away
    while the probe ran (`Context.gone`): h may still be known of them.
    """
    for source in (data, default_data(model)):
        if source is None:
            continue
        order = sorted(range(len(source)), key=source.ids.__getitem__)
        places = {source.ids[index]: index for index in reversed(order) if model.trained_on(source.ids[index])}
        if places:
            chosen = sorted(set(places) - set(gone))[: count or None]
            return Pictures([from_source(source, places[content_id]) for content_id in chosen])
    return Pictures([])


def gallery(
    context: Context, model: RCDM, pictures: Pictures, *, pixels: bool = True
) -> Iterator[tuple[list[Picture], np.ndarray, np.ndarray | None]]:
    """Pictures in blocks: which, their h [n, dim], and the pictures at the generator's size [n, 3, S, S].

    Those that cannot be read are left out. Progress advances by the number of pictures.
    """
    for block in batches(context, pictures):
        part = pictures[block]
        try:
            h = h_of(model, part, context)
            shown = read_arrays(part, model.image_size, fit_of(model)) if pixels else None
        except UnreadableImage:
            part = [picture for picture in part if _readable(picture, model)]
            if not part:
                continue
            h = h_of(model, part, context)
            shown = read_arrays(part, model.image_size, fit_of(model)) if pixels else None
        yield [known_readable(picture) for picture in part], h, shown


def _readable(picture: Picture, model: RCDM) -> bool:
    try:
        picture.read(8, fit_of(model), "bicubic")
    except UnreadableImage:
        return False
    return True


def reading(encoder: Encoder) -> Callable[[np.ndarray], np.ndarray]:
    """h of an encoder that is no model's own: pictures [B, 3, H, W] in [0, 1] of any size -> float32 [B, dim]."""
    import torch

    from rcdm_core.encoder import device_of, resize_for_encoder

    def read(images: np.ndarray) -> np.ndarray:
        parts = []
        with torch.no_grad():
            for part in torch.from_numpy(np.asarray(images, dtype=np.float32)).split(BATCH):
                fitted = resize_for_encoder(part.to(device_of(encoder)), encoder.image_size)
                parts.append(encoder(fitted).float().cpu().numpy())
        return np.concatenate(parts)

    return read
