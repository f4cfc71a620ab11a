"""h of the pictures that a probe looks at: read and encoded in blocks, and kept until it is done (keeping.py).

Those of `rcdm probe --all` share what they have encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rcdm_core.data.images import DEFAULT_INTERPOLATION
from rcdm_core.probes.keeping import keep_encoded, keep_rows
from rcdm_core.probes.pictures import Picture, fit_of, read_arrays

if TYPE_CHECKING:
    from rcdm_core.model import RCDM
    from rcdm_core.probes.base import Context

BATCH = 32  # pictures read and encoded at a time


def h_of(model: RCDM, pictures: Sequence[Picture], context: Context | None = None) -> np.ndarray:
    """h of untransformed pictures, float32 [N, dim]: from the model's file of representations where it has them, or
    from what its training left in the cache.

    The others are read and encoded BATCH at a time. context: a probe's, in whose OUT they are kept until it is done.
    """

    def compute(places: Sequence[int]) -> np.ndarray:
        encoder = model.encoder  # which need not be there for what the file holds
        chosen = [pictures[place] for place in places]
        return _encoded(model, chosen, encoder.image_size, encoder.interpolation, context)

    return model.h_by_id([picture.id if picture.is_file else None for picture in pictures], compute)


def h_at_image_size(model: RCDM, pictures: Sequence[Picture], context: Context | None = None) -> np.ndarray:
    """As `h_of`, of pictures brought to the generator's size first."""
    return _encoded(model, pictures, model.image_size, DEFAULT_INTERPOLATION, context)


def h_of_pixels(model: RCDM, pixels: np.ndarray, context: Context) -> np.ndarray:
    """h of pictures [N, 3, S, S] in [0, 1], float32 [N, dim], kept in OUT by their pixels until the probe is done."""
    import torch

    def encode() -> dict[str, np.ndarray]:
        return {"h": model.encode(torch.from_numpy(pixels)).numpy()}

    return keep_encoded(context, model, {"pixels": pixels}, encode)["h"]


def _encoded(
    model: RCDM, pictures: Sequence[Picture], size: int, interpolation: str, context: Context | None
) -> np.ndarray:
    import torch

    fit = fit_of(model)

    def encode(places: Sequence[int]) -> np.ndarray:
        part = [pictures[place] for place in places]
        return model.encode(torch.from_numpy(read_arrays(part, size, fit, interpolation))).numpy()

    parts = []
    for start in range(0, len(pictures), BATCH):
        places = range(start, min(start + BATCH, len(pictures)))
        if context is None:
            parts.append(encode(places))
        else:
            ids = [pictures[place].id for place in places]
            compute = lambda missing, places=places: encode([places[i] for i in missing])  # noqa: E731
            parts.append(keep_rows(context, model, {"read": [fit, size, interpolation]}, ids, compute))
    return np.concatenate(parts)
