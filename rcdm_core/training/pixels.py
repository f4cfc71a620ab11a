"""The images at the generator's size: from the cache on disk, or decoded when they are needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rcdm_core.errors import RCDMError, UnreadableImage
from rcdm_core.representations import checksums
from rcdm_core.representations.rows import Rows, RowWriter

if TYPE_CHECKING:
    from rcdm_core.training.dataset import Dataset

_ATTEMPTS = 100


def cache_path(folder: Path, data_key: str, image_size: int) -> Path:
    """Where the pixels of this data at this size are cached; all encoders share the file."""
    parts = ("pixels 2", data_key, image_size)
    return folder / f"pixels-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.safetensors"


def finish(writer: RowWriter, unreadable: Mapping[int, str]) -> None:
    """Complete the file of `writer`. unreadable: row -> why it could not be read."""
    beside = {"unreadable": np.frombuffer(json.dumps(unreadable).encode(), np.uint8)}
    blocks = writer.checksums(checksums.rows_in_a_block(writer.row_bytes))
    writer.finish({**beside, "checksums": checksums.pack(blocks, checksums.of_arrays(beside))})


def unreadable_of(cached: Rows) -> dict[int, str]:
    """Which pictures could not be read when the file was written, and why."""
    return {int(row): reason for row, reason in json.loads(cached.beside("unreadable").tobytes()).items()}


def open_cached(path: Path, rows: int, image_size: int) -> Rows | None:
    """The cached file [N, 3, S, S] uint8, or None when there is none, or it is not what was written: then it can be
    made again, which is no matter now and would be one in the middle of a training."""
    try:
        cached = Rows(path)
        if len(cached) != rows or cached.row_shape != (3, image_size, image_size):
            return None
        beside = {"unreadable": cached.view("unreadable")}
        checksums.Checksums(cached, cached.view("checksums"), beside).check(slice(None))
        unreadable_of(cached)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return cached


class PixelReader:
    """Pixels of a Dataset's rows. `train_rows`, ascending, may stand in for others. Close it to end its threads."""

    def __init__(self, dataset: Dataset, train_rows: np.ndarray, threads: int) -> None:
        self._dataset, self._train_rows = dataset, train_rows
        self._pool = ThreadPoolExecutor(threads, "decode") if dataset.pixels is None else None

    def __call__(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels uint8 [B, 3, S, S], and the rows [B] that they are of.

        These are `rows`, but a file that has become unreadable since the first pass is replaced by the next training
        row that can be read, so that it cannot end a long run. Raises RCDMError when many in a row have gone.
        """
        rows = np.asarray(rows, np.int64)
        if self._dataset.pixels is not None:
            return self._dataset.pixels[rows], rows
        assert self._pool is not None
        found = list(self._pool.map(self._decode, map(int, rows)))
        return np.stack([picture for picture, _ in found]), np.array([row for _, row in found])

    def _decode(self, row: int) -> tuple[np.ndarray, int]:
        data = self._dataset
        next_place = int(np.searchsorted(self._train_rows, row, side="right"))
        for attempt in range(_ATTEMPTS):
            stand_in = self._train_rows[(next_place + attempt - 1) % len(self._train_rows)]
            candidate = row if attempt == 0 else int(stand_in)
            index = int(data.order[candidate])
            try:
                return data.source.get(index, data.image_size), candidate
            except UnreadableImage as error:
                data.source.report_unreadable(index, error.reason)
        raise RCDMError(f"The images of {data.source.describe()['path']} can no longer be read; are they still there?")

    def close(self) -> None:
        """End the decoding threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
