"""log.jsonl: one line for every few steps, with the means over them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from rcdm_core.atomic import explain_failures


class Log:
    """Appends to a file whose first `position` bytes are kept: what a killed run wrote after its last save goes.

    Values that are not finite (of a skipped step) are left out of the means.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self.path = path
        with explain_failures(path):
            path.touch()
            with path.open("r+b") as file:
                file.truncate(min(position, path.stat().st_size))
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, numbers: Mapping[str, float]) -> None:
        """One step's numbers, to be averaged."""
        for name, value in numbers.items():
            if math.isfinite(value):
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Of the steps since the last `write`."""
        return {name: self._sums[name] / self._counts[name] for name in self._sums}

    def write(self, numbers: Mapping[str, float]) -> int:
        """Append a line with `numbers` and the means, and return the file's length."""
        line = json.dumps({**numbers, **self.means()}) + "\n"
        self._sums, self._counts = {}, {}
        with explain_failures(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            return file.tell()
