"""Checksums of a file of rows, so that bytes which changed on the disk are an error and never a plausible result.

One for every block of rows, which is checked when a row of it is first read, and one for the arrays beside them, which
are all read when the file is opened. CRC-32, as in the journal: against disks and copies, not against people.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from rcdm_core.representations.rows import Rows

BLOCK_BYTES = 2**20  # about; a whole number of rows


def rows_in_a_block(row_bytes: int) -> int:
    """How many rows have one checksum together."""
    return max(1, BLOCK_BYTES // max(row_bytes, 1))


def of_arrays(arrays: Mapping[str, np.ndarray]) -> int:
    """Of arrays with their names, types and shapes."""
    crc = 0
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype.str} {array.shape}\n".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).data if array.size else b"", crc)
    return crc


def pack(blocks: list[int], beside: int) -> np.ndarray:
    """uint8 [4 x (blocks + 1)], as the file has them."""
    return np.array([*blocks, beside], "<u4").view(np.uint8)


class Checksums:
    """Those of an open file.

    rows    the file; stored: what `pack` gave when it was written; beside: the arrays that the last one is of

    Raises ValueError when there are not as many as the rows need, or the arrays are not what was written.
    """

    def __init__(self, rows: Rows, stored: np.ndarray, beside: Mapping[str, np.ndarray]) -> None:
        self._rows = rows
        self._in_a_block = rows_in_a_block(rows.row_bytes)
        values = np.frombuffer(stored.tobytes(), "<u4")
        blocks = -(-len(rows) // self._in_a_block) if rows.row_bytes else 0
        if len(values) != blocks + 1:
            raise ValueError("its checksums are not as many as its rows need")
        self._expected = values[:-1]
        self._left = np.ones(len(self._expected), bool)
        if of_arrays(beside) != values[-1]:
            raise ValueError("a checksum differs")

    def check(self, rows: np.ndarray | slice) -> None:
        """See that these rows are what was written. Raises ValueError."""
        if not self._left.any():
            return
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self._rows)))
        elif rows.dtype == bool:
            rows = np.flatnonzero(rows)
        for block in np.unique((rows % max(len(self._rows), 1)) // self._in_a_block):
            if self._left[block]:
                first = int(block) * self._in_a_block
                if zlib.crc32(self._rows[first : first + self._in_a_block].data) != self._expected[block]:
                    raise ValueError(f"a checksum differs, of the rows from {first}")
                self._left[block] = False
