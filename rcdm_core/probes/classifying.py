"""Labelled pictures in two parts, and the linear probe of each model that is fitted on one and tested on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.bootstrap import Estimate, bootstrap_over_pairs, share
from rcdm_core.metrics.linear_probe import LinearProbe, fit_linear_probe, folds
from rcdm_core.naming import some
from rcdm_core.probes.opening import few, require_labels
from rcdm_core.probes.pictures import Picture, Pictures, from_source, held_out
from rcdm_core.probes.reference import UNIT_PICTURES, gallery

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM
    from rcdm_core.probes.base import Context

UNKNOWN = -1
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Divided:
    """Pictures to fit a probe on and held-out ones to test it on, with their classes as places in `names`.

    folds: 0, or the number of parts into which the held-out pictures are divided, each tested by a probe that is
    fitted on the others; `fit` is then empty.
    """

    names: list[str]
    fit: list[Picture]
    fit_labels: np.ndarray
    test: Pictures
    test_labels: np.ndarray
    folds: int = 0

    def label_of(self, name: str | None) -> int:
        """UNKNOWN for a class that the probe does not know."""
        return self.names.index(name) if name in self.names else UNKNOWN


@dataclass(frozen=True)
class Classifier:
    """One model's linear probe. h [T, dim] of the test pictures; predicted [T]; probability [T] of the predicted class.

    probes: one, or one a fold; which [T]: of them, that each test picture is judged by.
    """

    probes: Sequence[LinearProbe]
    which: np.ndarray
    h: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray

    def probe_of(self, place: int) -> LinearProbe:
        return self.probes[int(self.which[place])]

    def judge(self, h: np.ndarray, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """The classes of h [B, n, dim] that belong to the test pictures at `places` [B]: [B, n]."""
        return np.stack([self.probe_of(place).predict(rows) for place, rows in zip(places, h, strict=True)])

    def pairs(self) -> np.ndarray:
        """Distances of h between test pictures [N, N], the unit of distances."""
        from scipy.spatial.distance import pdist, squareform

        return np.asarray(squareform(pdist(self.h[:UNIT_PICTURES])))

    def in_units(self, distances: np.ndarray, *, seed: int) -> Estimate:
        """The mean of distances [n] in those of two random test pictures."""
        return bootstrap_over_pairs(distances, self.pairs(), seed=seed)


def divide(
    context: Context, data: ImageSource | None, *, fit: int, test: int, skip: Sequence[str] = (), parts: int = 0
) -> Divided:
    """Labelled pictures of `data` to fit on, at most `fit`, and held-out ones to test on, at most `test`.

    Pictures that a generator was trained on are good enough to fit on: a probe of h learns nothing from generators.
    Where they do not suffice, half of the held-out pictures of a class are fitted on. skip: ids for neither.
    parts: of a cross-validation of the held-out pictures, instead.

    Raises RCDMError without labels, with one class, with too few pictures of two classes to learn from or to test, or
    with fewer to test than parts.
    """
    labels = require_labels(data)
    assert data is not None
    where = data.describe()["path"]
    held = held_out(data, context.models, count=test + fit)
    held_ids = {picture.id for picture in held}
    names = sorted(set(labels.values()))
    own = {} if parts else _trained_on(data, context.models, labels, fit, {*skip, *held_ids})
    chosen: list[Picture] = []
    rest: dict[str, list[Picture]] = {}
    for name in names:
        members = [picture for picture in held if labels[picture.id] == name and picture.id not in skip]
        spare = len(own.get(name, ())) + len(members)
        count = len(members) if parts else max(0, min(len(members), spare // 2, spare - 2))
        chosen += members[:count]
        rest[name] = members[count:]
    tested = sorted(chosen, key=lambda picture: picture.id)[:test]
    fitted = [*_in_turn(own), *_in_turn(rest)][:fit]  # so that a small fit has all classes
    counted = tested if parts else fitted
    sizes = {name: sum(labels[picture.id] == name for picture in counted) for name in names}
    usable = [name for name in names if sizes[name] >= 2]
    cut = not parts and len(fitted) == fit
    if len(usable) < 2 and cut:
        raise RCDMError(f"--fit {fit} is too few to learn the {len(names)} classes of {where}; give {2 * len(names)}.")
    if len(usable) < 2:
        raise RCDMError(
            f"Fewer than two classes of {where} have two pictures to learn them from; give more with --data."
        )
    notes = [*held.notes]
    if left := [name for name in names if name not in usable]:
        why = f" among the {fit} of --fit" if cut else ""
        notes.append(f"{some(left)}: fewer than two pictures to learn from{why}; left out.")
    tested = [picture for picture in tested if labels[picture.id] in usable]
    fitted = [picture for picture in fitted if labels[picture.id] in usable]
    if not tested:
        raise RCDMError(f"No picture of {where} is left to test a probe on; give more with --data.")
    if parts > len(tested):
        raise RCDMError(
            f"--folds is {parts}, but {where} has {len(tested)} held-out pictures to test on; give 2 to {len(tested)}, "
            "or 0 to fit on other pictures."
        )
    place = {name: i for i, name in enumerate(usable)}
    return Divided(
        usable,
        fitted,
        np.array([place[labels[picture.id]] for picture in fitted], dtype=np.int64),
        Pictures(tested, [*notes, *few(len(tested))]),
        np.array([place[labels[picture.id]] for picture in tested], dtype=np.int64),
        parts,
    )


def _trained_on(
    data: ImageSource, models: Sequence[RCDM], labels: Mapping[str, str], count: int, skip: set[str]
) -> dict[str, list[Picture]]:
    """Different pictures that some model was trained on, by class: `count` in all, of the classes in turn.

    Within a class they come in another order than that of the held-out ones.
    """
    places: dict[str, list[int]] = {}
    seen = set(skip)
    for index in sorted(range(len(data)), key=lambda i: data.ids[i][::-1]):
        content_id = data.ids[index]
        if content_id not in seen and any(model.trained_on(content_id) for model in models):
            seen.add(content_id)
            places.setdefault(labels[content_id], []).append(index)
    chosen = set(_in_turn(dict(sorted(places.items())))[:count])
    return {name: [from_source(data, i) for i in of if i in chosen] for name, of in sorted(places.items())}


def _in_turn(groups: Mapping[str, list[_Item]]) -> list[_Item]:
    """The first of each group, the second of each, and so on."""
    longest = max(map(len, groups.values()), default=0)
    return [group[i] for i in range(longest) for group in groups.values() if i < len(group)]


def classifiers(context: Context, divided: Divided) -> list[Classifier]:
    """Each model's linear probe, and what it makes of the test pictures.

    Raises RCDMError where too many pictures cannot be read to learn from the others.
    """
    total = len(context.models) * (len(divided.fit) + len(divided.test))
    context.progress.start(total, "encoding labelled pictures", unit="picture")
    label_of = {p.id: label for p, label in zip(divided.fit, divided.fit_labels, strict=True)}
    found = []
    for model in context.models:
        h = np.concatenate([part for _, part, _ in gallery(context, model, divided.test, pixels=False)])
        h = h.astype(np.float64)
        if divided.folds:
            found.append(_cross(h, divided, context.seed))
            continue
        parts = list(gallery(context, model, Pictures(divided.fit), pixels=False))
        labels = np.array([label_of[picture.id] for pictures, _, _ in parts for picture in pictures], dtype=np.int64)
        if len(np.unique(labels)) < 2:
            raise RCDMError("Too few of the labelled pictures can be read to learn from them; give others with --data.")
        probe = fit_linear_probe(np.concatenate([part for _, part, _ in parts]), labels)
        found.append(
            Classifier([probe], np.zeros(len(h), np.int64), h, probe.predict(h), probe.probabilities(h).max(axis=1))
        )
    context.progress.finish()
    return found


def _cross(h: np.ndarray, divided: Divided, seed: int) -> Classifier:
    labels = divided.test_labels
    probes: list[LinearProbe] = []
    which, predicted = np.zeros(len(h), np.int64), np.zeros(len(h), np.int64)
    probability = np.zeros(len(h))
    for fit, test in folds(labels, divided.folds, seed=seed):
        which[test] = len(probes)
        probes.append(fit_linear_probe(h[fit], labels[fit]))
        predicted[test] = probes[-1].predict(h[test])
        probability[test] = probes[-1].probabilities(h[test]).max(axis=1)
    return Classifier(probes, which, h, predicted, probability)


def accuracy(classifier: Classifier, divided: Divided) -> dict[str, Any]:
    """accuracy, and chance: of always naming the class that is most frequent among the pictures tested on.

    Not among those fitted on: of large sets as many of each class are fitted on.
    """
    usual = int(np.bincount(divided.test_labels).argmax())
    return {
        "accuracy": share(classifier.predicted == divided.test_labels).as_json(),
        "chance": share(divided.test_labels == usual).as_json(),
        "majority_class": divided.names[usual],
        "classes": len(divided.names),
        "fitted_on": len(divided.test) if divided.folds else len(divided.fit),
        "penalty": [probe.strength for probe in classifier.probes],
    }


def short(name: str, length: int = 11) -> str:
    """A class's name as it fits below a picture."""
    return name if len(name) <= length else name[: length - 1] + "…"
