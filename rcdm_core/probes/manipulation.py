"""Figures 5, 30 and 31: what do the dimensions of h hold that a picture shares with its neighbours, and the others?

Of the dimensions that are not zero in a picture's h, those that are so in most of its nearest neighbours, and those
that are so in the fewest, are set to zero, or to their values in another picture. How far samples of the changed h
move, in every attribute and in h, beyond the spread of the samples of the h as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.attributes import ATTRIBUTES, measure
from rcdm_core.metrics.bootstrap import bootstrap_mean, bootstrap_over_pairs
from rcdm_core.metrics.distances import mean_of_pairs
from rcdm_core.metrics.paired import MIN_PAIRS, SURE, Difference, compare, compare_each, together
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import blocks
from rcdm_core.probes.manipulation_look import WHICH, H, Look, look_at, threshold
from rcdm_core.probes.opening import check_conditional, data_of, only_with, pictures_of, pool_of
from rcdm_core.probes.pictures import Picture, Pictures, fit_of, read_arrays, the_picture
from rcdm_core.probes.reference import Random, gallery, random_pictures, training_pictures
from rcdm_core.probes.verdicts import listed
from rcdm_core.probes.wording import LEAST, said
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, ShownRows, draw_grid

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource

ZERO, SWAP = "zero", "swap"
AMONG = ("held-out", "training")
MEASURES = (*ATTRIBUTES, H)


def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for a mode, set or share that does not exist, and for what the mode does not read."""
    if params["mode"] not in (ZERO, SWAP) or params["among"] not in AMONG:
        raise RCDMError(
            f"mode is {params['mode']!r} and among is {params['among']!r}; expected {ZERO} or {SWAP}, and "
            f"{' or '.join(AMONG)}."
        )
    if not 0 < params["share"] <= 0.5:
        raise RCDMError(f"share is {params['share']:g}, but expected a number above 0 and at most 0.5.")
    only_with(params, PROBE.parameters, ["partner"], reads=params["mode"] == SWAP, remedy=f"--mode {SWAP}")
    among = AMONG[1]
    only_with(params, PROBE.parameters, ["training"], reads=params["among"] == among, remedy=f"--among {among}")


