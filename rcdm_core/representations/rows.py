"""Arrays with one row per image that live on disk: written row by row, read through the page cache.

The files are valid safetensors, so other programs can open them. They are written by hand because safetensors wants all
of a tensor in memory at once. The header is reserved first and filled in last, when everything is known.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rcdm_core.atomic import explain_failures

# What the user chooses the folder of these files with.
CACHE_OPTION = "--cache or RCDM_CACHE"

_HEADER_BYTES = 4096
_SAFETENSORS_NAMES: dict[np.dtype, str] = {
    np.dtype(np.float32): "F32", np.dtype(np.int32): "I32", np.dtype(np.uint8): "U8",
}  # fmt: skip
# How much may be read before the pages are given back: keeps the resident memory of long trainings flat.
_RELEASE_AFTER = 64 * 2**20


class RowWriter:
    """Writes `rows` [N, *row_shape] in order, then uint8, int32 or float32 arrays beside it.

    Use as a context manager around the temporary file of `atomic.replacing`, or around a file that an earlier writer
    has left with `count` whole rows (what comes after them is cut off). option: what the user chose the folder with.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        row_shape: Sequence[int],
        dtype: np.dtype,
        *,
        count: int = 0,
        option: str = CACHE_OPTION,
    ) -> None:
        self.path, self.name, self.row_shape, self.dtype = path, name, tuple(row_shape), np.dtype(dtype)
        self.count, self.option = count, option

    def __enter__(self) -> RowWriter:
        with explain_failures(self.path, self.option):
            self._file = self.path.open("r+b" if self.count else "wb")
            if self.count:
                self._file.seek(self.place(self.count))
                self._file.truncate()
            else:
                self._file.write(b" " * _HEADER_BYTES)
        return self

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.dtype.itemsize * math.prod(self.row_shape)

    def place(self, row: int) -> int:
        """Where in the file row number `row` begins, in bytes."""
        return _HEADER_BYTES + row * self.row_bytes

    def append(self, rows: np.ndarray) -> None:
        """Add rows [n, *row_shape]. Raises RCDMError when the disk is full."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]} where {self.row_shape} was declared")
        with explain_failures(self.path, self.option):
            self._file.write(rows.data if rows.size else b"")
        self.count += len(rows)

    def checksums(self, rows_in_a_block: int) -> list[int]:
        """CRC-32 of the rows so far, by blocks, as they are on the disk: an earlier writer may have begun them."""
        size = self.place(rows_in_a_block) - self.place(0)
        with explain_failures(self.path, self.option):
            self._file.flush()
            with self.path.open("rb") as file:
                file.seek(self.place(0))
                left = self.place(self.count) - self.place(0)
                return [zlib.crc32(file.read(min(size, left - at))) for at in range(0, left, size)] if size else []

    def flush(self) -> None:
        """Hand what was appended to the system: the end of this process cannot take it back."""
        with explain_failures(self.path, self.option):
            self._file.flush()

    def finish(self, beside: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
        """Write the arrays `beside` the rows and the header. The file is complete afterwards."""
        # The widest numbers first: readers want each array to begin at a multiple of its numbers' size.
        beside = dict(sorted(beside.items(), key=lambda item: -item[1].dtype.itemsize))
        arrays = {self.name: (self.dtype, (self.count, *self.row_shape))}
        arrays |= {name: (array.dtype, array.shape) for name, array in beside.items()}
        header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        end = 0
        for name, (dtype, shape) in arrays.items():
            size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            header[name] = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": shape, "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header).encode()
        if len(text) > _HEADER_BYTES - 8:
            raise ValueError("the header does not fit into its reserved place")
        with explain_failures(self.path, self.option):
            for array in beside.values():
                self._file.write(np.ascontiguousarray(array).tobytes())
            self._file.seek(0)
            self._file.write((_HEADER_BYTES - 8).to_bytes(8, "little") + text.ljust(_HEADER_BYTES - 8))
            self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # what is not written yet would fail again, and hide why
            with contextlib.suppress(OSError):
                self._file.close()
            return
        with explain_failures(self.path, self.option):
            self._file.close()


class Rows:
    """The arrays of one file that RowWriter wrote. `rows[indices]` copies those rows out of the memory map.

    Raises OSError, or ValueError when the file is not complete or not of this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with self.path.open("rb") as file:
            start = int.from_bytes(file.read(8), "little")
            if not 0 < start < 2**24:
                raise ValueError(f"{path} is not a safetensors file")
            header = file.read(start)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            entries = json.loads(header)
            self.metadata: dict[str, str] = entries.pop("__metadata__", {})
            self._arrays = {name: self._array(entry, 8 + start) for name, entry in entries.items()}
            self.name = next(iter(entries))
        except (AttributeError, IndexError, KeyError, RecursionError, StopIteration, TypeError) as error:
            raise ValueError(f"{path} is not a safetensors file of rows") from error
        self._read = 0

    def _array(self, entry: Mapping[str, Any], start: int) -> np.ndarray:
        """A view of what an entry of the header declares; what has a type of its own as bytes."""
        begin, end = entry["data_offsets"]
        if start + end > len(self._map):
            raise ValueError(f"{self.path} is truncated")
        flat = np.frombuffer(self._map, np.uint8, end - begin, start + begin)
        dtype = next((dtype for dtype, name in _SAFETENSORS_NAMES.items() if name == entry["dtype"]), None)
        return flat if dtype is None else flat.view(dtype).reshape(entry["shape"])

    def __len__(self) -> int:
        return len(self._arrays[self.name])

    @property
    def names(self) -> list[str]:
        """Of all arrays."""
        return list(self._arrays)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._arrays[self.name].shape[1:]

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self._arrays[self.name].dtype.itemsize * math.prod(self.row_shape)

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        """Copies of the rows at `indices`."""
        return self._taken(self._arrays[self.name][indices])

    def beside(self, name: str) -> np.ndarray:
        """A copy of one of the arrays that were written beside the rows. Raises KeyError when there is none."""
        return self._taken(self._arrays[name])

    def view(self, name: str) -> np.ndarray:
        """One of the arrays beside the rows as it lies in the file, for looking up a few values in it."""
        return self._arrays[name]

    def _taken(self, values: np.ndarray) -> np.ndarray:
        """A copy of what was read; now and then, what has been read before is given back to the system."""
        values = np.array(values)
        self._read += values.nbytes
        if self._read > _RELEASE_AFTER and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read = 0
        return values
