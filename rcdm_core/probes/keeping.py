"""What a probe has computed, kept in OUT/.rcdm-drawn until it is done: one that was stopped goes on where it was.

Samples, descents, attacks and encodings have one form: a file of arrays, whole or not there, whose name says what they
depend on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.atomic import make_folder, replacing
from rcdm_core.errors import RCDMError
from rcdm_core.locks import holding
from rcdm_core.probes.base import Context, describe_model
from rcdm_core.versions import versions

if TYPE_CHECKING:
    from rcdm_core.model import RCDM

FOLDER = ".rcdm-drawn"  # in OUT, while the probe runs
LOCK = ".rcdm-lock"  # in OUT as well: one probe at a time
_ROWS = "h"  # how the names of files of rows begin
_TRIES = 3  # to write where the folder goes away

Arrays = dict[str, np.ndarray]


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other probes out of the folder `out`, which exists, until the block is left or the process ends.

    Those of the probe `all` have folders of their own. Raises RCDMError when another one is in there.
    """
    refusal = f"{out} is being written by another probe; wait for it, or choose another --out."
    with holding(out / LOCK, refusal, passing=True):
        yield


def keep(
    context: Context,
    model: RCDM,
    what: str,
    depends: Mapping[str, Any],
    compute: Callable[[], Arrays],
    *,
    steps: int,
) -> Arrays:
    """What `compute()` gives, or gave to a run that was stopped: arrays by name, written as soon as they are there.

    what: the kind of work. depends: all that the arrays depend on beside the model and the versions of the software, in
    JSON's types and arrays. steps: what progress advances by where nothing has to be computed, as `compute` does where
    it is called. Of a model that is not on disk, whose weights have no name, nothing is kept.

    Raises RCDMError when OUT cannot be written.
    """
    return _keep(context, _model(context, model), {"what": what, **depends}, compute, steps)


