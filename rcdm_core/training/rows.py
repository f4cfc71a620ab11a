"""Arrays with one row per image that live on disk: written row by row, read through the page cache.

The files are valid safetensors, so other programs can open them. They are written by hand because safetensors wants all
of a tensor in memory at once. The header is reserved first and filled in last, when everything is known.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from rcdm_core.atomic import explain_failures

# What the user chooses the folder of these files with.
CACHE_OPTION = "--cache or RCDM_CACHE"

_HEADER_BYTES = 4096
_SAFETENSORS_NAMES: dict[np.dtype, str] = {np.dtype(np.float32): "F32", np.dtype(np.uint8): "U8"}
# How much may be read before the pages are given back: keeps the resident memory of long trainings flat.
_RELEASE_AFTER = 64 * 2**20


class RowWriter:
    """Writes `rows` [N, *row_shape] in order, then small uint8 or float32 arrays beside it.

    Use as a context manager around the temporary file of `atomic.replacing`.
    """

    def __init__(self, path: Path, name: str, row_shape: Sequence[int], dtype: np.dtype) -> None:
        self.path, self.name, self.row_shape, self.dtype = path, name, tuple(row_shape), np.dtype(dtype)
        self.count = 0

    def __enter__(self) -> RowWriter:
        with explain_failures(self.path, CACHE_OPTION):
            self._file = self.path.open("wb")
        self._file.write(b" " * _HEADER_BYTES)
        return self

    def append(self, rows: np.ndarray) -> None:
        """Add rows [n, *row_shape]. Raises RCDMError when the disk is full."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]} where {self.row_shape} was declared")
        with explain_failures(self.path, CACHE_OPTION):
            self._file.write(rows.data if rows.size else b"")
        self.count += len(rows)

    def finish(self, beside: Mapping[str, np.ndarray]) -> None:
        """Write the arrays `beside` the rows and the header. The file is complete afterwards."""
        arrays = {self.name: (self.dtype, (self.count, *self.row_shape))}
        arrays |= {name: (array.dtype, array.shape) for name, array in beside.items()}
        header: dict[str, object] = {}
        end = 0
        for name, (dtype, shape) in arrays.items():
            size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            header[name] = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": shape, "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header).encode()
        if len(text) > _HEADER_BYTES - 8:
            raise ValueError("the header does not fit into its reserved place")
        with explain_failures(self.path, CACHE_OPTION):
            for array in beside.values():
                self._file.write(np.ascontiguousarray(array).tobytes())
            self._file.seek(0)
            self._file.write((_HEADER_BYTES - 8).to_bytes(8, "little") + text.ljust(_HEADER_BYTES - 8))
            self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Rows:
    """The arrays of one file that RowWriter wrote. `rows[indices]` copies those rows out of the memory map.

    Raises ValueError when the file is not complete or not of this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with self.path.open("rb") as file:
            start = int.from_bytes(file.read(8), "little")
            if not 0 < start < 2**24:
                raise ValueError(f"{path} is not a safetensors file")
            header = json.loads(file.read(start))
            header.pop("__metadata__", None)  # any safetensors file may have it
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._arrays: dict[str, np.ndarray] = {}
        numpy_types: dict[str, np.dtype] = {name: dtype for dtype, name in _SAFETENSORS_NAMES.items()}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if 8 + start + end > len(self._map):
                raise ValueError(f"{path} is truncated")
            flat = np.frombuffer(self._map, np.uint8, end - begin, 8 + start + begin)
            self._arrays[name] = flat.view(numpy_types[entry["dtype"]]).reshape(entry["shape"])
        self.name = next(iter(header))
        self._read = 0

    def __len__(self) -> int:
        return len(self._arrays[self.name])

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._arrays[self.name].shape[1:]

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        """Copies of the rows at `indices`."""
        rows = np.array(self._arrays[self.name][indices])
        self._read += rows.nbytes
        if self._read > _RELEASE_AFTER and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read = 0
        return rows

    def beside(self, name: str) -> np.ndarray:
        """A copy of one of the arrays that were written beside the rows."""
        return np.array(self._arrays[name])
