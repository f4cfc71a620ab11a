"""Figures 21 and 22: are samples nearer to the h that they were made from than other pictures are?

Squared distances of h from the conditioning picture's: of random pictures, of others of its class, of the nearest
pictures of the training, of the picture under single augmentations and under a whole chain of them, of the picture at
the generator's size, and of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.bootstrap import Estimate, bootstrap_mean, wilson
from rcdm_core.metrics.neighbours import Nearest
from rcdm_core.metrics.paired import SURE, Difference, compare, compare_each, together
from rcdm_core.naming import some
from rcdm_core.probes.augmentations import CHAINS, Augmentation, augmented, chain, singles
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import draw
from rcdm_core.probes.encoding import h_of, h_of_pixels
from rcdm_core.probes.opening import check_conditional, data_of, labels_of, pictures_of, pool_of
from rcdm_core.probes.pictures import Picture, Pictures, fit_of, read_arrays, to_array
from rcdm_core.probes.reference import Random, gallery, random_pictures, training_pictures
from rcdm_core.probes.wording import percent, said
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, ShownRows, draw_grid, to_pil

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM

RANDOM, SAME_CLASS, TRAINING, SAMPLES, SMALL = (
    "random pictures",
    "same class",
    "nearest in training",
    "samples",
    "picture at samples' size",
)
PARAMETERS = {
    "samples": Option(int, 8, "pictures of each kind, and samples of each h"),
    "count": Option(int, 12, "held-out pictures to look at when no --image is given"),
    "pool": Option(int, 256, "held-out pictures that random ones and those of the same class are taken from"),
    "training": Option(int, 5000, "pictures of the training to search for the nearest ones; 0: all"),
    "chain": Option(str, "dino", "whose chain of augmentations: dino or swav"),
}


@dataclass
class Look:
    """One model on one picture. squares: kind -> squared distances of h [m]; shown: kind -> [m, 3, S, S]."""

    squares: dict[str, np.ndarray] = field(default_factory=dict)
    shown: dict[str, np.ndarray] = field(default_factory=dict)


def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for an unknown chain."""
    if params["chain"] not in CHAINS:
        raise RCDMError(f"There is no chain of augmentations {params['chain']!r}; expected {' or '.join(CHAINS)}.")


def run(context: Context) -> Result:
    """Squared distances of h to other pictures, augmented ones and samples, for every picture and model.

    Raises RCDMError for parameters out of range, an unconditional model, or pictures that cannot be read.
    """
    from rcdm_core.report.distances import write_report

    params = context.params
    check_conditional(context)
    data = data_of(context)
    pictures = pictures_of(context, data, params["count"])
    augmentations = [*singles(), chain(params["chain"])]
    result = context.begin(pictures, data, augmentations={one.name: one.says for one in augmentations})
    labels = labels_of(data)
    if not any(picture.id in labels for picture in pictures):
        result.notes.append("No picture has a label, so that there are none of the same class; the others are there.")
    pool = pool_of(context, data, pictures, params["pool"])
    result.notes += _alone(pictures, pool, labels)
    references = random_pictures(context, pool)
    h = [h_of(model, [*pictures], context).astype(np.float64) for model in context.models]
    nearest = [_nearest(context, result, m, pictures, h[m], data) for m in range(len(context.models))]

    found: list[list[Look]] = []
    rows = ShownRows()
    context.progress.start(len(pictures) * len(context.models) * params["samples"], "sampling", unit="sample")
    for i, picture in enumerate(pictures):
        looks = []
        made: dict[tuple[str, int, str], dict[str, np.ndarray]] = {}
        for m, model in enumerate(context.models):
            look = _others(picture, h[m][i], pool, references[m], labels, params["samples"])
            if near := nearest[m].pictures[i]:
                look.squares[TRAINING] = nearest[m].squares[i]
                look.shown[TRAINING] = read_arrays(near, model.image_size, fit_of(model))
            _own(context, model, picture, h[m][i], augmentations, look, made)
            looks.append(look)
        found.append([replace(look, shown={}) for look in looks])
        file = f"distances-{i + 1:03d}.png"
        result.images.append(
            {
                "name": picture.name,
                "content_id": picture.id,
                "class": labels.get(picture.id),
                "models": {name: {"squares": look.squares} for name, look in zip(context.names, looks, strict=True)},
                "file": file,
            }
        )
        fresh = _rows(
            looks, references, read_arrays([picture], context.models[0].image_size, fit_of(context.models[0]))
        )
        caption = f"{picture.name}: squared distance from its h, in units of two random pictures'"
        draw_grid(result.add_file(file), fresh, titles=context.names, caption=caption)
        rows.take(fresh)
        result.save()  # what is done stays, whatever happens to the rest
    context.progress.finish()

    counted = result.counted(found)
    kinds = [kind for kind in kinds_of(augmentations) if any(kind in look.squares for one in counted for look in one)]
    for m, (name, reference) in enumerate(zip(context.names, references, strict=True)):
        of_model = [looks[m] for looks in counted]
        result.aggregates[name] = _aggregate(of_model, kinds, reference, len(pool), nearest[m].searched, context.seed)
    against = _against(context, counted, references, [one.name for one in augmentations])
    for name, entry in zip(context.names, against, strict=True):
        result.aggregates[name]["against_samples"] = {kind: one.as_json() for kind, one in entry.items()}
        result.answer.append(answer(name, result.aggregates[name]))
    scaled = {
        name: {kind: _means(kind, [looks[m] for looks in counted]) / _unit(references[m]) for kind in kinds}
        for m, name in enumerate(context.names)
    }
    differences = compare_each(scaled, seed=context.seed)
    result.aggregates["differences"] = [difference.as_json() for difference in differences]
    write_report(result, context, rows, kinds, augmentations, against, differences)
    return result


