"""Figure 27: what does the mean representation of a class look like?

Samples of the mean h of held-out pictures of a class, encoded again: how near they are to it, and whether their nearest
class mean is that of their own class, beside how often that is so for real pictures of the class.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.bootstrap import bootstrap_mean, wilson
from rcdm_core.metrics.paired import compare
from rcdm_core.naming import some
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import draw, pixel_variance
from rcdm_core.probes.opening import check_conditional, data_of, few, require_labels
from rcdm_core.probes.pictures import Pictures, fit_of, held_out, read_arrays
from rcdm_core.probes.reference import Random, random_pictures
from rcdm_core.probes.wording import percent, said
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, draw_grid

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM

MEMBERS = 3  # pictures of the class shown beside its samples


@dataclass(frozen=True)
class Class:
    """name; places: of its pictures in the pool, at least two."""

    name: str
    places: np.ndarray


def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for classes that are given and name none."""
    if params["classes"] and not named(params["classes"]):
        raise RCDMError(f"classes is {params['classes']!r}, which names no class; give names with commas between them.")


def named(classes: str) -> list[str]:
    """The names in a text with commas between them."""
    return [name.strip() for name in classes.split(",") if name.strip()]


def run(context: Context) -> Result:
    """Samples of the mean h of each class, their distance from it, and which class's mean they are nearest to.

    Raises RCDMError where there are no labels, one class only, an unknown class, or a class with one held-out picture
    that was asked for.
    """
    from rcdm_core.report.class_mean import write_report

    params = context.params
    check_conditional(context)
    data = data_of(context)
    labels = require_labels(data)
    assert data is not None
    pool, classes, shown = pick(context, data, labels)
    pool.notes += few(len(shown), "class", many="classes") if len(shown) > 1 else []
    result = context.begin(pool, data, classes={one.name: len(one.places) for one in classes})
    references = random_pictures(context, pool, kept=0)
    means = [np.stack([reference.h[one.places].mean(axis=0) for one in classes]) for reference in references]

    rows: list[GridRow] = []
    context.progress.start(len(shown) * len(context.models) * params["samples"], "sampling", unit="sample")
    for number, place in enumerate(shown, 1):
        one = classes[place]
        looks = [
            _look(context, model, reference, mean, classes, place, pool[int(one.places[0])].id)
            for model, reference, mean in zip(context.models, references, means, strict=True)
        ]
        file = f"class-mean-{number:03d}.png"
        result.images.append(
            {
                "name": one.name,
                "pictures": len(one.places),
                "content_ids": [pool[int(i)].id for i in one.places],
                "models": {
                    name: {key: value for key, value in look.items() if key != "samples"}
                    for name, look in zip(context.names, looks, strict=True)
                },
                "file": file,
            }
        )
        row = _row(context, pool, one, looks, references)
        draw_grid(
            result.add_file(file),
            [row],
            titles=["of the class", *context.names],
            caption="samples of the class's mean h",
        )
        rows.append(row)
        result.save()  # what is done stays, whatever happens to the rest
    context.progress.finish()

    for name, reference in zip(context.names, references, strict=True):
        found = [record["models"][name] for record in result.images]
        result.aggregates[name] = _aggregate(found, reference, context)
        result.answer.append(answer(name, result.aggregates[name], len(classes)))
    compared = compare(
        {n: np.array([record["models"][n]["own"]["value"] for record in result.images]) for n in context.names},
        seed=context.seed,
    )
    result.aggregates["differences"] = [difference.as_json() for difference in compared]
    write_report(result, context, rows, len(classes), compared)
    return result


def pick(context: Context, data: ImageSource, labels: dict[str, str]) -> tuple[Pictures, list[Class], list[int]]:
    """Held-out pictures of the classes, the classes that have two or more, and the places of those to sample from."""
    params = context.params
    held = held_out(data, context.models, count=len(data))
    known = sorted(set(labels.values()))
    wanted = named(params["classes"])
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(known[:8])}"
            raise RCDMError(f"There is no class {name!r} in {data.describe()['path']}; {hint}.")
    members: dict[str, list[int]] = {name: [] for name in known}
    for i, picture in enumerate(held):
        if len(members[labels[picture.id]]) < params["per_class"]:
            members[labels[picture.id]].append(i)
    for name in wanted:
        if len(members[name]) < 2:
            count = "one held-out picture" if members[name] else "no held-out picture"
            raise RCDMError(f"The class {name} has {count}, but a mean takes two; name another with --classes.")
    usable = [name for name in known if len(members[name]) >= 2]
    if len(usable) < 2:
        raise RCDMError(
            f"Fewer than two classes of {data.describe()['path']} have two held-out pictures; give more with --data."
        )
    order = [i for name in usable for i in members[name]]
    notes = [*held.notes]
    if left := [name for name in known if name not in usable]:
        notes.append(f"{some(left)}: fewer than two held-out pictures; left out.")
    classes, start = [], 0
    for name in usable:
        classes.append(Class(name, np.arange(start, start + len(members[name]))))
        start += len(members[name])
    shown = [usable.index(name) for name in wanted] or list(range(len(usable)))[: params["count"]]
    return Pictures([held[i] for i in order], notes), classes, list(dict.fromkeys(shown))


