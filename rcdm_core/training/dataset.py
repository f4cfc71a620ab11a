"""What training reads: the representations for both flips, and the pixels at the generator's size.

What is not on disk yet is made in one pass over the images. Rows are ordered by content id, so neither file names nor
the order of the folder matter. What cannot be read is found here, counted and listed, and never stops a run unless it
is over half of the data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rcdm_core.atomic import make_folder, replacing
from rcdm_core.data.images import DEFAULT_INTERPOLATION
from rcdm_core.data.source import data_fingerprint
from rcdm_core.errors import RCDMError, UnreadableImage
from rcdm_core.progress import Reporter
from rcdm_core.representations import file as representation_file
from rcdm_core.representations.cached import cache_path, data_key, open_cached
from rcdm_core.representations.encoding import BATCH_SIZE, BatchEncoder
from rcdm_core.representations.file import Representations
from rcdm_core.representations.reading import content_order, read_batches, reading_threads
from rcdm_core.representations.rows import CACHE_OPTION, Rows, RowWriter
from rcdm_core.training import pixels
from rcdm_core.training.representations import HOfRows

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.encoder import Encoder, Fingerprint
    from rcdm_core.provider_record import ProviderRecord

_GLANCE = 8  # pixels: enough to know that a file can be read


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
    h: HOfRows
    pixels: Rows | None


def prepare(
    source: ImageSource,
    encoder: Encoder,
    fingerprint: Fingerprint,
    *,
    provider: ProviderRecord,
    fit: str,                   # how the source makes pictures square
    image_size: int,            # of the generator
    flip: bool,                 # representations of mirrored images too
    cache: Path,                # folder that runs share
    pixel_limit: int,           # bytes; larger sets are decoded again whenever they are needed
    device: torch.device,
    reporter: Reporter,
    given: Representations | None = None,   # a file that the user names; None: the cache's
) -> Dataset:
    """Read the caches, or compute them in one pass.

    Raises RCDMError when over half of the images are unreadable, the cache cannot be written, an h is not finite, or
    the file that is given lacks some of the images.
    """
    order = content_order(source.ids)
    make_folder(cache, CACHE_OPTION)
    key = data_key(data_fingerprint(source.ids), fit)
    h_path = cache_path(cache, key, provider, fingerprint, flip)
    pixels_path = pixels.cache_path(cache, key, image_size)
    h = given or open_cached(h_path, fingerprint, len(order))
    matched = None if h is None else _match(h, source, order)
    if given is None and matched is not None and matched.missing:
        h = matched = None
    if matched is not None:
        _refuse_missing(matched, source, order)
    cached = pixels.open_cached(pixels_path, rows=len(order), image_size=image_size)
    if cached is not None and _some_readable(source, (int(order[row]) for row in pixels.unreadable_of(cached))):
        cached = None
    want_pixels = cached is None and len(order) * 3 * image_size**2 <= pixel_limit
    if h is None or want_pixels:
        work = _Pass(source, order, encoder, fingerprint, provider, fit, flip, image_size, device)
        work.run(h_path if h is None else None, pixels_path if want_pixels else None, reporter)
        h = h or Representations(h_path)
        cached = Rows(pixels_path) if want_pixels else cached
    matched = matched or _match(h, source, order)
    unreadable = matched.unreadable | (pixels.unreadable_of(cached) if cached is not None else {})
    readable = np.ones(len(order), bool)
    for row, reason in unreadable.items():
        readable[row] = False
        source.report_unreadable(int(order[row]), reason)
    source.check_readable()
    return Dataset(source, image_size, order, readable, HOfRows(h, matched.places, flip), cached)


@dataclass(frozen=True)
class _Match:
    """A dataset's rows in a file: the places of their h; those that could not be read; those that are not there."""

    file: Representations
    places: np.ndarray
    unreadable: dict[int, str]
    missing: list[int]


