"""The images at the generator's size: from the cache on disk, or decoded when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rcdm_core.errors import RCDMError, UnreadableImage
from rcdm_core.training.rows import Rows

if TYPE_CHECKING:
    from rcdm_core.training.dataset import Dataset

_ATTEMPTS = 100


def cache_path(folder: Path, data_key: str, image_size: int) -> Path:
    """Where the pixels of this data at this size are cached; all encoders share the file."""
    parts = ("pixels 1", data_key, image_size)
    return folder / f"pixels-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.safetensors"


def open_cached(path: Path, rows: int) -> Rows | None:
    """The cached file [N, 3, S, S] uint8, or None when there is none or it is damaged."""
    try:
        cached = Rows(path)
    except (OSError, ValueError):
        return None
    return cached if len(cached) == rows else None


class PixelReader:
    """Pixels of a Dataset's rows. Close it to end its threads."""

    def __init__(self, dataset: Dataset, threads: int) -> None:
        self._dataset = dataset
        self._pool = ThreadPoolExecutor(threads, "decode") if dataset.pixels is None else None

    def __call__(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [B, 3, S, S] of the rows.

        A file that has become unreadable since the first pass is replaced by the next readable row, so that it cannot
        end a long run. Raises RCDMError when many files in a row have gone.
        """
        if self._dataset.pixels is not None:
            return self._dataset.pixels[np.asarray(rows)]
        assert self._pool is not None
        return np.stack(list(self._pool.map(self._decode, map(int, rows))))

    def _decode(self, row: int) -> np.ndarray:
        data = self._dataset
        for attempt in range(_ATTEMPTS):
            candidate = (row + attempt) % len(data.order)
            if not data.readable[candidate]:
                continue
            index = int(data.order[candidate])
            try:
                return data.source.get(index, data.image_size)
            except UnreadableImage as error:
                data.source.report_unreadable(index, error.reason)
        raise RCDMError(f"The images of {data.source.describe().get('path')} can no longer be read; is it still there?")

    def close(self) -> None:
        """End the decoding threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
