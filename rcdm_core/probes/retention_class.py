"""The class as an attribute: pictures have labels, samples have a judge that says which class they look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.data.images import DEFAULT_INTERPOLATION
from rcdm_core.errors import RCDMError, UnreadableImage
from rcdm_core.metrics.judge import Judge, fit_judge
from rcdm_core.probes import opening
from rcdm_core.probes.pictures import Picture, fit_of, from_source
from rcdm_core.probes.reference import reading

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM

MIN_JUDGE = 20  # labelled pictures from which a judge is worth fitting
PIXELS, NONE = "pixels", "none"


def labels_of(pictures: Sequence[Picture], data: ImageSource | None) -> np.ndarray:
    """The class number of each picture, by its content; -1 for those that `data` has no label for."""
    names = opening.labels_of(data)
    numbers = {} if data is None else {name: number for number, name in enumerate(data.label_names)}
    return np.array([numbers.get(names.get(picture.id, ""), -1) for picture in pictures], dtype=np.int64)


def usable_labels(labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Labels with -1 also for a class of which there is one picture, and notes on what is left out and why.

    All are -1 where fewer than two classes are left.
    """
    labels, notes = labels.copy(), []
    if (labels < 0).all():
        return labels, [
            "The pictures have no labels, so nothing is said about the class; give --data with a folder a class."
        ]
    if missing := int((labels < 0).sum()):
        notes.append(f"{missing} of the {len(labels)} pictures have no label and do not count for the class.")
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if alone := classes[counts < 2].tolist():
        notes.append(
            f"Of {len(alone)} of the {len(classes)} classes there is one picture only, without others to learn "
            "it from: it does not count for the class."
        )
        labels[np.isin(labels, alone)] = -1
    if len(classes) - len(alone) < 2:
        notes.append("The pictures are of fewer than two classes, so nothing can be said about the class.")
        labels[:] = -1
    return labels, notes


def one_hot(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Labels [N] as float64 [N, classes]; rows of other labels are NaN."""
    hot = (labels[:, None] == np.asarray(classes)[None]).astype(np.float64)
    hot[~hot.any(axis=1)] = np.nan
    return hot


def train_judge(
    name: str,
    model: RCDM,
    models: Sequence[RCDM],
    data: ImageSource,
    classes: Sequence[int],
    *,
    skip: Sequence[str],
    count: int,
    seed: int,
) -> Judge | None:
    """A judge at the model's image size and fit, from up to `count` labelled pictures of `data` other than `skip`.

    The pictures may be ones that the generator was trained on: the judge looks at none of the probed ones, and at no h
    that is probed. None where there are fewer than 20 of them, or of one class only.

    Raises RCDMError for an encoder as the judge that is one of the models' own, or that does not exist.
    """
    assert data.labels is not None
    features = None if name == PIXELS else _features(name, model, models)
    seen, wanted = set(skip), set(classes)
    pictures: list[np.ndarray] = []
    labels: list[int] = []
    for index in sorted(range(len(data)), key=lambda i: data.ids[i][::-1]):  # any order but that of the held-out ones
        if len(labels) == count:
            break
        if data.ids[index] in seen or data.labels[index] not in wanted:
            continue
        seen.add(data.ids[index])
        try:
            pictures.append(from_source(data, index).read(model.image_size, fit_of(model), DEFAULT_INTERPOLATION))
        except UnreadableImage as error:
            data.report_unreadable(index, error.reason)
            continue
        labels.append(data.labels[index])
    if len(labels) < MIN_JUDGE or len(set(labels)) < 2:
        return None
    stacked = np.stack(pictures).astype(np.float32) / 255
    return fit_judge(stacked, np.array(labels), features=features, seed=seed)


def _features(name: str, model: RCDM, models: Sequence[RCDM]) -> Any:
    """h of the provider `name` of pictures at any size."""
    from rcdm_core.encoder import compare_fingerprints, fingerprint, load_encoder

    encoder = load_encoder(name, device=model.device)
    for own in models:
        if name == own.config.provider.name or compare_fingerprints(own.fingerprint, fingerprint(encoder)) is None:
            raise RCDMError(
                f"The judge {name} is the encoder of {own.name}: it would find in the samples what it put there; give "
                f"another provider, or {PIXELS}."
            )
    return reading(encoder)
