"""Pictures of a set in batches, decoded by threads while the batch before is worked on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rcdm_core.errors import UnreadableImage

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource

A = TypeVar("A")
B = TypeVar("B")

Reading = tuple[int, str]  # a size and an interpolation


@dataclass(frozen=True)
class PictureBatch:
    """Pictures start, start + 1, ... of an order.

    pictures  for each, uint8 [3, size, size] per reading; None where it cannot be read
    reasons   place in the order -> why it cannot be read
    """

    start: int
    pictures: list[tuple[np.ndarray, ...] | None]
    reasons: dict[int, str]

    @property
    def end(self) -> int:
        """The place after the last one."""
        return self.start + len(self.pictures)

    def readable(self, reading: int) -> list[np.ndarray]:
        """The pictures that can be read, by the reading of that number."""
        return [views[reading] for views in self.pictures if views is not None]


def content_order(ids: list[str]) -> np.ndarray:
    """[N] indices of the images sorted by content id; equal ids keep their order."""
    return np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)


def read_batches(
    source: ImageSource,
    order: np.ndarray,              # [N] indices into the source
    readings: Sequence[Reading],    # each picture is read once for every one of them, from its original
    *,
    batch_size: int,
    workers: int,                   # decoding threads
    start: int = 0,                 # place in the order of the first picture
) -> Iterator[PictureBatch]:
    """The pictures in order; the threads are at most two batches ahead, so that memory is bounded."""

    def read(index: int) -> tuple[np.ndarray, ...] | str:
        found: dict[Reading, np.ndarray] = {}
        try:
            for reading in readings:
                if reading not in found:
                    found[reading] = source.get(index, *reading)
        except UnreadableImage as error:
            return error.reason
        return tuple(found[reading] for reading in readings)

    with ThreadPoolExecutor(workers, "read") as pool:
        found = map_ahead(pool, read, map(int, order[start:]), 2 * batch_size)
        for first in range(start, len(order), batch_size):
            batch = [next(found) for _ in range(min(batch_size, len(order) - first))]
            reasons = {first + i: one for i, one in enumerate(batch) if isinstance(one, str)}
            for place, reason in reasons.items():
                source.report_unreadable(int(order[place]), reason)
            yield PictureBatch(first, [None if isinstance(one, str) else one for one in batch], reasons)


def reading_threads() -> int:
    """Threads that decode images: Pillow releases the lock, but more than a few only compete with the encoder."""
    return max(2, min(4, os.cpu_count() or 2))


def map_ahead(pool: ThreadPoolExecutor, function: Callable[[A], B], items: Iterable[A], ahead: int) -> Iterator[B]:
    """`pool.map` that holds at most `ahead` results, so that memory does not grow with the number of items."""
    waiting: deque[Future[B]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
