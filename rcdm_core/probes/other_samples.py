"""Samples of any other system, as a folder of pictures with a manifest that says what each was made from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError, UnreadableImage

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM
    from rcdm_core.probes.base import Context
    from rcdm_core.probes.pictures import Pictures

MANIFESTS = ("manifest.csv", "manifest.json")
COLUMNS = ("file", "image")


@dataclass(frozen=True)
class OtherSamples:
    """name: of the folder. files: of the samples. targets [Q]: the place in the gallery of what each was made from.

    left_out: how many more there are, of pictures that are not in the gallery.
    """

    name: str
    files: list[Path]
    targets: np.ndarray
    left_out: int

    def encode(self, model: RCDM, context: Context) -> np.ndarray:
        """h of every sample, [Q, dim]: from its own size to the encoder's at once, as a model's samples are.

        Raises RCDMError for a file that is no picture.
        """
        from rcdm_core.data.images import read_array
        from rcdm_core.probes.encoding import BATCH, h_of_pixels
        from rcdm_core.probes.pictures import fit_of

        parts = []
        for start in range(0, len(self.files), BATCH):
            shown = []
            for path in self.files[start : start + BATCH]:
                try:
                    shown.append(read_array(path, model.encoder.image_size, fit_of(model), "bicubic"))
                except UnreadableImage as error:
                    raise RCDMError(
                        f"{path} cannot be read as a picture ({error.reason}); take it out of its folder's manifest."
                    ) from error
            parts.append(h_of_pixels(model, np.stack(shown).astype(np.float32) / 255, context))
        return np.concatenate(parts)

    def shown(self, place: int, size: int, fit: str, most: int) -> np.ndarray:
        """The first samples of the picture at `place` of the gallery, for display: [n, 3, size, size], n up to most."""
        from rcdm_core.data.images import read_array

        files = [file for file, own in zip(self.files, self.targets, strict=True) if own == place][:most]
        read = [read_array(file, size, fit, "bicubic").astype(np.float32) / 255 for file in files]
        return np.stack(read) if read else np.zeros((0, 3, size, size), np.float32)

    def by_picture(self, ranks: np.ndarray) -> np.ndarray:
        """Ranks [Q] as [pictures, samples], NaN where a picture has fewer samples than another."""
        own = [ranks[self.targets == place] for place in np.unique(self.targets)]
        table = np.full((len(own), max(map(len, own))), np.nan)
        for row, values in zip(table, own, strict=True):
            row[: len(values)] = values
        return table


def read_other_samples(
    folder: str | Path, gallery: Pictures, data: ImageSource, among: Sequence[bool] | np.ndarray | None = None
) -> OtherSamples:
    """What the folder's manifest.csv (columns file and image) or manifest.json (a list of such objects) names.

    file: of a sample, relative to the folder. image: the picture that it was made from: its name in the data, that
    without folders where only one picture has it, or the path of a file of the same content.
    among: which pictures of the gallery [N] samples may be of; None: all. The others' are left out.

    Raises RCDMError for a folder, manifest, row or file that is not as it should be.
    """
    from rcdm_core.data.images import content_hash

    folder = Path(folder)
    rows = _rows(folder)
    ids = dict(zip(data.names, data.ids, strict=True))
    short: dict[str, set[str]] = {}
    for name, content_id in ids.items():
        short.setdefault(Path(name).name, set()).add(content_id)
    places = {picture.id: place for place, picture in enumerate(gallery) if among is None or among[place]}
    files, targets = [], []
    for number, row in enumerate(rows, 1):
        path = folder / row["file"]
        if not path.is_file():
            raise RCDMError(f"Row {number} of the manifest of {folder} names {row['file']}, but there is no such file.")
        image = row["image"]
        found = {ids[image]} if image in ids else short.get(image, set())
        if len(found) > 1:
            raise RCDMError(
                f"Row {number} of the manifest of {folder} names the picture {image}, but several are called so; give "
                "its path in the data."
            )
        if not found:
            paths = [one for one in (folder / image, Path(image)) if one.is_file()]
            found = {content_hash(paths[0])} if paths else set()
        if not found:
            raise RCDMError(
                f"Row {number} of the manifest of {folder} names the picture {image}, which is neither in "
                f"{data.describe()['path']} nor a file."
            )
        place = places.get(found.pop())
        if place is not None:
            files.append(path)
            targets.append(place)
    if not files:
        raise RCDMError(
            f"None of the pictures in the manifest of {folder} is in the gallery of held-out pictures; give their "
            "folder with --data."
        )
    name = folder.name or folder.resolve().name
    return OtherSamples(name, files, np.array(targets), len(rows) - len(files))


def _rows(folder: Path) -> list[dict[str, str]]:
    """The manifest's rows, each with its columns as texts."""
    if not folder.is_dir():
        raise RCDMError(f"There is no folder {folder}; check the name given with --other-samples.")
    there = [folder / name for name in MANIFESTS if (folder / name).is_file()]
    if len(there) != 1:
        what = f"has both {' and '.join(MANIFESTS)}" if there else f"has neither {' nor '.join(MANIFESTS)}"
        raise RCDMError(f"{folder} {what}; expected one of them.")
    path = there[0]
    wanted = f"expected {'the columns' if path.suffix == '.csv' else 'a list of objects with'} {' and '.join(COLUMNS)}"
    try:
        text = path.read_bytes().decode("utf-8-sig")
        # names keep all of their characters, line ends in quotes included
        rows = csv.DictReader(io.StringIO(text, newline="")) if path.suffix == ".csv" else json.loads(text)
        found: Any = list(rows) if path.suffix == ".csv" else rows
    except (OSError, csv.Error, ValueError) as error:
        raise RCDMError(f"{path} cannot be read ({error}); {wanted}.") from error
    except RecursionError as error:
        raise RCDMError(f"{path} cannot be read (lists in lists, too many); {wanted}.") from error
    if not isinstance(found, list) or not found:
        raise RCDMError(f"{path} names no samples; {wanted}.")
    for number, row in enumerate(found, 1):
        for column in COLUMNS:
            value = row.get(column) if isinstance(row, dict) else None
            if not isinstance(value, str) or not value.strip():
                raise RCDMError(f"Row {number} of {path} has no {column}; {wanted}.")
    return [{column: row[column] for column in COLUMNS} for row in found]
