"""Representations of a data set on disk: where they are cached, whether a file is the right one, statistics of h."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rcdm_core.training.rows import Rows

if TYPE_CHECKING:
    from rcdm_core.encoder import Fingerprint

# A dimension whose spread is this much smaller than its own largest value holds float32's rounding, not information.
_ROUNDING = 1e-6
_ROWS_AT_ONCE = 1024


def cache_path(folder: Path, data_key: str, encoder_key: str, fingerprint: Fingerprint, flip: bool) -> Path:
    """Where the representations of this data by this encoder are cached."""
    parts = ("h 1", data_key, encoder_key, fingerprint.weights_digest, tuple(fingerprint.h.shape), flip)
    return folder / f"h-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.safetensors"


def identity(fingerprint: Fingerprint) -> dict[str, np.ndarray]:
    """The encoder's behaviour on the test images, to be stored beside the representations."""
    return {"fingerprint.h": fingerprint.h.cpu().float().numpy()}


def open_cached(path: Path, fingerprint: Fingerprint, rows: int) -> Rows | None:
    """The cached file [N, flips, dim], or None when there is none, it is damaged, or the encoder now behaves otherwise.

    The weights' digest is in the file's name; code and preprocessing can change under the same weights, so the
    fingerprint's h is compared too.
    """
    from rcdm_core.encoder import Fingerprint, compare_fingerprints

    try:
        cached = Rows(path)
        stored = Fingerprint(fingerprint.weights_digest, torch.from_numpy(cached.beside("fingerprint.h")))
    except (OSError, ValueError, KeyError):
        return None
    if len(cached) != rows or compare_fingerprints(stored, fingerprint) is not None:
        return None
    return cached


def statistics(h: Rows, rows: np.ndarray) -> tuple[Tensor, Tensor]:
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