def _look(
    context: Context,
    model: RCDM,
    reference: Random,
    means: np.ndarray,
    classes: list[Class],
    place: int,
    stream: str,
) -> dict[str, Any]:
    """One model on one class.

    samples [n, 3, S, S]; distance: of their h to the mean; members: of the class's pictures to it; spread: the samples'
    pixel variance; own, own_real: how many samples, and pictures of the class, have its mean as the nearest (a picture
    is left out of the mean that it is compared with); length: ‖mean h‖ over the mean ‖h‖ of the class.
    """
    one, mean = classes[place], means[place]
    n = context.params["samples"]
    drawn = draw(context, model, mean[None], n, [stream])
    own_h, size = reference.h[one.places], len(one.places)
    to_means = np.linalg.norm(own_h[:, None] - means, axis=-1)  # [members, classes]
    without = (mean * size - own_h) / (size - 1)
    to_means[:, place] = np.linalg.norm(own_h - without, axis=-1)
    return {
        "samples": drawn.samples[0],
        "distance": float(np.linalg.norm(drawn.h[0] - mean, axis=-1).mean()),
        "members": float(np.linalg.norm(own_h - mean, axis=-1).mean()),
        "spread": float(pixel_variance(drawn.samples[0]).mean()),
        # an interval is over pictures: samples of one mean are none
        "own": {**_nearest(np.linalg.norm(drawn.h[0][:, None] - means, axis=-1), place, n), "low": None, "high": None},
        "own_real": _nearest(to_means, place, size),
        "length": float(np.linalg.norm(mean) / max(np.linalg.norm(own_h, axis=-1).mean(), 1e-30)),
    }


def _nearest(distances: np.ndarray, place: int, n: int) -> dict[str, Any]:
    """How many of n rows of distances [n, classes] are least at class `place` alone, with Wilson's interval."""
    others = np.delete(distances, place, axis=1).min(axis=1)
    return dict(wilson(int((distances[:, place] < others).sum()), n).as_json())


def _row(
    context: Context, pool: Pictures, one: Class, looks: list[dict[str, Any]], references: list[Random]
) -> GridRow:
    numbers: list[list[str]] = [[]]
    for look, reference in zip(looks, references, strict=True):
        unit = reference.mean(reference.distances)
        lines = [f"own class {look['own']['value']:.0%} ({look['own_real']['value']:.0%})"]
        if unit:
            lines.append(f"h {look['distance'] / unit:.2f} ({look['members'] / unit:.2f})")
        numbers.append(lines)
    first = context.models[0]
    members = read_arrays([pool[int(i)] for i in one.places[:MEMBERS]], first.image_size, fit_of(first))
    label = [one.name, f"{len(one.places)} pictures"]
    return GridRow(label, None, [members, *(look["samples"] for look in looks)], numbers)


def _aggregate(found: list[dict[str, Any]], reference: Random, context: Context) -> dict[str, Any]:
    """Over the classes: distances and spread in units of random pairs, and the shares with their own mean nearest."""
    seed = context.seed

    def values(key: str) -> np.ndarray:
        return np.array([look[key]["value"] if isinstance(look[key], dict) else look[key] for look in found])

    return {
        "random_pair_distance": reference.mean(reference.distances),
        "pool": len(reference.h),
        "distance": reference.in_units(values("distance"), reference.distances, seed=seed).as_json(),
        "members": reference.in_units(values("members"), reference.distances, seed=seed).as_json(),
        "spread": reference.in_units(values("spread"), reference.pixels, seed=seed).as_json(),
        # the unit is the class; of one class there is no interval, but of its real pictures
        "own": bootstrap_mean(values("own"), seed=seed).as_json(),
        "own_real": found[0]["own_real"]
        if len(found) == 1
        else bootstrap_mean(values("own_real"), seed=seed).as_json(),
        "length": bootstrap_mean(values("length"), seed=seed).as_json(),
    }


def answer(name: str, entry: dict[str, Any], classes: int) -> str:
    """One model's classes in a sentence."""
    text = (
        f"{name}: of {classes} class means, that of their own class is nearest to {percent(entry['own'])} of the "
        f"samples of a mean h, and to {percent(entry['own_real'])} of the real pictures (chance {1 / classes:.0%})"
    )
    if entry["distance"]["value"] is None:
        return text + "."
    return (
        f"{text}; the samples are {said(entry['distance'])} of a random pair's distance from it, the real pictures "
        f"{said(entry['members'])}."
    )


PROBE = Probe(
    name="class-mean",
    summary="What the mean representation of a class looks like",
    figure="figure 27",
    parameters={
        "classes": Option(str, "", "which, with commas between them; otherwise the first ones by name"),
        "samples": Option(int, 8, "samples of each mean h"),
        "count": Option(int, 10, "classes to sample from when none are named"),
        "per_class": Option(int, 64, "held-out pictures that a mean is taken of, at most"),
    },
    run=run,
    of_sets="takes whole classes",
    least={"samples": 1, "count": 1, "per_class": 2},
    check=check,
)
