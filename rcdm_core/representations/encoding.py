"""A batch of pictures to h, as fast as the device allows and within the fingerprint's tolerance."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rcdm_core.encoder import (
    Fingerprint,
    compare_fingerprints,
    fingerprint_images,
    full_precision,
    relative_change,
)
from rcdm_core.errors import RCDMError
from rcdm_core.precision import computing_in

if TYPE_CHECKING:
    from torch import Tensor

    from rcdm_core.encoder import Encoder

# Pictures at once: the same wherever h is written to disk, because the last bits of h hang on it.
BATCH_SIZE = 32


class BatchEncoder:
    """uint8 pictures -> h, in float32 or under bfloat16's autocast.

    mark  the encoder's fingerprint, by which it is seen that channels-last pictures, in which convolutions take two
          thirds of the time on a CPU, give the same h; a network that cannot take them gets the usual ones
    """

    def __init__(
        self, encoder: Encoder, mark: Fingerprint, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.encoder, self.device, self.dtype = encoder, device, dtype
        self.layout = self._fastest_layout(mark) if encoder.dim else torch.contiguous_format

    def __call__(self, pictures: Sequence[np.ndarray], flip: bool) -> np.ndarray:
        """h [B, 2, dim] of uint8 pictures [3, S, S] and of their mirror images; without `flip` h [B, 1, dim].

        Raises RCDMError when it is not finite.
        """
        if not pictures or not self.encoder.dim:
            return np.zeros((len(pictures), 2 if flip else 1, self.encoder.dim), np.float32)
        images = torch.from_numpy(np.stack(pictures)).to(self.device).float().div_(255)
        views = [images, images.flip(-1)] if flip else [images]
        h = torch.stack([self._h(view, self.dtype) for view in views], 1).cpu()
        if not torch.isfinite(h).all():
            raise RCDMError("The encoder gives an h that is not finite for some of the images; check its weights.")
        return h.numpy()

    def deviation(self, mark: Fingerprint) -> float:
        """How far this precision moves h on the fingerprint's pictures, as a share of its spread over them."""
        if self.dtype == torch.float32:
            return 0.0
        return relative_change(mark.h, self._h(self._test_images(), self.dtype).cpu())

    def _h(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        exact = full_precision(self.device.type) if dtype == torch.float32 else contextlib.nullcontext()
        with torch.inference_mode(), exact, computing_in(dtype, self.device):
            return self.encoder(images.contiguous(memory_format=self.layout)).float()

    def _test_images(self) -> Tensor:
        return fingerprint_images(self.encoder.image_size).to(self.device)

    def _fastest_layout(self, mark: Fingerprint) -> torch.memory_format:
        if sum(weight.ndim == 4 for weight in self.encoder.parameters()) < 2:  # a transformer's cutting into patches
            return torch.contiguous_format
        self.layout = torch.channels_last
        try:
            self.encoder.to(memory_format=self.layout)
            h = self._h(self._test_images(), torch.float32).cpu()
            if compare_fingerprints(mark, Fingerprint(mark.weights_digest, h)) is None:
                return self.layout
        except Exception:  # a user's network may do anything with pictures that lie otherwise in memory
            pass
        self.encoder.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