def run(context: Context) -> Result:
    """Samples of h with its most and with its least common dimensions changed, and what changes in them.

    Raises RCDMError for parameters out of range, an unconditional model, or pictures that cannot be read.
    """
    from rcdm_core.report.manipulation import write_report

    params = context.params
    check_conditional(context)
    data = data_of(context)
    pictures = pictures_of(context, data, params["count"])
    pictures = _without_partner(context, pictures)
    partners = partners_of(context, pictures)
    result = context.begin(pictures, data)
    pool = pool_of(context, data, pictures, params["pool"])
    references = random_pictures(context, pool)
    known = [_neighbourhood(context, m, data, pool, references[m]) for m in range(len(context.models))]
    thresholds = [
        threshold(params["threshold"], np.concatenate([h, r.h])) for (_, h), r in zip(known, references, strict=True)
    ]
    for name, one in zip(context.names, thresholds, strict=True):
        result.aggregates[name] = {"threshold": one.value, "threshold_is": one.how, "exact_zeros": one.zeros}

    looks: list[list[Look]] = [[] for _ in context.models]
    rows = ShownRows()
    n = params["samples"]
    context.progress.start(len(pictures) * len(context.models) * 3 * n, "sampling", unit="sample")
    for number, block in enumerate(blocks(len(pictures), 3 * n), 1):
        part = pictures[block]
        other = partners[block] if partners else None
        of_block = [
            look_at(context, model, part, other, *known[m], thresholds[m]) for m, model in enumerate(context.models)
        ]
        fresh = []
        for i, picture in enumerate(part):
            result.images.append(_record(context, picture, other[i] if other else None, of_block, i))
            fresh += _rows(context, block.start + i, picture, i, of_block, references)
        caption = "h: how far samples are from unmodified ones, beyond their spread, in distances of random pictures"
        draw_grid(result.add_file(f"manipulation-{number:03d}.png"), fresh, titles=context.names, caption=caption)
        rows.take(fresh)
        for of_model, look in zip(looks, of_block, strict=True):
            of_model.append(look.numbers())
        result.save()  # what is done stays, whatever happens to the rest
    context.progress.finish()

    within: list[Difference] = []
    moves: dict[str, dict[str, np.ndarray]] = {}  # of each model, by what the measure is called, over the pictures
    for name, of_model, reference in zip(context.names, looks, references, strict=True):
        fresh_aggregate, values = _aggregate(of_model, result.counting, reference, context.seed)
        result.aggregates[name] |= {"pool": len(pool), **fresh_aggregate}
        for measure_, of_which in values.items():
            found = compare(
                {f"{name}: {measure_}, most": of_which[WHICH[0]], "least": of_which[WHICH[1]]}, seed=context.seed
            )
            within += found
        moves[name] = {f"{key}, {which}": of[which] for key, of in values.items() for which in WHICH}
        if missing := int(sum((look.candidates < 2).sum() for look in of_model)):
            result.notes.append(
                f"{name}: {missing} pictures have fewer than two dimensions that are not zero; left out."
            )
    beyond = _beyond_spread(moves, context.seed)
    for name in context.names:
        result.aggregates[name]["beyond_spread"] = {key: one.as_json() for key, one in beyond[name].items()}
        result.answer.append(answer(name, result.aggregates[name], params["mode"]))
    differences = together(within, compare_each(moves, seed=context.seed))
    result.aggregates["differences"] = [difference.as_json() for difference in differences]
    tests = [one for of_model in beyond.values() for one in of_model.values()]
    write_report(result, context, rows, tests, differences[: len(within)], differences[len(within) :])
    return result


def _beyond_spread(
    moves: Mapping[str, Mapping[str, np.ndarray]], seed: int
) -> dict[str, dict[str, Difference]]:
    """Whether samples move at all: each move [images] of a model against none, with Holm's correction over all."""
    parts = [
        compare({f"{name}: {key}": values, "their own spread": np.zeros(len(values))}, seed=seed)
        for name, of_model in moves.items()
        for key, values in of_model.items()
    ]
    flat = iter(together(*parts))
    return {name: {key: next(flat) for key in of_model} for name, of_model in moves.items()}


def _without_partner(context: Context, pictures: Pictures) -> Pictures:
    """The pictures but for the one that the others swap with. Raises RCDMError where there is no other."""
    given = context.params["partner"]
    if not given:
        return pictures
    one = the_picture(given, "--partner")
    others = [picture for picture in pictures if picture.id != one.id]
    if not others:
        raise RCDMError(f"{given} is the picture itself; give another --partner.")
    left = [f"{one.name} is the partner, and left out of the pictures."] if len(others) < len(pictures) else []
    return Pictures(others, [*pictures.notes, *left])


def partners_of(context: Context, pictures: Pictures) -> list[Picture] | None:
    """The picture that each takes the values from: the one that was given, or the next one; None unless they swap.

    Pictures that a model was trained on are passed over, unless there is no other.

    Raises RCDMError where there is none.
    """
    given = context.params["partner"]
    if context.params["mode"] != SWAP:
        return None
    if given:
        return [the_picture(given, "--partner")] * len(pictures)
    if len(pictures) < 2:
        raise RCDMError("To swap takes two different pictures; give another --image, or --partner.")
    counting, n = pictures.counting(context.models), len(pictures)
    following = [[(i + step) % n for step in range(1, n)] for i in range(n)]
    return [pictures[next((j for j in others if counting[j]), others[0])] for others in following]


