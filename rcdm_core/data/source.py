"""What training and probes need from a set of pictures, and the split into training and held-out ones."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rcdm_core.data.images import DEFAULT_INTERPOLATION
from rcdm_core.errors import RCDMError


class ImageSource(ABC):
    """A set of pictures that can be read in any order and at any size.

    Attributes:
        names: what to call each picture (a file name relative to the set's root).
        ids: one content id a picture (64 hexadecimal digits): the same picture has the same id in every set.
        labels: one class number a picture, or None where there are no classes.
        label_names: the name of each class; empty without classes.
        skipped: (name, reason) of every picture that could not be read so far.
    """

    names: list[str]
    ids: list[str]
    labels: list[int] | None
    label_names: list[str]

    def __init__(self) -> None:
        self.skipped: list[tuple[str, str]] = []
        self._unreadable: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def get(self, index: int, size: int, interpolation: str = DEFAULT_INTERPOLATION) -> np.ndarray:
        """Picture `index`, read from its original: uint8 `[3, size, size]`, RGB.

        interpolation: how a file is resized (rcdm_core/data/images.py); what is drawn at any size has no use for it.

        Raises:
            UnreadableImage: the file cannot be read as a picture; pass it on to `report_unreadable`.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a bundle records about the set: kind, path, count, skipped and fingerprint, and what is its own."""

    def report_unreadable(self, index: int, reason: str) -> None:
        """Record that picture `index` could not be read. Safe from any thread; the same picture is counted once."""
        with self._lock:
            if index not in self._unreadable:
                self._unreadable.add(index)
                self.skipped.append((self.names[index], reason))

    def check_readable(self) -> None:
        """Raise RCDMError when more than half of the pictures have turned out to be unreadable."""
        n_scanned_out = len(self.skipped) - len(self._unreadable)
        try:
            check_readable_share(len(self.skipped), len(self) + n_scanned_out)
        except RCDMError as error:
            name, reason = self.skipped[0]
            raise RCDMError(f"{str(error).rstrip('.')} (the first one is {name}: {reason}).") from None


def check_readable_share(n_bad: int, n_total: int) -> None:
    """Raise RCDMError when more than half of `n_total` pictures are bad: then the folder is not what was meant."""
    if 2 * n_bad > n_total:
        raise RCDMError(
            f"{n_bad} of {n_total} pictures cannot be read, which is more than half: "
            "check that the folder holds the images that you mean."
        )


def _rank_key(content_id: str) -> bytes:
    # The salt keeps the rank apart from the id itself, by which people sort and name files.
    return hashlib.sha256(b"rcdm held-out split 1\n" + content_id.encode()).digest()


def split(ids: Sequence[str], held_out: int | float) -> tuple[list[int], list[int]]:
    """Split pictures into training and held-out ones by content alone.

    The held-out pictures are those whose ids have the smallest salted hashes, so the split does not depend on
    names or order. Pictures with the same id always fall on the same side and are counted as one.

    Args:
        ids: content ids, one a picture.
        held_out: how many different pictures to hold out (int), or which share of them (float in [0, 1)).

    Returns:
        (training indices, held-out indices), both ascending.

    Raises:
        RCDMError: `held_out` is negative or leaves nothing to train on.
    """
    different = sorted(set(ids), key=_rank_key)
    share = isinstance(held_out, float)
    valid = 0 <= held_out < (1 if share else len(different))
    count = round(held_out * len(different)) if valid and share else int(held_out) if valid else len(different)
    if count >= len(different):
        raise RCDMError(
            f"{held_out} is no valid number of held-out pictures for a set of {len(different)} different ones: "
            f"give a count from 0 to {len(different) - 1} or a share from 0 to below 1."
        )
    chosen = set(different[:count])
    training = [index for index, content_id in enumerate(ids) if content_id not in chosen]
    return training, [index for index, content_id in enumerate(ids) if content_id in chosen]


def data_fingerprint(ids: Iterable[str]) -> str:
    """A sha256 (64 hexadecimal digits) of a set of pictures, whatever their order."""
    digest = hashlib.sha256()
    for content_id in sorted(ids):
        digest.update(content_id.encode() + b"\n")
    return digest.hexdigest()