def keep_encoded(context: Context, model: RCDM, depends: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
    """As `keep`, of arrays that depend on the encoder and not on the generator: models of one encoder share them.

    depends: which pictures, and how they were read. Progress does not advance.
    """
    found = _model(context, model)
    encoder = None if found is None else {key: found[key] for key in ("device", "provider")}
    return _keep(context, encoder, {"what": "h", **depends}, compute, 0, lasting=False)


def keep_rows(
    context: Context,
    model: RCDM,
    depends: Mapping[str, Any],
    ids: Sequence[str],
    compute: Callable[[list[int]], np.ndarray],
) -> np.ndarray:
    """As `keep_encoded`, of h picture by picture, float32 [n, dim]: whichever probe of `all` has encoded one has done
    it for the others, in whatever order they look at it.

    ids: of the pictures. depends: how they were read. compute: h of those at the places that it is called with.
    """
    found = _model(context, model)
    if found is None:
        return compute(list(range(len(ids))))
    encoder = {key: found[key] for key in ("device", "provider")}
    kept = _Rows(context, _digest({"encoder": encoder, "versions": versions(), **depends}))
    h = kept.find(ids)
    missing = [place for place, row in enumerate(h) if row is None]
    if missing:
        fresh = compute(missing)
        kept.add([ids[place] for place in missing], fresh)
        for place, row in zip(missing, fresh, strict=True):
            h[place] = row
    return np.stack([row for row in h if row is not None])


class _Rows:
    """Files of rows by content id, ROWS-KEY-….npz with `ids` [n] and `h` [n, dim], and where each row is."""

    def __init__(self, context: Context, key: str) -> None:
        self.context, self.key = context, key
        self.folder = (context.shared or context.out) / FOLDER
        if (self.folder, key) not in context.places:
            places = context.places[self.folder, key] = {}
            for path in sorted(self.folder.glob(f"{_ROWS}-{key}-*.npz")):
                for row, content_id in enumerate((_read(path) or {}).get("ids", ())):
                    places[str(content_id)] = (path, row)
                context.kept.add(path)
        self.places = context.places[self.folder, key]

    def find(self, ids: Sequence[str]) -> list[np.ndarray | None]:
        """The rows of these pictures; None of one that is not there."""
        paths = {self.places[content_id][0] for content_id in ids if content_id in self.places}
        files = {path: arrays["h"] for path in paths if (arrays := _read(path)) is not None}
        places = [self.places.get(content_id) for content_id in ids]
        return [None if place is None or place[0] not in files else files[place[0]][place[1]] for place in places]

    def add(self, ids: Sequence[str], h: np.ndarray) -> None:
        """Write the rows of pictures that were not there."""
        path = self.folder / f"{_ROWS}-{self.key}-{_digest(list(ids))}.npz"
        _write(path, {"ids": np.array(ids), "h": h}, lasting=False)
        self.context.kept.add(path)
        for row, content_id in enumerate(ids):
            self.places[content_id] = (path, row)


def _keep(
    context: Context,
    model: Mapping[str, Any] | None,
    depends: Mapping[str, Any],
    compute: Callable[[], Arrays],
    steps: int,
    *,
    lasting: bool = True,
) -> Arrays:
    path = None if model is None else _path(context, {"model": model, "versions": versions(), **depends})
    if path is not None and (before := _read(path)) is not None:
        context.kept.add(path)
        context.progress.update(steps)
        return before
    arrays = compute()
    if path is not None:
        _write(path, arrays, lasting=lasting)
        context.kept.add(path)
    return arrays


def _write(path: Path, arrays: Arrays, *, lasting: bool) -> None:
    """`write_arrays` into a folder that another run may remove at any time, because it is done and the folder empty."""
    for _ in range(_TRIES):
        make_folder(path.parent)
        try:
            return write_arrays(path, arrays, lasting=lasting)
        except RCDMError:
            if path.parent.is_dir():
                raise
    make_folder(path.parent)
    write_arrays(path, arrays, lasting=lasting)


def write_arrays(path: Path, arrays: Arrays, *, lasting: bool = True) -> None:
    """An .npz file of arrays, whole or not at all; lasting: as for `replacing`. Raises RCDMError when it cannot be
    written."""
    with replacing(path, lasting=lasting) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy takes a name such as allow_pickle for an option


def forget(context: Context) -> None:
    """Remove what a probe that is done has kept or found kept in its folder, and nothing else that may be in there:
    another run that was stopped, with other settings, goes on from its own."""
    folder = context.out / FOLDER
    for path in [path for path in context.kept if path.parent == folder]:  # not of the other probes of `all`
        context.kept.discard(path)
        with contextlib.suppress(OSError):
            for left in (path, *folder.glob(f".{path.name}.*.tmp")):  # which a kill left unfinished
                left.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()


def claim_rows(context: Context) -> None:
    """Take all that `keep_rows` has in OUT as this run's, to be forgotten with it: also what its probes left there
    before the run was stopped, and have not looked at again because they are done."""
    context.kept.update((context.out / FOLDER).glob(f"{_ROWS}-*.npz"))


def _model(context: Context, model: RCDM) -> dict[str, Any] | None:
    """What a model that is on disk is known by; None for another one."""
    if id(model) not in context.known:
        context.known[id(model)] = describe_model("", model, context.precision)
    found = context.known[id(model)]
    if found["bundle_digest"] is None:
        return None
    return {key: found[key] for key in ("bundle_digest", "device", "computes_in", "provider")}


def _path(context: Context, depends: Mapping[str, Any]) -> Path:
    """The file of arrays that depend on these."""
    return context.out / FOLDER / f"{_digest(depends)}.npz"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_in_words).encode()).hexdigest()[:32]


def _in_words(value: Any) -> str:
    """What JSON has no type for: an array by its digest."""
    if not isinstance(value, np.ndarray):
        return str(value)
    return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"


def _read(path: Path) -> Arrays | None:
    """What was written there; None where there is nothing, or a broken file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
