"""A folder of image files, found at once and read when asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rcdm_core.data.images import DEFAULT_INTERPOLATION, check_fit, read_array
from rcdm_core.data.known_ids import KnownIds
from rcdm_core.data.source import ImageSource, check_readable_share, data_fingerprint, split
from rcdm_core.errors import RCDMError

__all__ = ["ImageFolder", "ImageSource", "check_readable_share", "data_fingerprint", "split"]


# What Pillow opens, and either cannot decode (stubs, films) or is no still picture: drawings, fields of measurements.
_NO_PICTURES = {"BUFR", "GRIB", "HDF5", "WMF", "MPEG", "EPS", "FITS"}
# Pictures all the same where this Pillow has no decoder for them: they are counted as unreadable, not passed over.
_NEEDING_A_DECODER = {".avif", ".avifs", ".heic", ".heif", ".hif", ".jxl", ".webp"}


class ImageFolder(ImageSource):
    """All image files below `root`, by the ending of their names (any that Pillow decodes, in capitals or not).

    Photos that this Pillow has no decoder for (HEIC without a plugin) are listed in `skipped`.

    The bytes of every file are read once to find its content id, which is remembered for as long as the file stays
    unchanged. A file whose content is there already (a copy, a link)
    is left out, unless `keep_duplicates`; of several names, a file's own comes before a link's, then the alphabet
    decides. Links to folders are followed, each folder once. Hidden files and folders are left out.

    Whether a file really is a picture shows when it is read. If every image lies in a subfolder and there are several,
    then the first-level subfolders are the classes.

    Attributes:
        root: the folder.
        duplicates: how many files were left out because their content was there already.
        skipped: (name, reason) of files that cannot be opened, and of pictures that were reported as unreadable.

    Raises:
        RCDMError: there is no such folder, it cannot be read, there are no images in it, or most cannot be opened.
    """

    def __init__(self, root: str | Path, *, fit: str = "crop", keep_duplicates: bool = False) -> None:
        super().__init__()
        self.root = Path(os.path.expanduser(root))  # which a shell leaves as it is in --data=~/images
        self.fit = check_fit(fit)
        self.keep_duplicates = keep_duplicates
        self.duplicates = 0
        self._copies: dict[str, list[str]] = {}  # content id -> names that were left out
        self.names, self.ids = [], []
        self._scan()
        if not self.names and not self.skipped:
            raise RCDMError(
                f"The folder {self.root} holds no image files: give one with pictures in it (PNG, JPEG, WebP, …)."
            )
        self.check_readable()
        self.labels, self.label_names = None, []
        classes = [name.partition("/")[0] if "/" in name else None for name in self.names]
        if None not in classes and len(set(classes)) > 1:
            self.label_names = sorted({name for name in classes if name is not None})
            number = {name: index for index, name in enumerate(self.label_names)}
            self.labels = [number[name] for name in classes if name is not None]

    def get(self, index: int, size: int, interpolation: str = DEFAULT_INTERPOLATION) -> np.ndarray:
        return read_array(self.path(index), size, self.fit, interpolation)

    def report_unreadable(self, index: int, reason: str) -> None:
        """As for any set; what has the same bytes, such as every empty file, is not a copy of a picture but unreadable
        as well."""
        super().report_unreadable(index, reason)
        with self._lock:
            copies = self._copies.pop(self.ids[index], [])
            self.duplicates -= len(copies)
            self.skipped += [(name, reason) for name in copies]

    def path(self, index: int) -> Path:
        """The file of picture `index`."""
        return self.root / self.names[index]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "folder",
            "path": str(self.root),
            "count": len(self),
            "skipped": len(self.skipped),
            "duplicates": self.duplicates,
            "keep_duplicates": self.keep_duplicates,
            "fit": self.fit,
            "fingerprint": data_fingerprint(self.ids),
            "labels": self.label_names,
        }

    def _scan(self) -> None:
        known = KnownIds(self.root)
        seen: set[str] = set()
        found: list[tuple[str, str]] = []
        decoded = _endings()
        for path in _image_files(self.root, decoded | _NEEDING_A_DECODER):
            name, ending = path.relative_to(self.root).as_posix(), path.suffix.lower()
            if ending not in decoded:
                self.skipped.append((name, f"this Pillow has no decoder for {ending} files"))
                continue
            try:
                content_id = known.content_id(path)
            except OSError as error:
                broken = path.is_symlink() and not path.exists()
                self.skipped.append((name, "it is a link to nothing" if broken else error.strerror or str(error)))
                continue
            if content_id in seen and not self.keep_duplicates:
                self.duplicates += 1
                self._copies.setdefault(content_id, []).append(name)
                continue
            seen.add(content_id)
            found.append((name, content_id))
        known.save()
        found.sort()
        self.names = [name for name, _ in found]
        self.ids = [content_id for _, content_id in found]


def require_folder(root: Path) -> None:
    """Raise RCDMError for a folder of images that is not there, is none, or cannot be read."""
    try:
        with os.scandir(root):
            pass
    except OSError as error:
        reason = {FileNotFoundError: "it does not exist", NotADirectoryError: "it is a file"}.get(type(error))
        raise RCDMError(
            f"The folder of images {root} cannot be read ({reason or error.strerror}): give a folder that can."
        ) from error


def is_called_picture(path: Path) -> bool:
    """Whether a folder's reader takes a file of that name for a picture."""
    return path.suffix.lower() in _endings() | _NEEDING_A_DECODER


def _image_files(root: Path, endings: set[str]) -> list[Path]:
    """Every file below `root` with one of the endings, files before links, each group in alphabetical order."""
    require_folder(root)
    files: list[Path] = []
    links: list[Path] = []
    for path, linked in _walk(root):
        if path.suffix.lower() in endings:
            (links if linked else files).append(path)
    return sorted(files) + sorted(links)


def _walk(root: Path) -> Iterator[tuple[Path, bool]]:
    """Files below `root`, and whether a link leads there."""
    for _, linked, files in walk_folders(root):
        for entry in files:
            yield Path(entry.path), linked or entry.is_symlink()


def walk_folders(root: Path) -> Iterator[tuple[Path, bool, list[os.DirEntry[str]]]]:
    """`root` and the folders below it, each once: the folder, whether a link leads there, and its files.

    Hidden ones are left out. Linked folders come last: a folder goes by its own name. Raises RCDMError for one that
    cannot be read.
    """
    folders: list[tuple[Path, bool]] = [(root, False)]
    linked_folders: list[tuple[Path, bool]] = []
    entered: set[tuple[int, int]] = set()
    while folders or linked_folders:
        folder, linked = folders.pop() if folders else linked_folders.pop(0)
        try:
            status = folder.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in entered:
                continue
            entered.add(identity)
            with os.scandir(folder) as entries:
                listing = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise RCDMError(
                f"The folder {folder} cannot be read ({error.strerror}): make it readable or move it out of {root}."
            ) from error
        files = []
        for entry in listing:
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                files.append(entry)
            elif entry.is_symlink():
                linked_folders.append((Path(entry.path), True))
            else:
                folders.append((Path(entry.path), linked))
        yield folder, linked, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _endings() -> set[str]:
    """Of the still pictures that this Pillow decodes."""
    Image.init()
    formats = set(Image.OPEN) - _NO_PICTURES
    return {ending for ending, format_name in Image.registered_extensions().items() if format_name in formats}
