"""The picture that shows how a training goes: held-out images, and beside each of them samples of its h."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from rcdm_core.atomic import replacing

_GAP = 2
_COLUMN_GAP = 6


def write_preview(path: Path, real: Tensor, samples: Tensor) -> None:
    """A grid with one row per image: the real one, a wider gap, then its samples.

    real: [R, 3, S, S]; samples: [R, n, 3, S, S]; both in [0, 1]. Small pictures are enlarged to at least 64 pixels.
    """
    rows, n, _, size, _ = samples.shape
    width = size + _COLUMN_GAP + n * (size + _GAP) - _GAP
    canvas = torch.ones(3, rows * (size + _GAP) - _GAP, width)
    for row in range(rows):
        top = row * (size + _GAP)
        canvas[:, top : top + size, :size] = real[row]
        for k in range(n):
            left = size + _COLUMN_GAP + k * (size + _GAP)
            canvas[:, top : top + size, left : left + size] = samples[row, k]
    array = canvas.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(array)
    factor = max(1, -(-64 // size))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