def _alone(pictures: Pictures, pool: Pictures, labels: dict[str, str]) -> list[str]:
    """The note on pictures with a label that no other picture of the pool has."""
    members: dict[str, set[str]] = {}
    for one in pool:
        if one.id in labels:
            members.setdefault(labels[one.id], set()).add(one.id)
    alone = [one for one in pictures if one.id in labels and not members.get(labels[one.id], set()) - {one.id}]
    if not alone:
        return []
    classes = sorted({labels[one.id] for one in alone})
    left_out = f"{len(alone)} of the {len(pictures)} pictures {'is' if len(alone) == 1 else 'are'} left out"
    return [
        f"{left_out} of “{SAME_CLASS}”: among the {len(pool)} held-out pictures there is no other of the class "
        f"({some(classes)}). A larger --pool may have one."
    ]


def kinds_of(augmentations: list[Augmentation]) -> list[str]:
    """What is compared, in the figures' order."""
    return [RANDOM, SAME_CLASS, TRAINING, *(one.name for one in augmentations), SMALL, SAMPLES]


def _others(picture: Picture, h: np.ndarray, pool: Pictures, reference: Random, labels: dict[str, str], n: int) -> Look:
    """Random pictures of the pool, and those of the picture's class: distances of all, pictures of the first n."""
    look = Look()
    others = np.array([one.id != picture.id for one in pool])
    label = labels.get(picture.id)
    same = others & np.array([label is not None and labels.get(one.id) == label for one in pool])
    squares = ((reference.h - h) ** 2).sum(axis=1)
    for kind, chosen in ((RANDOM, others), (SAME_CLASS, same)):
        if chosen.any():
            look.squares[kind] = squares[chosen]
            look.shown[kind] = reference.pictures[chosen][:n]
    return look


@dataclass(frozen=True)
class _Neighbours:
    """For each picture its nearest ones of the training and their squared distances; searched: among how many."""

    squares: list[np.ndarray]
    pictures: list[list[Picture]]
    searched: int


def _nearest(
    context: Context, result: Result, m: int, pictures: Pictures, h: np.ndarray, data: ImageSource | None
) -> _Neighbours:
    """The nearest pictures of a model's training, but for the picture itself."""
    model, n = context.models[m], context.params["samples"]
    training = training_pictures(model, data, context.params["training"], gone=context.gone)
    if not len(training):
        result.notes.append(
            f"The pictures that {context.names[m]} was trained on are not at hand, so that none of them is the nearest."
        )
        return _Neighbours([np.zeros(0)] * len(pictures), [[]] * len(pictures), 0)
    search = Nearest(h, n + 1)  # one more: a picture that was trained on finds itself
    seen: list[Picture] = []
    context.progress.start(len(training), f"{context.names[m]}: searching the training", unit="picture")
    for part, part_h, _ in gallery(context, model, training, pixels=False):
        search.add(part_h)
        seen += part
    context.progress.finish()
    squares: list[np.ndarray] = []
    near: list[list[Picture]] = []  # empty for one that is all of the training itself
    for i, picture in enumerate(pictures):
        places = [(k, j) for k, j in enumerate(search.indices[i]) if j >= 0 and seen[j].id != picture.id][:n]
        squares.append(search.squares[i, [k for k, _ in places]])
        near.append([seen[j] for _, j in places])
    return _Neighbours(squares, near, len(seen))


