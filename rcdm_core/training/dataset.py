"""One pass over the images before training: the representations for both flips, the pixels at the generator's size.

Rows are ordered by content id, so neither file names nor the order of the folder matter. What cannot be read is found
here, counted and listed, and never stops a run unless it is over half of the data.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from rcdm_core.atomic import make_folder, replacing
from rcdm_core.data.images import DEFAULT_INTERPOLATION
from rcdm_core.errors import RCDMError, UnreadableImage
from rcdm_core.progress import Reporter
from rcdm_core.training import pixels, representations
from rcdm_core.training.rows import CACHE_OPTION, Rows, RowWriter

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.encoder import Encoder, Fingerprint

A = TypeVar("A")
B = TypeVar("B")
_BATCH = 32


@dataclass(frozen=True)
class Dataset:
    """What training reads: N rows, one per image, ordered by content id.

    `h` [N, flips, dim] float32; `pixels` [N, 3, S, S] uint8 cached, or None (decode when needed);
    `order` [N]: the row's index in `source`; `readable` [N] bool. What could not be read is in `source.skipped`.
    """

    source: ImageSource
    image_size: int
    order: np.ndarray
    readable: np.ndarray
    h: Rows
    pixels: Rows | None


def content_order(ids: list[str]) -> np.ndarray:
    """[N] indices of the images sorted by content id; equal ids keep their order."""
    return np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)


def prepare(
    source: ImageSource,
    encoder: Encoder,
    fingerprint: Fingerprint,
    *,
    encoder_key: str,           # provider and options
    data_key: str,              # which images, and how they are fitted into a square
    image_size: int,            # of the generator
    flip: bool,                 # representations of mirrored images too
    cache: Path,                # folder that runs share
    pixel_limit: int,           # bytes; larger sets are decoded again whenever they are needed
    device: torch.device,
    reporter: Reporter,
) -> Dataset:
    """Read the caches, or compute them in one pass.

    Raises RCDMError when over half of the images are unreadable, the cache cannot be written, or an h is not finite.
    """
    order = content_order(source.ids)
    make_folder(cache, CACHE_OPTION)
    h_path = representations.cache_path(cache, data_key, encoder_key, fingerprint, flip)
    pixels_path = pixels.cache_path(cache, data_key, image_size)
    h = _unless_mended(representations.open_cached(h_path, fingerprint, rows=len(order)), source, order)
    cached = _unless_mended(pixels.open_cached(pixels_path, rows=len(order)), source, order)
    want_pixels = cached is None and len(order) * 3 * image_size**2 <= pixel_limit
    if h is None or want_pixels:
        work = _Pass(source, order, encoder, flip, image_size, device)
        work.run(h_path if h is None else None, pixels_path if want_pixels else None, fingerprint, reporter)
        h = h or Rows(h_path)
        cached = Rows(pixels_path) if want_pixels else cached
    readable = np.ones(len(order), bool)
    for rows in (h, cached) if cached is not None else (h,):
        for row, reason in _unreadable(rows).items():
            readable[row] = False
            source.report_unreadable(int(order[row]), reason)
    source.check_readable()
    return Dataset(source, image_size, order, readable, h, cached)


def _unreadable(rows: Rows) -> dict[int, str]:
    """Which rows could not be read when the file was written, and why."""
    return {int(row): reason for row, reason in json.loads(rows.beside("unreadable").tobytes()).items()}


def _unless_mended(rows: Rows | None, source: ImageSource, order: np.ndarray) -> Rows | None:
    """`rows`, or None when a picture that was unreadable can be read now: a disk that had failed, a decoder installed
    since. It is tried again each time, because many runs share the file and what it says must not be for ever."""
    if rows is None:
        return None
    for row in _unreadable(rows):
        with contextlib.suppress(UnreadableImage):
            source.get(int(order[row]), 8)
            return None
    return rows


class _Pass:
    """Reads every image once and writes what is missing."""

    def __init__(
        self,
        source: ImageSource,
        order: np.ndarray,
        encoder: Encoder,
        flip: bool,
        image_size: int,
        device: torch.device,
    ) -> None:
        self.source, self.order, self.encoder, self.flip = source, order, encoder, flip
        self.image_size, self.device = image_size, device

    def run(self, h_path: Path | None, pixels_path: Path | None, fingerprint: Fingerprint, reporter: Reporter) -> None:
        """Write the files that are not None."""
        unreadable: dict[int, str] = {}
        reporter.start(len(self.order), "reading and encoding the images", unit="image")
        with contextlib.ExitStack() as stack:
            # Entered in this order, the pixels are renamed first: once h exists, the whole pass is known to be done.
            h_file = self._writer(stack, h_path, "h", (2 if self.flip else 1, self.encoder.dim), np.float32)
            size = self.image_size
            pixel_file = self._writer(stack, pixels_path, "pixels", (3, size, size), np.uint8)
            for start, pictures in self._batches(encoding=h_file is not None, drawing=pixel_file is not None):
                for row, (_, _, reason) in enumerate(pictures, start):
                    if reason is not None:
                        self.source.report_unreadable(int(self.order[row]), reason)
                        unreadable[row] = reason
                if h_file is not None:
                    h_file.append(self._encode([picture for picture, _, _ in pictures]))
                if pixel_file is not None:
                    pixel_file.append(np.stack([picture for _, picture, _ in pictures]))
                reporter.update(len(pictures))
            self.source.check_readable()
            beside = {"unreadable": np.frombuffer(json.dumps(unreadable).encode(), np.uint8)}
            if pixel_file is not None:
                pixel_file.finish(beside)
            if h_file is not None:
                h_file.finish(beside | representations.identity(fingerprint))
        reporter.finish()

    @staticmethod
    def _writer(
        stack: contextlib.ExitStack, path: Path | None, name: str, shape: tuple[int, ...], dtype: type
    ) -> RowWriter | None:
        if path is None:
            return None
        temporary = stack.enter_context(replacing(path, CACHE_OPTION))
        return stack.enter_context(RowWriter(temporary, name, shape, np.dtype(dtype)))

    def _batches(
        self, encoding: bool, drawing: bool
    ) -> Iterator[tuple[int, list[tuple[np.ndarray, np.ndarray, str | None]]]]:
        """Batches of (picture for the encoder, picture for the generator, reason why unreadable)."""
        need_input = encoding and self.encoder.dim > 0
        blank_input = np.zeros((3, self.encoder.image_size, self.encoder.image_size), np.uint8)
        blank = np.zeros((3, self.image_size, self.image_size), np.uint8)

        def read(index: int) -> tuple[np.ndarray, np.ndarray, str | None]:
            try:
                drawn = self.source.get(index, self.image_size) if drawing or not need_input else blank
                if not need_input:
                    return blank_input, drawn, None
                encoder = self.encoder
                reading = (encoder.image_size, encoder.interpolation)
                same = drawing and reading == (self.image_size, DEFAULT_INTERPOLATION)
                seen = drawn if same else self.source.get(index, *reading)
                return seen, drawn, None
            except UnreadableImage as error:
                return blank_input, blank, error.reason

        with ThreadPoolExecutor(reading_threads(), "read") as pool:
            found = map_ahead(pool, read, map(int, self.order), 2 * _BATCH)
            for start in range(0, len(self.order), _BATCH):
                yield start, [next(found) for _ in range(min(_BATCH, len(self.order) - start))]

    def _encode(self, pictures: list[np.ndarray]) -> np.ndarray:
        """uint8 pictures -> h [B, flips, dim]."""
        if self.encoder.dim == 0:
            return np.zeros((len(pictures), 2 if self.flip else 1, 0), np.float32)
        images = torch.from_numpy(np.stack(pictures)).to(self.device).float().div_(255)
        with torch.inference_mode():
            views = [images, images.flip(-1)] if self.flip else [images]
            h = torch.stack([self.encoder(view).float() for view in views], 1).cpu()
        if not torch.isfinite(h).all():
            raise RCDMError("The encoder gives an h that is not finite for some of the images; check its weights.")
        return h.numpy()


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
