"""The pictures that a probe looks at: which they are, where they come from, and which of them were trained on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rcdm_core.data.images import DEFAULT_INTERPOLATION
from rcdm_core.errors import PictureGone, RCDMError, UnreadableImage
from rcdm_core.metrics.attributes import measure
from rcdm_core.naming import clashes, differing, some
from rcdm_core.probes.transforms import Original

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM

WORKING_SIDE = 1024  # pixels: originals that are transformed are reduced to this side first where they are larger
DRAWN_SIDE = 256  # pixels: of pictures that have no size of their own, because they are drawn
_GLANCE = 8  # pixels: enough to know that a file can be read
_CENTRE_SIDE = 128  # pixels at which the object's centre is looked for
_UNITS = {1: "picture", 2: "pair", 3: "triple"}  # by Pictures.each


@dataclass(frozen=True)
class Picture:
    """A picture that has not been read yet.

    id       of its content, 64 hexadecimal digits (a file's is the same as in training)
    name     for readers
    open     open() -> its RGB original, at full size
    read     read(size, fit) -> uint8 [3, size, size], from the original at once, as training reads it
    is_file  whether it is one, or of a set; only then can it be known whether it was trained on
    path     of the file, if there is one
    given    whether it was asked for by name, and not taken from a set
    source   the set that it was taken from

    Both functions raise UnreadableImage, or PictureGone where the picture was seen to be readable.
    """

    id: str
    name: str
    open: Callable[[], Image.Image]
    read: Callable[[int, str, str], np.ndarray]
    is_file: bool = True
    path: Path | None = None
    given: bool = False
    source: ImageSource | None = None

    def trained_on(self, model: RCDM) -> bool | None:
        """Whether the model was trained on it; None where that is not known."""
        return model.trained_on(self.id) if self.is_file else None

    def square(self, fit: str) -> Image.Image:
        """The centre square of the picture ("crop"), or all of it in the middle of a white one ("pad")."""
        return squared(self.open(), fit)

    def original(self, fit: str) -> Original:
        """The square with what transforms need to know about it."""
        picture = self.square(fit)
        x, y = measure(to_array(picture, _CENTRE_SIDE)[None])["position"][0]
        centre = (float(x), float(y)) if np.isfinite(x + y) else (0.5, 0.5)
        return Original(picture, centre, white=fit == "pad")


@dataclass
class Pictures(Sequence[Picture]):
    """Pictures in order, each once, and `notes` on what was left out and why.

    each: how many a number is of, which then follow each other: 2 for pairs.
    """

    items: list[Picture]
    notes: list[str] = field(default_factory=list)
    each: int = 1

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __iter__(self) -> Iterator[Picture]:
        return iter(self.items)

    def trained(self, models: Sequence[RCDM]) -> np.ndarray:
        """Which pictures (pairs, and so on: of `each`) some model was trained on, or on a part of them: bool [N]."""
        seen = [any(picture.trained_on(model) for model in models) for picture in self.items]
        return np.array([any(seen[i : i + self.each]) for i in range(0, len(seen), self.each)], dtype=bool)

    def counting(self, models: Sequence[RCDM]) -> np.ndarray:
        """Which of them numbers over pictures are of, bool [N]: those that no model was trained on; without any, all.

        It is one choice for all models, so that they are compared on the same pictures.
        """
        trained = self.trained(models)
        return np.ones_like(trained) if trained.all() else ~trained

    def unseen(self, models: Sequence[RCDM]) -> Pictures:
        """The single pictures that no model was trained on, with the notes."""
        trained = Pictures(self.items).trained(models)
        return Pictures([one for one, seen in zip(self.items, trained, strict=True) if not seen], [*self.notes])

    def counting_note(self, models: Sequence[RCDM]) -> str:
        """A sentence on what does not count for numbers, or that there is nothing else; empty where nothing is odd."""
        trained = self.trained(models)
        n, unit = len(trained), _UNITS.get(self.each, "group")
        count = int(trained.sum())
        part = "" if self.each == 1 else "a picture of "
        if count == 0:
            return ""
        if count == n:
            every = f"the {unit}" if n == 1 else f"every one of the {n} {unit}s"
            return (
                f"A model was trained on {part}{every}: all numbers here are of training pictures, whose samples may "
                "be memory, and say little about others."
            )
        return (
            f"{count} of the {n} {unit}s {'is' if count == 1 else 'are'} left out of all numbers over {unit}s, because "
            f"a model was trained on {part}{'it' if count == 1 else 'them'}; {'it is' if count == 1 else 'they are'} "
            "shown and recorded."
        )

    def size_note(self, models: Sequence[RCDM]) -> list[str]:
        """The note on pictures given that are smaller than what generators or encoders take; of a set, all may be."""
        sides = {fit_of(model): 0 for model in models}
        for model in models:
            sides[fit_of(model)] = max(sides[fit_of(model)], model.image_size, model.encoder.image_size)
        side = max(sides.values(), default=0)
        found = []
        for picture in self.items:
            if picture.given:
                size = picture.open().size
                square = {"crop": min(size), "pad": max(size)}  # the side of what is left, or of what it is put on
                found += [f"{picture.name} ({size[0]} × {size[1]})"] * any(square[fit] < sides[fit] for fit in sides)
        if not found:
            return []
        return [
            f"{some(found)} {'is' if len(found) == 1 else 'are'} smaller than the {side} pixels that a generator or "
            "encoder takes, and enlarged: what h says of sharpness and detail is of the enlargement."
        ]

    def training_notes(self, names: Sequence[str], models: Sequence[RCDM]) -> list[str]:
        """A sentence for every model that was trained on some of the pictures, or may have been."""
        notes = []
        for name, model in zip(names, models, strict=True):
            seen = [picture.trained_on(model) for picture in self.items]
            unknown = [picture.name for picture, flag in zip(self.items, seen, strict=True) if flag is None]
            if unknown:
                notes.append(
                    f"It is not known whether {name} was trained on {some(unknown)}: what it draws may be memory."
                )
            which = [picture.name for picture, flag in zip(self.items, seen, strict=True) if flag]
            if which:
                notes.append(
                    f"{name} was trained on {len(which)} of the {len(seen)} pictures ({some(which)}): "
                    "what it draws for them may be memory."
                )
        return notes


def fit_of(model: RCDM) -> str:
    """How the model's training made pictures square: "crop" or "pad"."""
    return model.config.data.fit if model.config.data is not None else "crop"


def trained_from(model: RCDM) -> Mapping[str, Any] | None:
    """The description of the set that the model was trained on (`ImageSource.describe`); None where it has none."""
    return None if model.config.data is None else model.config.data.description


def default_data(model: RCDM) -> ImageSource | None:
    """The pictures that the model was trained and held out on, or None where they are no longer there."""
    from rcdm_core.data.shapes import open_data

    described = trained_from(model)
    if described is None:
        return None
    try:
        return open_data(described["path"], fit=fit_of(model))
    except RCDMError:
        return None


def changed_since(data: ImageSource | None, names: Sequence[str], models: Sequence[RCDM]) -> list[str]:
    """Notes on a folder that a model was trained on and that holds other pictures now: new ones were not trained on,
    and so count as held out, even where they are those of then in other bytes."""
    described = {} if data is None else data.describe()
    notes = []
    for name, model in zip(names, models, strict=True):
        then = trained_from(model) or {}
        if data is None or described.get("kind") != "folder" or then.get("kind") != "folder":
            continue
        assert model.config.data is not None
        same_place = os.path.realpath(described["path"]) == os.path.realpath(then["path"])
        if not same_place or described["fingerprint"] == model.config.data.fingerprint:
            continue
        held = set(model.config.data.held_out)
        known = {one for one in data.ids if one in held or model.trained_on(one)}
        now = set(data.ids)
        # Of different pictures: with --keep-duplicates copies were trained on as well, of which there is one here.
        gone = max(0, len(held) + (model.train_count or 0) - len(known))
        if now == known and not gone:
            continue
        notes.append(
            f"{described['path']} is not what it was when {name} was trained: {len(now - known)} of its {len(now)} "
            f"pictures are new and count as held out, even copies in other bytes, and {gone} of then are gone."
        )
    return notes


def to_array(picture: Image.Image, size: int, interpolation: str = DEFAULT_INTERPOLATION) -> np.ndarray:
    """A square PIL picture at `size` pixels, antialiased: float32 [3, size, size] in [0, 1]."""
    from rcdm_core.data.images import fit_image

    return fit_image(picture, size, interpolation=interpolation).astype(np.float32) / 255


def read_arrays(
    pictures: Sequence[Picture], size: int, fit: str, interpolation: str = DEFAULT_INTERPOLATION
) -> np.ndarray:
    """Untransformed pictures, each from its original at once: float32 [N, 3, size, size] in [0, 1]."""
    return np.stack([picture.read(size, fit, interpolation) for picture in pictures]).astype(np.float32) / 255


def squared(picture: Image.Image, fit: str) -> Image.Image:
    """A square of the picture in its own resolution, or of 1024 pixels where that is less."""
    from rcdm_core.data.images import fit_image

    width, height = picture.size
    side = min(width, height) if fit == "crop" else max(width, height)
    if side > WORKING_SIDE:
        return Image.fromarray(np.ascontiguousarray(fit_image(picture, WORKING_SIDE, fit).transpose(1, 2, 0)))
    if fit == "crop":
        left, top = (width - side) // 2, (height - side) // 2
        return picture.crop((left, top, left + side, top + side))
    # The margins are rounded as fit_image rounds them, so that probes see the picture where training saw it.
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


def choose(
    images: Sequence[Any],
    data: ImageSource | None,
    models: Sequence[RCDM],
    *,
    count: int,
    options: Sequence[str] = ("--image", "--data"),
) -> Pictures:
    """The pictures that were asked for, or without any the first `count` of `data` that no model was trained on.

    The order of pictures from `data` is that of their content ids: neither file names nor the folder's order matter.
    A picture that is given twice counts once. options: those of the command that pictures can be given with.

    Raises RCDMError where there is nothing to look at, and UnreadableImage (with the file's name) for a picture that
    was asked for by name and cannot be read.
    """
    if images:
        parts = [_given(image) for image in images]
        given = [replace(picture, given=True) for part in parts for picture in part]
        unique = {picture.id: picture for picture in reversed(given)}
        items = _told_apart([picture for picture in given if unique[picture.id] is picture])
        notes = [note for part in parts for note in part.notes]
        if again := len(given) - len(items):
            same = "is the same as another one" if again == 1 else "are the same as others"
            notes.append(f"{again} of the {len(given)} pictures given {same}; each counts once.")
        return Pictures(items, notes)
    if data is None:
        raise RCDMError(f"There are no pictures to look at: give some with {' or '.join(options)}.")
    return held_out(data, models, count=count, options=options)


def _told_apart(pictures: list[Picture]) -> list[Picture]:
    """Files that are called alike get the folders in front in which they differ."""
    pictures = [*pictures]
    for places in clashes([picture.name for picture in pictures]):
        paths = [pictures[place].path for place in places]
        folders = differing([path.absolute().parts for path in paths if path is not None])
        if len(folders) == len(places):
            for place, different in zip(places, folders, strict=True):
                pictures[place] = replace(pictures[place], name="/".join([*different, pictures[place].name]))
    return pictures


def held_out(
    data: ImageSource,
    models: Sequence[RCDM],
    *,
    count: int,
    skip: Sequence[str] = (),
    options: Sequence[str] = ("--data",),
) -> Pictures:
    """The first `count` pictures of `data`, by content id, that no model was trained on; readable ones, each once.

    skip: ids to pass over. options: what others can be given with.

    Raises RCDMError when every picture of `data` was trained on.
    """
    items: list[Picture] = []
    seen = set(skip)
    trained = 0
    for index in sorted(range(len(data)), key=data.ids.__getitem__):
        if len(items) == count:
            break
        content_id = data.ids[index]
        if content_id in seen:
            continue
        seen.add(content_id)
        if any(model.trained_on(content_id) for model in models):
            trained += 1
            continue
        try:
            data.get(index, _GLANCE)
        except UnreadableImage as error:
            data.report_unreadable(index, error.reason)
            continue
        items.append(known_readable(from_source(data, index)))
    notes = []
    if data.skipped:
        name, reason = data.skipped[0]
        count, many = len(data.skipped), "pictures cannot be read and are left out, such as"
        what = "picture cannot be read and is left out:" if count == 1 else many
        notes.append(f"{count} {what} {name} ({reason}).")
    if not items and not skip:
        where, remedy = data.describe()["path"], f"give others with {' or '.join(options)}"
        if trained:
            raise RCDMError(f"Every picture of {where} was trained on; {remedy}.")
        raise RCDMError(f"No picture of {where} can be read; {remedy}.")
    return Pictures(items, notes)


def from_source(data: ImageSource, index: int) -> Picture:
    """Picture `index` of a set, in its original size where it is a file."""
    from rcdm_core.data.folder import ImageFolder

    if isinstance(data, ImageFolder):
        return replace(_of_file(data.path(index), data.ids[index], data.names[index]), source=data)

    def draw() -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(data.get(index, DRAWN_SIDE).transpose(1, 2, 0)))

    def read(size: int, fit: str, how: str) -> np.ndarray:
        return data.get(index, size, how)

    return Picture(data.ids[index], data.names[index], draw, read, source=data)


