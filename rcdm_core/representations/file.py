"""The file of a set's representations: valid safetensors, one row a picture that could be read, ordered by content id.

    h              float32 [N, dim], or [N, 2, dim] with the mirror images' h second
    ids            uint8 [N, 32]: the sha256 of each file (rcdm_core/data/images.py says of what), ascending
    labels         int32 [N]: the class of each, where there are classes
    names          uint8: JSON, the file names in the order of the rows, relative to the folder
    skipped        uint8: JSON, [name, id, reason] of every picture that cannot be read
    about          uint8: JSON, the fields of `About`
    fingerprint.h  float32 [4, dim]: h of the fixed test pictures, by which the encoder is recognised
    checksums      uint8: of h by blocks of rows, and of all else (checksums.py)

Names and the rest are arrays and not metadata, because a safetensors header has a limit that a million names exceed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rcdm_core.encoder import Fingerprint, compare_fingerprints
from rcdm_core.errors import RCDMError
from rcdm_core.provider_record import ProviderRecord
from rcdm_core.representations import checksums
from rcdm_core.representations.rows import CACHE_OPTION, Rows, RowWriter
from rcdm_core.versions import versions

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource

FORMAT = "rcdm representations"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class About:
    """Where the rows come from."""

    provider: ProviderRecord
    fit: str                        # crop or pad
    flip: bool                      # whether mirror images have an h too
    precision: str                  # float32 or bf16: what the encoder computed in
    deviation: float                # how far that moved h on the test pictures, as a share of its spread
    data: dict[str, Any]            # the set, as `ImageSource.describe` has it
    versions: dict[str, str]
    label_names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> About:
        """The inverse of `to_dict`. Raises TypeError or KeyError where something is missing."""
        known = {entry.name: values[entry.name] for entry in fields(cls)}
        known["provider"] = ProviderRecord.from_dict(known["provider"])
        return cls(**{**known, "label_names": tuple(known["label_names"])})


def about(
    provider: ProviderRecord,
    source: ImageSource,
    *,
    fit: str,
    flip: bool,
    precision: str = "float32",
    deviation: float = 0.0,
) -> About:
    """What there is to say of a set that this encoder is about to see."""
    labels = tuple(source.label_names)
    return About(provider, fit, flip, precision, deviation, source.describe(), versions(), labels)


def row_shape(dim: int, flip: bool) -> tuple[int, ...]:
    """Shape of one row of h."""
    return (2, dim) if flip else (dim,)


def row_writer(path: Path, dim: int, flip: bool, *, count: int = 0, option: str = CACHE_OPTION) -> RowWriter:
    """What writes h, to be completed with `finish`."""
    return RowWriter(path, "h", row_shape(dim, flip), np.dtype(np.float32), count=count, option=option)


def append(writer: RowWriter, h: np.ndarray) -> None:
    """Add rows of h [n, views, dim]."""
    writer.append(h.reshape(len(h), *writer.row_shape))


def finish(
    writer: RowWriter,
    described: About,
    mark: Fingerprint,
    source: ImageSource,
    order: np.ndarray,              # [N] indices into the source
    unreadable: Mapping[int, str],  # places in the order that have no row, and why
) -> None:
    """Complete the file of `writer`, to which h of the others has been appended in that order."""
    chosen = np.delete(order, sorted(unreadable))
    skipped = [
        (source.names[index], source.ids[index], reason)
        for index, reason in ((int(order[place]), reason) for place, reason in sorted(unreadable.items()))
    ]
    beside = {
        "fingerprint.h": mark.h.cpu().float().numpy(),
        "ids": packed([source.ids[index] for index in chosen]),
        "names": _text([source.names[index] for index in chosen]),
        "skipped": _text(skipped),
        # Described anew, because what cannot be read was not known before.
        "about": _text(replace(described, data=source.describe()).to_dict()),
    }
    if source.labels is not None:
        beside["labels"] = np.array([source.labels[index] for index in chosen], np.int32)
    blocks = writer.checksums(checksums.rows_in_a_block(writer.row_bytes))
    beside["checksums"] = checksums.pack(blocks, checksums.of_arrays(beside))
    writer.finish(beside, {"format": FORMAT, "version": str(FORMAT_VERSION)})


class Representations:
    """Such a file, opened for reading: rows are copied out of it when they are asked for.

    path   of the file
    about  About
    mark   the Fingerprint of the encoder

    Raises RCDMError when there is no such file, it is damaged, cut short, of another kind or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():
            raise RCDMError(f"{path} is no file; expected a file of representations that rcdm encode wrote.")
        try:
            rows = Rows(self.path)
            kind, version = rows.metadata.get("format"), rows.metadata.get("version", "0")
        except FileNotFoundError:
            raise RCDMError(f"There is no {path}; rcdm encode writes a file of representations.") from None
        except OSError as error:
            raise RCDMError(f"{path} cannot be read ({error.strerror or error}); check the file.") from error
        except ValueError as error:
            what = "is truncated" if str(error).endswith("truncated") else "is not a safetensors file"
            raise RCDMError(f"{path} {what}; expected a file of representations that rcdm encode wrote.") from error
        if kind != FORMAT:
            raise RCDMError(f"{path} holds no representations of rcdm; expected a file that rcdm encode wrote.")
        if version == "1":
            raise RCDMError(f"{path} was written by an older version of rcdm, without checksums; encode it again.")
        if version != str(FORMAT_VERSION):
            raise RCDMError(f"{path} was written by a newer version of rcdm; update with pip install -U rcdm.")
        try:
            self.about = About.from_dict(_json(rows.view("about")))
            h = torch.from_numpy(rows.beside("fingerprint.h"))
            self.mark = Fingerprint(self.about.provider.weights_digest, h)
            self._keys = rows.view("ids").reshape(-1, 32).view("S32")[:, 0]
            whole = len(self._keys) == len(rows) and rows.row_shape == row_shape(h.shape[1], self.about.flip)
            beside = {name: rows.view(name) for name in rows.names if name not in (rows.name, "checksums")}
            self._checksums = checksums.Checksums(rows, rows.view("checksums"), beside)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise RCDMError(f"{path} is damaged ({error}); encode the pictures again.") from error
        if not whole:
            raise RCDMError(f"{path} is damaged: its parts are not of one size; encode the pictures again.")
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dim(self) -> int:
        """The size of h."""
        return self._rows.row_shape[-1]

    @property
    def names(self) -> list[str]:
        """File names relative to the folder, by row."""
        return list(_json(self._rows.view("names")))

    @property
    def ids(self) -> list[str]:
        """Content ids, 64 hexadecimal digits each, by row."""
        return [bytes(key).hex() for key in self._rows.view("ids")]

    @property
    def labels(self) -> list[int] | None:
        """Class numbers by row, of `about.label_names`; None without classes."""
        return self._rows.beside("labels").tolist() if self.about.label_names else None

    @property
    def skipped(self) -> list[tuple[str, str, str]]:
        """(name, content id, reason) of every picture that could not be read."""
        return [(name, content_id, reason) for name, content_id, reason in _json(self._rows.view("skipped"))]

    def h(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """float32 [n, views, dim]: the picture's h, and with flips that of its mirror image.

        Raises RCDMError where one is not what was written.
        """
        self.verify(rows)
        found = self._rows[rows]
        return found if self.about.flip else found[:, None]

    def verify(self, rows: np.ndarray | slice = slice(None)) -> None:
        """See that these rows are what was written: every block of them is read once. Raises RCDMError."""
        try:
            self._checksums.check(rows)
        except ValueError as error:
            raise RCDMError(f"{self.path} is damaged ({error}); encode the pictures again.") from error

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """[n] the row of each content id; -1 where it is not in the file."""
        wanted = packed(ids).view("S32")[:, 0]
        places = np.searchsorted(self._keys, wanted)
        if not len(self._keys):
            return np.full(len(ids), -1)
        inside = np.minimum(places, len(self._keys) - 1)
        return np.where(self._keys[inside] == wanted, inside, -1)

    def fill(self, ids: Sequence[str | None], compute: Callable[[list[int]], np.ndarray]) -> np.ndarray:
        """h [n, dim] of pictures: from the file, and for those that are not in it `compute(their places)`."""
        known = [place for place, content_id in enumerate(ids) if content_id is not None]
        rows = np.full(len(ids), -1)
        rows[known] = self.find([str(ids[place]) for place in known])
        h = np.empty((len(ids), self.dim), np.float32)
        h[rows >= 0] = self.h(rows[rows >= 0])[:, 0]
        if missing := np.flatnonzero(rows < 0).tolist():
            h[missing] = compute(missing)
        return h

    def check(self, mark: Fingerprint, *, fit: str, interpolation: str | None, whose: str) -> None:
        """Raise RCDMError unless the rows are what this encoder gives for pictures that are read in this way.

        interpolation: None where it is not known. whose: whose encoder and fit it is, for the message.
        """
        difference = compare_fingerprints(mark, self.mark)
        if difference is not None:
            raise RCDMError(
                f"{self.path} was made by another encoder ({self.about.provider.name}) than that of {whose}: "
                f"{difference}; encode the pictures with that one, or leave --representations out."
            )
        ours = {"--fit": (self.about.fit, fit), "interpolation": (self.about.provider.interpolation, interpolation)}
        for name, (here, there) in ours.items():
            if there is not None and here != there:
                raise RCDMError(
                    f"{self.path} was encoded with {name} {here}, but {whose} has {there}; encode the pictures in the "
                    "same way, or leave --representations out."
                )

    def record(self) -> dict[str, Any]:
        """What a bundle or a result says of the file."""
        return {
            "path": str(self.path.absolute()),
            "count": len(self),
            "precision": self.about.precision,
            "deviation": self.about.deviation,
            "versions": self.about.versions,
        }

    def remark(self) -> str | None:
        """What the user should know about the numbers; None when they are float32's."""
        if self.about.precision == "float32":
            return None
        return (
            f"The h in {self.path} was computed in {self.about.precision} and is off by {self.about.deviation:.2g} of "
            "its spread from that of float32, in which h is computed everywhere else."
        )

    def notes(self, ids: Sequence[str]) -> list[str]:
        """What to say of a result in which the h of these pictures is from the file."""
        missing = int((self.find(ids) < 0).sum())
        computed = f"{missing} of the {len(ids)} pictures are not in {self.path}: their h was computed."
        return [note for note in (computed if missing else None, self.remark()) if note is not None]


def packed(ids: Sequence[str]) -> np.ndarray:
    """Content ids as uint8 [n, 32]."""
    return np.frombuffer(bytes.fromhex("".join(ids)), np.uint8).reshape(-1, 32)


def _text(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _json(text: np.ndarray) -> Any:
    return json.loads(text.tobytes())
