"""How far an encoding is, so that it can be taken up again after it was killed at any moment.

    OUT.partial         the rows so far
    OUT.partial.json    one JSON object a line: first what is being encoded, then one for every batch that is done

A line is written after its rows. What a power cut lost is noticed by the checksums, and only that is computed again.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rcdm_core.atomic import explain_failures
from rcdm_core.representations.rows import RowWriter


@dataclass
class Journal:
    """`OUT.partial.json`. done: places of the order that are dealt with; rows: how many of them have one."""

    path: Path
    done: int = 0
    rows: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)

    def begun(self) -> dict[str, Any] | None:
        """What is being encoded according to the file; None when there is none, or not even its first line is whole."""
        try:
            with self.path.open(encoding="utf-8") as file:
                first = json.loads(file.readline())
        except (OSError, ValueError):
            return None
        return first if isinstance(first, dict) else None

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Start anew."""
        with explain_failures(self.path):
            self.path.write_text(json.dumps(identity) + "\n", encoding="utf-8")

    def go_on(self, writer: RowWriter) -> None:
        """Read what was done, as far as the rows in the file of `writer` are what was written, and drop the rest."""
        length = 0
        with explain_failures(self.path), self.path.open("r+b") as journal:
            length += len(journal.readline())
            if writer.path.exists():
                with writer.path.open("rb") as file:
                    file.seek(writer.place(0))
                    for line in journal:
                        if not self._accept(line, file, writer):
                            break
                        length += len(line)
            journal.truncate(length)
        writer.count = self.rows

    def _accept(self, line: bytes, rows: BinaryIO, writer: RowWriter) -> bool:
        """Take a line over, if it is whole and the rows that come next are the ones that it is about."""
        try:
            batch = json.loads(line)
            done, count = int(batch["done"]), int(batch["rows"])
            skipped = {int(place): str(reason) for place, reason in batch["skipped"].items()}
            written = rows.read(writer.place(count) - writer.place(self.rows))
            if not line.endswith(b"\n") or zlib.crc32(written) != batch["crc"]:
                return False
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        self.done, self.rows = done, count
        self.unreadable |= skipped
        return True

    def add(self, done: int, h: np.ndarray, unreadable: Mapping[int, str]) -> None:
        """Note that the places up to `done` are dealt with: the rows h are in the file, and what has none."""
        self.done, self.rows = done, self.rows + len(h)
        self.unreadable |= unreadable
        line = {"done": done, "rows": self.rows, "crc": zlib.crc32(h.tobytes()), "skipped": unreadable}
        with explain_failures(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
