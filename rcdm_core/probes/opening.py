"""What most probes do first: check their numbers, find their pictures, and say what is odd about them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.bootstrap import MIN_IMAGES
from rcdm_core.probes.pictures import Pictures, choose, default_data, held_out

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.probes.base import Context
    from rcdm_core.provider import Option


def only_with(
    params: Mapping[str, Any], declared: Mapping[str, Option], names: Sequence[str], *, reads: bool, remedy: str
) -> None:
    """Raise RCDMError for the first of the named parameters that has a value of its own although nothing reads it.

    reads: whether something does. remedy: what to give so that something does.
    """
    for name in names:
        if not reads and params[name] != declared[name].default:
            raise RCDMError(f"--{name.replace('_', '-')} is for {remedy}; give that with it, or leave it out.")


def check_conditional(context: Context) -> None:
    """Raise RCDMError for a model that was trained without a representation."""
    for name, model in zip(context.names, context.models, strict=True):
        if model.h_dim == 0:
            raise RCDMError(
                f"{name} was trained without a representation, and the probe {context.probe.name} is about one; give "
                "another --model."
            )


def data_of(context: Context) -> ImageSource | None:
    """The set that further pictures come from: --data, or what the first model was trained on, if that is there."""
    return context.data if context.data is not None else default_data(context.models[0])


def pictures_of(context: Context, data: ImageSource | None, count: int, *, what: str | None = "picture") -> Pictures:
    """The pictures to look at, with a note on too few for an interval.

    what: that intervals are over; None: over something else than pictures, which the probe counts itself.
    Raises RCDMError as `choose`.
    """
    pictures = choose(context.images, data, context.models, count=count)
    if what is not None:
        pictures.notes += few(int(pictures.counting(context.models).sum()), what)
    return pictures


def few(n: int, what: str = "picture", *, many: str = "") -> list[str]:
    """The note on fewer than an interval by bootstrap takes; shares have Wilson's.

    what: of one of them; many: of several, where that is not with an s.
    """
    if n >= MIN_IMAGES:
        return []
    who = f"{what} is" if n == 1 else f"{many or what + 's'} are"
    return [
        f"{n} {who} too few for intervals by bootstrap ({MIN_IMAGES} are needed; shares have Wilson's from one on): "
        "numbers without one hold for what is shown and for nothing else."
    ]


def pool_of(context: Context, data: ImageSource | None, pictures: Pictures, count: int) -> Pictures:
    """Held-out pictures that random pairs are made of: the first `count` of the data, or without data the pictures.

    Of these, all where fewer than two are held out.
    """
    found = Pictures([])
    if data is not None and count:
        with contextlib.suppress(RCDMError):  # every one was trained on: what was asked for is all there is
            found = held_out(data, context.models, count=count)
    if len(found) < 2:
        found = Pictures(pictures.unseen(context.models).items)
    return found if len(found) >= 2 else Pictures([*pictures])


def labels_of(data: ImageSource | None) -> dict[str, str]:
    """content id -> the name of its class, the first where it is in several; empty where there are no classes."""
    names: dict[str, str] = {}
    if data is not None and data.labels is not None:
        for content_id, label in zip(data.ids, data.labels, strict=True):
            names.setdefault(content_id, data.label_names[label])
    return names


def require_labels(data: ImageSource | None) -> dict[str, str]:
    """As `labels_of`, of at least two classes.

    Raises RCDMError without data, without labels, or for one class.
    """
    if data is None:
        raise RCDMError("The pictures of the training are not there any more; give a folder of classes with --data.")
    labels = labels_of(data)
    where = data.describe()["path"]
    if not labels:
        subfolders = [path for path in Path(where).iterdir() if path.is_dir()] if Path(where).is_dir() else []
        what = "has one class only" if len(subfolders) == 1 else "has no labels"
        raise RCDMError(f"{where} {what}; give --data a folder with a subfolder for each of at least two classes.")
    if len(set(labels.values())) < 2:
        raise RCDMError(f"{where} has one class only; give --data a folder with a subfolder for each of at least two.")
    return labels
