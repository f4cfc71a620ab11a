"""Training and files of representations: whether one suits it, h by the dataset's rows, statistics of h."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcdm_core.errors import RCDMError
from rcdm_core.representations.file import Representations
from rcdm_core.representations.rows import Rows

# A dimension whose spread is this much smaller than its own largest value holds float32's rounding, not information.
_ROUNDING = 1e-6
_ROWS_AT_ONCE = 1024
# Of its spread: an h that is further from float32's than this is noisy enough to be seen in samples, which are drawn
# from float32's.
MOST_DEVIATION = 0.05


def check_for_training(file: Representations, *, flip: bool) -> None:
    """Raise RCDMError when the file lacks the mirror images that a training needs, or is too coarse for one."""
    if flip and not file.about.flip:
        raise RCDMError(
            f"{file.path} has no h of mirrored pictures: encode them with --flip, or train with --no-flip."
        )
    if file.about.deviation > MOST_DEVIATION:
        raise RCDMError(
            f"The {file.about.precision} h in {file.path} is off by {file.about.deviation:.2g} of its spread from that "
            f"of float32, which samples are drawn from, and {MOST_DEVIATION:g} is the most that training takes; encode "
            "with --precision float32."
        )


class HOfRows:
    """h of a dataset's rows, out of a file: `h[rows]` is float32 [n, flips, dim].

    places  [N] the row in the file of each row of the dataset; -1: it could not be read and is never asked for
    """

    def __init__(self, file: Representations, places: np.ndarray, flip: bool) -> None:
        self.file, self.places, self.flips = file, places, 2 if flip else 1

    @property
    def path(self) -> Path:
        """Of the file."""
        return self.file.path

    @property
    def row_shape(self) -> tuple[int, int]:
        """Shape of one row."""
        return self.flips, self.file.dim

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Copies of the rows."""
        return self.file.h(self.places[rows])[:, : self.flips]


def statistics(h: HOfRows | Rows, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [dim] of the given rows, all flips, in one streaming pass (float64, Chan's update).

    A dimension that never varies, but for rounding, gets 1: its own standard deviation would blow rounding noise up to
    unit variance. One that varies little beside the others is informative all the same and keeps its own.
    """
    dim = h.row_shape[-1]
    mean, sum_of_squares, largest, count = np.zeros(dim), np.zeros(dim), np.zeros(dim), 0
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = h[np.sort(rows[start : start + _ROWS_AT_ONCE])].astype(np.float64)
        block = block.reshape(block.shape[0] * block.shape[1], dim)
        largest = np.maximum(largest, np.abs(block).max(0))
        total = count + len(block)
        shift = block.mean(0) - mean
        sum_of_squares += ((block - block.mean(0)) ** 2).sum(0) + shift**2 * (count * len(block) / total)
        mean += shift * (len(block) / total)
        count = total
    std = np.sqrt(sum_of_squares / max(count, 1))
    std[std <= _ROUNDING * largest] = 1.0
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