def _own(
    context: Context,
    model: RCDM,
    picture: Picture,
    h: np.ndarray,
    augmentations: list[Augmentation],
    look: Look,
    made: dict[tuple[str, int, str], dict[str, np.ndarray]],
) -> None:
    """What is made of the picture itself: augmented, at the generator's size, and samples of its h.

    made: the augmented pictures by fit, size and interpolation, which models share.
    """
    n, fit = context.params["samples"], fit_of(model)
    size, how = model.encoder.image_size, model.encoder.interpolation
    if (fit, size, how) not in made:
        square = picture.square(fit)
        made[fit, size, how] = {
            one.name: np.stack(
                [
                    augmented(one, square, size, how, seed=context.seed, stream=picture.id, k=k)
                    for k in range(n if one.random else 1)
                ]
            )
            for one in augmentations
        }
    stacks = made[fit, size, how]
    encoded = h_of_pixels(model, np.concatenate([*stacks.values()]), context)  # which are of one size
    parts = np.split(encoded, np.cumsum([len(stack) for stack in stacks.values()])[:-1])
    small = read_arrays([picture], model.image_size, fit)
    seen = {kind: (stack, part) for (kind, stack), part in zip(stacks.items(), parts, strict=True)}
    seen[SMALL] = (small, h_of_pixels(model, small, context))
    for kind, (stack, again) in seen.items():
        look.squares[kind] = ((again.astype(np.float64) - h) ** 2).sum(axis=1)
        look.shown[kind] = stack if kind == SMALL else _shrunk(stack, model.image_size)
    drawn = draw(context, model, h[None], n, [picture.id])
    look.squares[SAMPLES] = ((drawn.h[0] - h) ** 2).sum(axis=1)
    look.shown[SAMPLES] = drawn.samples[0]


def _shrunk(stack: np.ndarray, size: int) -> np.ndarray:
    """Pictures [m, 3, H, H] at another size, for display."""
    return np.stack([to_array(to_pil(one), size) for one in stack])


def _rows(looks: list[Look], references: list[Random], picture: np.ndarray) -> list[GridRow]:
    """A row a kind; the augmented ones share one, with their names below."""
    units = [_unit(reference) for reference in references]
    augmented_kinds = [kind for kind in looks[0].squares if kind not in (RANDOM, SAME_CLASS, TRAINING, SMALL, SAMPLES)]
    once = [kind for kind in augmented_kinds if not kind.endswith("chain")]
    lines: list[tuple[str, list[str]]] = [(RANDOM, [RANDOM]), (SAME_CLASS, [SAME_CLASS]), (TRAINING, [TRAINING])]
    lines += [("augmented", once)]
    lines += [(kind, [kind]) for kind in augmented_kinds if kind.endswith("chain")]
    lines += [(SMALL, [SMALL]), (SAMPLES, [SAMPLES])]
    rows: list[GridRow] = []
    for label, kinds in lines:
        blocks, captions = [], []
        for look, unit in zip(looks, units, strict=True):
            kept = [kind for kind in kinds if kind in look.shown]
            empty = np.zeros((0, *look.shown[SAMPLES].shape[1:]), np.float32)
            one_each = len(kinds) > 1  # of several kinds, the first draw of each
            shown = [look.shown[kind][: 1 if one_each else None] for kind in kept]
            blocks.append(np.concatenate(shown) if shown else empty)
            values = [look.squares[kind][: len(part)] / unit for kind, part in zip(kept, shown, strict=True)]
            numbers = [value for part in values for value in part]
            texts = [f"{value:.2f}" if np.isfinite(value) else "" for value in numbers]  # where there is a unit
            named = [f"{kind} {text}".rstrip() for kind, text in zip(kept, texts, strict=True)] if one_each else texts
            captions.append(named)
        if any(len(block) for block in blocks):
            rows.append(GridRow([label], picture[0] if not rows else None, blocks, [[] for _ in looks], captions))
    return rows