def _neighbourhood(
    context: Context, m: int, data: ImageSource | None, pool: Pictures, reference: Random
) -> tuple[list[str], np.ndarray]:
    """Ids and h [P, dim] of the pictures that neighbours are looked for among."""
    if context.params["among"] == AMONG[0]:
        return [picture.id for picture in pool], reference.h
    training = training_pictures(context.models[m], data, context.params["training"], gone=context.gone)
    if len(training) < 2:
        raise RCDMError(
            f"Fewer than two of the pictures that {context.names[m]} was trained on are at hand; give their folder "
            "with --data, or look --among held-out."
        )
    context.progress.start(len(training), f"{context.names[m]}: encoding the training", unit="picture")
    parts = list(gallery(context, context.models[m], training, pixels=False))
    context.progress.finish()
    return [picture.id for part, _, _ in parts for picture in part], np.concatenate([h for _, h, _ in parts])


def _units(reference: Random) -> dict[str, np.ndarray]:
    """Distances between random pictures, for each measure: [N, N]."""
    from scipy.spatial.distance import pdist, squareform

    found = {}
    for name, values in measure(reference.pictures).items():
        usable = values[np.isfinite(values).all(axis=1)]
        found[name] = squareform(pdist(usable)) if len(usable) > 1 else np.zeros((1, 1))
    return {**found, H: reference.distances}