def _of_file(path: Path, content_id: str, name: str) -> Picture:
    from rcdm_core.data.images import open_image, read_array

    return Picture(
        content_id,
        name,
        lambda: open_image(path),
        lambda size, fit, how: read_array(path, size, fit, how),
        path=path,
    )


def known_readable(picture: Picture, name: str | None = None) -> Picture:
    """One that could be read when it was chosen: that it cannot be later is told with its name, and is no damage that
    a probe has to reckon with at every step. name: another one to tell."""

    def telling(read: Callable[..., Any]) -> Callable[..., Any]:
        def told(*arguments: Any) -> Any:
            try:
                return read(*arguments)
            except UnreadableImage as error:
                raise PictureGone(picture.id, name or picture.name, error.reason, picture.source) from error

        return told

    return replace(picture, open=telling(picture.open), read=telling(picture.read))


def the_picture(name: str, option: str) -> Picture:
    """The one picture that an option of a probe names. Raises RCDMError for a folder, and as `choose`."""
    if Path(name).is_dir():
        raise RCDMError(f"{option} {name} is a folder; give one picture.")
    if not Path(name).exists():
        raise RCDMError(f"There is no picture {name}; check the name given with {option}.")
    return _given(name)[0]


def _given(image: Any) -> Pictures:
    """The pictures that one `--image` stands for: a file, all of a folder, or a picture in memory."""
    from rcdm_core.data.images import content_hash, fit_image, open_image

    if isinstance(image, (str, Path)):
        path = Path(image)
        if path.is_dir():
            from rcdm_core.data.folder import ImageFolder

            folder = ImageFolder(path)
            found = held_out(folder, [], count=len(folder))
            return Pictures(sorted(found, key=lambda picture: picture.name), found.notes)
        if not path.exists():
            raise RCDMError(f"There is no picture {path}; check the name given with --image.")
        if not path.is_file():  # opening a named pipe would wait for ever
            raise RCDMError(f"{path} is not a regular file; give a picture with --image.")
        try:
            open_image(path)
        except UnreadableImage as error:
            raise RCDMError(
                f"{path} cannot be read as a picture ({error.reason}); give another one with --image."
            ) from error
        return Pictures([known_readable(_of_file(path, content_hash(path), path.name), str(path))])
    picture = open_image(image) if isinstance(image, Image.Image) else _from_tensor(image)
    digest = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
    # Its id is of the pixels, as there are no bytes of a file: it says nothing about what was trained on.
    return Pictures(
        [
            Picture(
                digest,
                f"picture {digest[:8]}",
                lambda: picture,
                lambda size, fit, how: fit_image(picture, size, fit, how),
                is_file=False,
            )
        ]
    )


def _from_tensor(image: Any) -> Image.Image:
    pixels = np.asarray(image)
    fits = pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.dtype.kind == "f"
    if not fits or not ((pixels >= 0) & (pixels <= 1)).all():
        what = f"{type(image).__name__} of shape {pixels.shape}"
        raise RCDMError(f"A picture is a file, a PIL image or a float tensor [3, H, W] in [0, 1], not a {what}.")
    return Image.fromarray(np.round(pixels.transpose(1, 2, 0) * 255).astype(np.uint8))