def _match(file: Representations, source: ImageSource, order: np.ndarray) -> _Match:
    """Where the file has the images. One that was unreadable and can be read now is missing: a disk that had failed, a
    decoder installed since. It is tried again each time, because what a shared file says must not be for ever."""
    places = file.find([source.ids[index] for index in order])
    reasons = {content_id: reason for _, content_id, reason in file.skipped}
    unreadable, missing = {}, []
    for row in np.flatnonzero(places < 0).tolist():
        index = int(order[row])
        reason = reasons.get(source.ids[index])
        if reason is None or _some_readable(source, [index]):
            missing.append(row)
        else:
            unreadable[row] = reason
    return _Match(file, places, unreadable, missing)


def _refuse_missing(matched: _Match, source: ImageSource, order: np.ndarray) -> None:
    if matched.missing:
        name = source.names[int(order[matched.missing[0]])]
        raise RCDMError(
            f"{len(matched.missing)} of {len(order)} pictures are not in {matched.file.path}, such as {name}: encode "
            "the folder again to another --out, or leave --representations out."
        )


def _some_readable(source: ImageSource, indices: Iterable[int]) -> bool:
    for index in indices:
        with contextlib.suppress(UnreadableImage):
            source.get(index, _GLANCE)
            return True
    return False


class _Pass:
    """Reads every image once and writes what is missing."""

    def __init__(
        self,
        source: ImageSource,
        order: np.ndarray,
        encoder: Encoder,
        fingerprint: Fingerprint,
        provider: ProviderRecord,
        fit: str,
        flip: bool,
        image_size: int,
        device: torch.device,
    ) -> None:
        self.source, self.order, self.encoder, self.fingerprint = source, order, encoder, fingerprint
        self.provider, self.fit, self.flip, self.image_size, self.device = provider, fit, flip, image_size, device

    def run(self, h_path: Path | None, pixels_path: Path | None, reporter: Reporter) -> None:
        """Write the files that are not None."""
        source, size, unreadable = self.source, self.image_size, dict[int, str]()
        seen, drawn = (self.encoder.image_size, self.encoder.interpolation), (size, DEFAULT_INTERPOLATION)
        encoding, drawing = h_path is not None and self.encoder.dim > 0, pixels_path is not None
        readings = [seen] * encoding + [drawn] * (drawing or not encoding)
        encode = BatchEncoder(self.encoder, self.fingerprint, self.device) if h_path is not None else None
        blank = np.zeros((3, size, size), np.uint8)
        what = "reading and encoding the images" if encoding else "reading the images"
        reporter.start(len(self.order), what, unit="image")
        with contextlib.ExitStack() as stack:
            # Entered in this order, the pixels are renamed first: once h exists, the whole pass is known to be done.
            h_file = pixel_file = None
            if h_path is not None:
                temporary = stack.enter_context(replacing(h_path, CACHE_OPTION))
                h_file = stack.enter_context(representation_file.row_writer(temporary, self.encoder.dim, self.flip))
            if pixels_path is not None:
                temporary = stack.enter_context(replacing(pixels_path, CACHE_OPTION))
                pixel_file = stack.enter_context(RowWriter(temporary, "pixels", blank.shape, np.dtype(np.uint8)))
            for batch in read_batches(
                source, self.order, readings, batch_size=BATCH_SIZE, workers=reading_threads()
            ):
                unreadable |= batch.reasons
                if h_file is not None and encode is not None:
                    representation_file.append(h_file, encode(batch.readable(0), self.flip))
                if pixel_file is not None:
                    pixel_file.append(np.stack([blank if views is None else views[-1] for views in batch.pictures]))
                reporter.update(len(batch.pictures))
            source.check_readable()
            if pixel_file is not None:
                pixels.finish(pixel_file, unreadable)
            if h_file is not None:
                about = representation_file.about(self.provider, source, fit=self.fit, flip=self.flip)
                representation_file.finish(h_file, about, self.fingerprint, source, self.order, unreadable)
        reporter.finish()