def _aggregate(
    looks: list[Look], counting: np.ndarray, reference: Random, seed: int
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Every measure in units of random pairs, and for the test the moves [images] by measure and which.

    counting: bool, which of the pictures of all looks.
    """

    def joined(parts: Iterable[np.ndarray]) -> np.ndarray:
        return np.asarray(np.concatenate(list(parts))[counting])

    units = _units(reference)
    entry: dict[str, Any] = {"measures": {}}
    moves: dict[str, dict[str, np.ndarray]] = {}
    for name in MEASURES:
        pairs = units[name]
        unit = mean_of_pairs(pairs) or 0.0
        # in an attribute that does not vary between pictures nothing can be measured
        if name != H and unit < ATTRIBUTES[name].floor / 2:
            continue
        within = joined(look.within[name] for look in looks)
        of: dict[str, Any] = {"within": bootstrap_over_pairs(within, pairs, seed=seed).as_json()}
        moves[name] = {}
        for which in WHICH:
            beyond = joined(look.moved[which][name] for look in looks) - within
            of[which] = bootstrap_over_pairs(beyond, pairs, seed=seed).as_json()
            moves[name][which] = beyond / unit if unit > 0 else np.full(len(beyond), np.nan)
            if looks[0].toward[which]:
                toward = joined(look.toward[which][name] for look in looks)
                of[f"{which}, toward"] = bootstrap_over_pairs(toward, pairs, seed=seed).as_json()
        entry["measures"][name] = of
    candidates = joined(look.candidates.astype(np.float64) for look in looks)
    entry["candidates"] = bootstrap_mean(candidates, seed=seed).as_json()
    asked = {which: joined(look.asked[which] for look in looks) for which in WHICH}
    entry["asked"] = {
        which: bootstrap_over_pairs(values, reference.distances, seed=seed).as_json() for which, values in asked.items()
    }
    changed = joined(np.array([len(dims) for dims in look.dims[WHICH[0]]], dtype=np.float64) for look in looks)
    entry["changed"] = bootstrap_mean(changed, seed=seed).as_json()
    return entry, moves


def answer(name: str, entry: dict[str, Any], mode: str) -> str:
    """What the most and the least common dimensions move beyond chance, in a sentence."""
    does = "set to zero" if mode == ZERO else "taken from another picture"
    parts = []
    for which in WHICH:
        moved = {
            measure_: of[which]
            for measure_, of in entry["measures"].items()
            if measure_ != H and of[which]["value"] is not None
        }
        if not moved:
            return f"{name}: there is no attribute that could be compared with that of random pictures."
        order = sorted(moved, key=lambda measure_: -moved[measure_]["value"])
        tested = {key: entry["beyond_spread"][f"{key}, {which}"]["p_holm"] for key in order}
        sure = [k for k in order if tested[k] is not None and tested[k] < SURE and moved[k]["value"] >= LEAST]
        largest = f"{order[0]}: {said(moved[order[0]])}"
        if sure:
            text = f"in {listed([f'{key} ({said(moved[key])})' for key in sure])}"
        elif tested[order[0]] is None:
            text = f"most in {largest}, which takes {MIN_PAIRS} pictures to be tested"
        else:
            text = f"in no attribute beyond chance (the largest, {largest})"
        parts.append(f"with the {which} dimensions {does} samples move {text}")
    return (
        f"{name}: {'; '.join(parts)}; in distances of random pairs, beyond the samples' own spread; h moves by "
        f"{said(entry['measures'][H][WHICH[0]])} and {said(entry['measures'][H][WHICH[1]])}."
    )


def _record(context: Context, picture: Picture, other: Picture | None, looks: list[Look], i: int) -> dict[str, Any]:
    return {
        "name": picture.name,
        "content_id": picture.id,
        "partner": None if other is None else other.name,
        "models": {
            name: {
                "candidates": int(look.candidates[i]),
                "within": {key: value[i] for key, value in look.within.items()},
                **{
                    which: {
                        "dimensions": look.dims[which][i],
                        "asked": look.asked[which][i],
                        "moved": {key: value[i] for key, value in look.moved[which].items()},
                        "toward": {key: value[i] for key, value in look.toward[which].items()},
                    }
                    for which in WHICH
                },
            }
            for name, look in zip(context.names, looks, strict=True)
        },
    }


def _rows(
    context: Context, number: int, picture: Picture, i: int, looks: list[Look], references: list[Random]
) -> list[GridRow]:
    """A picture's rows: samples of its h, and of the two changed ones."""
    first = context.models[0]
    rows = []
    for kind in ("unmodified", *WHICH):
        numbers = []
        for look, reference in zip(looks, references, strict=True):
            unit = reference.mean(reference.distances)
            lines = []
            if kind in WHICH:
                lines.append(f"{len(look.dims[kind][i])} of {look.candidates[i]}")
                beyond = look.moved[kind][H][i] - look.within[H][i]
                if unit and np.isfinite(beyond):
                    lines.append(f"h {beyond / unit:.2f}")
            numbers.append(lines)
        rows.append(
            GridRow(
                [f"{number + 1}" if kind == "unmodified" else "", kind],
                read_arrays([picture], first.image_size, fit_of(first))[0] if kind == "unmodified" else None,
                [look.samples[kind][i] for look in looks],
                numbers,
            )
        )
    return rows


PROBE = Probe(
    name="manipulation",
    summary="What changes in samples when the dimensions of h that a picture shares with its neighbours are changed",
    figure="figures 5, 30 and 31",
    parameters={
        "mode": Option(str, ZERO, "zero, or swap: take the values of another picture"),
        "partner": Option(str, "", "the picture to swap with; otherwise the next one"),
        "share": Option(float, 0.25, "of the dimensions that are not zero, to change; at most 0.5"),
        "neighbours": Option(int, 20, "nearest pictures among which a dimension is common"),
        "among": Option(str, AMONG[0], "where neighbours are looked for: held-out or training"),
        "threshold": Option(float, -1.0, "|h| up to which a dimension counts as zero; below 0: chosen and reported"),
        "samples": Option(int, 8, "samples of each h, at least 2"),
        "count": Option(int, 16, "held-out pictures to look at when no --image is given"),
        "pool": Option(int, 256, "held-out pictures that neighbours and random pairs are taken from"),
        "training": Option(int, 5000, "pictures of the training to look for neighbours among; 0: all"),
    },
    run=run,
    least={"samples": 2, "count": 1, "neighbours": 1, "pool": 2, "training": 0},
    check=check,
    unless_given=("count",),
)