def _means(kind: str, looks: list[Look]) -> np.ndarray:
    """Each picture's mean squared distance to those of a kind, [N]; NaN where it has none."""
    return np.array([look.squares[kind].mean() if kind in look.squares else np.nan for look in looks])


def _unit(reference: Random) -> float:
    """The mean squared distance of random pairs; NaN where there is none."""
    return reference.mean(reference.squares) or np.nan


def _aggregate(
    looks: list[Look], kinds: list[str], reference: Random, pool: int, searched: int, seed: int
) -> dict[str, Any]:
    """Each kind's mean squared distance over pictures, absolute and in units of random pairs; and who is nearer."""

    nearer = {}
    for kind in kinds:
        if kind == SAMPLES:
            continue
        # the nearest neighbour by itself, as in the paper; of every other kind the mean
        other = np.array(
            [
                look.squares[kind].min() if kind == TRAINING else look.squares[kind].mean()
                for look in looks
                if kind in look.squares
            ]
        )
        own = np.array([look.squares[SAMPLES].mean() for look in looks if kind in look.squares])
        nearer[kind] = wilson(int((own < other).sum()), len(own)).as_json()
    return {
        "random_pair_square": reference.mean(reference.squares),
        "pool": pool,
        "searched": searched,
        "squares": {kind: bootstrap_mean(_means(kind, looks), seed=seed).as_json() for kind in kinds},
        "relative": {kind: _relative(_means(kind, looks), reference, seed).as_json() for kind in kinds},
        "samples_nearer_than": nearer,
    }


def _against(
    context: Context, found: list[list[Look]], references: list[Random], kinds: list[str]
) -> list[dict[str, Difference]]:
    """For each model, how much further than its samples each augmentation moves a picture, over the same pictures.

    In units of random pairs; Holm's correction is over all augmentations and models.
    """
    parts = []
    for m, (name, reference) in enumerate(zip(context.names, references, strict=True)):
        of_model = [looks[m] for looks in found]
        of_kind = {kind: _means(kind, of_model) / _unit(reference) for kind in (*kinds, SAMPLES)}
        parts += [
            compare({f"{name}: {kind}": of_kind[kind], SAMPLES: of_kind[SAMPLES]}, seed=context.seed) for kind in kinds
        ]
    flat = iter(together(*parts))
    return [{kind: next(flat) for kind in kinds} for _ in context.names]


def _relative(values: np.ndarray, reference: Random, seed: int) -> Estimate:
    return reference.in_units(values, reference.squares, seed=seed)


def answer(name: str, entry: dict[str, Any]) -> str:
    """One model's distances in a sentence."""
    relative, nearer = entry["relative"], entry["samples_nearer_than"]
    if relative[SAMPLES]["value"] is None:
        return f"{name}: there are no two pictures whose distance could be the unit; the absolute numbers must speak."
    text = f"{name}: samples are at {said(relative[SAMPLES])} of the squared distance of two random pictures"
    if TRAINING in relative and entry["searched"]:
        text += (
            f", and nearer than the nearest of {entry['searched']} pictures of the training for "
            f"{percent(nearer[TRAINING])} of the pictures"
        )
    found: dict[str, list[str]] = {"further": [], "less": [], "open": []}
    for kind, one in entry["against_samples"].items():
        sure = one["p_holm"] is not None and one["p_holm"] < SURE
        found[("further" if one["difference"]["value"] > 0 else "less") if sure else "open"].append(kind)
    phrases = {
        "further": "further from the picture than samples: {}",
        "less": "less far: {}",
        "open": "too near to call: {}",
    }
    parts = [phrase.format(", ".join(found[key])) for key, phrase in phrases.items() if found[key]]
    return "; ".join([text, *parts]) + "."


PROBE = Probe(
    name="distances",
    summary="Whether samples are nearer to their h than other pictures and the augmented picture are",
    figure="figures 21 and 22",
    parameters=PARAMETERS,
    run=run,
    least={"samples": 1, "count": 1, "pool": 2, "training": 0},
    check=check,
    unless_given=("count",),
)
