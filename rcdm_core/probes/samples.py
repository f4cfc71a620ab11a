"""Figures 1a, 1b, 2, 8, 9, 24, 28, 33 and 36: what do pictures look like that share one representation?

Beside every picture stand two numbers: how near the samples come to the h that they were made from, in distances of two
random pictures, with the real picture at the samples' size as the floor; and how much they differ from each other, as
against random pictures. Pictures that are given can be unlike the training's: how unlike is a number too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.metrics.bootstrap import bootstrap_mean
from rcdm_core.metrics.paired import compare_each
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import blocks, draw, pixel_variance
from rcdm_core.probes.encoding import h_at_image_size, h_of
from rcdm_core.probes.opening import check_conditional, data_of, only_with, pictures_of, pool_of
from rcdm_core.probes.pictures import Picture, Pictures, fit_of, held_out, read_arrays
from rcdm_core.probes.reference import Random, random_pictures
from rcdm_core.probes.wording import doubt, said
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, ShownRows, draw_grid

if TYPE_CHECKING:
    from rcdm_core.model import RCDM

GIVEN, TRAINED, HELD_OUT = "given", "given and trained on", "held out"
MEASURES = ("distance", "floor", "spread", "unusual")
COMPARED = {"distance": "samples from h", "spread": "spread", "unusual": "unusual"}


def run(context: Context) -> Result:
    """n samples of each picture's h, by model and seed, with distances and spreads.

    Raises RCDMError for parameters out of range, an unconditional model, or pictures that cannot be read.
    """
    from rcdm_core.report.samples import write_report

    params = context.params
    only_with(params, PROBE.parameters, ["beside"], reads=bool(context.images), remedy="pictures with --image")
    check_conditional(context)
    data = data_of(context)
    pictures = pictures_of(context, data, params["count"])
    all_trained = bool(pictures.trained(context.models).all())
    groups = [(TRAINED if all_trained else GIVEN) if context.images else HELD_OUT] * len(pictures)
    if context.images and params["beside"] and data is not None:
        more = held_out(data, context.models, count=params["beside"], skip=[picture.id for picture in pictures])
        pictures = Pictures([*pictures, *more], [*pictures.notes, *more.notes])
        groups += [HELD_OUT] * len(more)
    result = context.begin(pictures, data)
    if params["beside"] and data is None:
        result.notes.append("The training's pictures are not at hand, so that there are none --beside those given.")
    if params["samples"] == 1:
        result.notes.append("One sample of an h has no spread; ask for more with --samples.")
    pool = pool_of(context, data, pictures, params["pool"])
    references = random_pictures(context, pool)

    values: dict[str, dict[str, list[float]]] = {name: {m: [] for m in MEASURES} for name in context.names}
    rows = ShownRows()
    total = len(pictures) * len(context.models) * params["seeds"] * params["samples"]
    context.progress.start(total, "sampling", unit="sample")
    for number, block in enumerate(blocks(len(pictures), params["samples"] * params["seeds"]), 1):
        part = pictures[block]
        looks = [
            _look(context, model, part, reference) for model, reference in zip(context.models, references, strict=True)
        ]
        for i, picture in enumerate(part):
            record: dict[str, Any] = {"name": picture.name, "content_id": picture.id, "group": groups[block.start + i]}
            record["models"] = {
                name: {m: look[m][i] for m in MEASURES} for name, look in zip(context.names, looks, strict=True)
            }
            for name in context.names:
                for m in MEASURES:
                    values[name][m].append(record["models"][name][m])
            record["file"] = f"samples-{number:03d}.png"
            result.images.append(record)
        fresh = [row for i in range(len(part)) for row in _rows(context, block.start + i, i, looks, references, pool)]
        draw_grid(
            result.add_file(f"samples-{number:03d}.png"),
            fresh,
            titles=context.names,
            caption="h: the samples' distance from the picture's h, in distances of two random pictures (the real "
            "picture at this size); spread: of the samples, as against random pictures",
        )
        rows.take(fresh)
        result.save()  # what is done stays, whatever happens to the rest
    context.progress.finish()

    # beside held-out pictures, those given still have their own numbers where a model was trained on all of them
    chosen = {
        group: np.array([own == group for own in groups]) & (result.counting | (group == TRAINED))
        for group in dict.fromkeys(groups)
    }
    for name, reference in zip(context.names, references, strict=True):
        result.aggregates[name] = {
            "random_pair_distance": reference.mean(reference.distances),
            "pool": len(pool),
            "groups": {
                group: _aggregate(values[name], part, reference, context.seed) for group, part in chosen.items()
            },
        }
        result.answer += [answer(name, g, entry) for g, entry in result.aggregates[name]["groups"].items()]
    scaled = {
        name: {
            what: np.array(values[name][key])[result.counting] / _unit(key, reference)
            for key, what in COMPARED.items()
        }
        for name, reference in zip(context.names, references, strict=True)
    }
    found = compare_each(scaled, seed=context.seed)
    result.aggregates["differences"] = [difference.as_json() for difference in found]
    write_report(result, context, rows, found)
    return result


def _look(context: Context, model: RCDM, part: list[Picture], reference: Random) -> dict[str, Any]:
    """One model on some pictures: samples [B, seeds, n, 3, S, S], the pictures, and the measures of each [B]."""

    n, seeds = context.params["samples"], context.params["seeds"]
    h = h_of(model, part, context).astype(np.float64)
    shown = read_arrays(part, model.image_size, fit_of(model))
    streams = [picture.id for picture in part]
    drawn = [draw(context, model, h, n, streams, seed=context.seed + s) for s in range(seeds)]
    again = np.stack([one.h for one in drawn], axis=1)  # [B, seeds, n, dim]
    samples = np.stack([one.samples for one in drawn], axis=1)
    small = h_at_image_size(model, part, context).astype(np.float64)
    return {
        "pictures": shown,
        "samples": samples,
        "distance": np.linalg.norm(again - h[:, None, None], axis=-1).mean(axis=(1, 2)),
        "floor": np.linalg.norm(small - h, axis=-1),
        "spread": pixel_variance(samples.reshape(len(part), seeds * n, *samples.shape[3:])).mean(axis=(1, 2)),
        "unusual": unusual(h, reference),
    }


def unusual(h: np.ndarray, reference: Random) -> np.ndarray:
    """The share of pool pictures that are nearer to their nearest neighbour in the pool than h [B, dim] is to its own.

    A picture like them has any value from 0 to 1, evenly; one that is far from all has 1. A picture of the pool is
    compared with the others only. NaN with a pool of fewer than three.
    """
    if len(reference.h) < 3:
        return np.full(len(h), np.nan)
    usual = np.sort(reference.nearest)
    result = []
    for row in h:
        to_pool = np.linalg.norm(reference.h - row, axis=1)
        own = to_pool <= 1e-6 * max(1.0, float(np.linalg.norm(row)))  # the picture itself
        nearest = to_pool[~own].min() if not own.all() else 0.0
        result.append(np.searchsorted(usual, nearest, side="left") / len(usual))
    return np.array(result)


def _aggregate(
    values: dict[str, list[float]], chosen: np.ndarray, reference: Random, seed: int
) -> dict[str, dict[str, Any]]:
    """The measures over a group's pictures: distances and spread in units of random pairs."""
    units = {"distance": reference.distances, "floor": reference.distances, "spread": reference.pixels}
    entry = {
        name: reference.in_units(np.array(values[name])[chosen], pairs, seed=seed).as_json()
        for name, pairs in units.items()
    }
    entry["unusual"] = bootstrap_mean(np.array(values["unusual"])[chosen], seed=seed).as_json()
    return entry


def _unit(measure: str, reference: Random) -> float:
    """What a measure is in units of; NaN where there are no random pairs."""
    units = {"distance": reference.distances, "spread": reference.pixels}
    return reference.mean(units[measure]) or np.nan if measure in units else 1.0


def _rows(
    context: Context, number: int, i: int, looks: list[dict[str, Any]], references: list[Random], pool: Pictures
) -> list[GridRow]:
    """One picture's rows: one a seed, the numbers beside the first."""
    seeds = context.params["seeds"]
    lines = []
    for look, reference in zip(looks, references, strict=True):
        unit, spread = reference.mean(reference.distances), reference.mean(reference.pixels)
        text = []
        if unit:
            text.append(f"h {look['distance'][i] / unit:.2f} ({look['floor'][i] / unit:.2f})")
        if spread and np.isfinite(look["spread"][i]):
            text.append(f"spread {look['spread'][i] / spread:.2f}")
        lines.append(text)
    return [
        GridRow(
            label=[f"{number + 1}"] if seeds == 1 else [f"{number + 1}", f"seed {context.seed + s}"],
            picture=looks[0]["pictures"][i],
            blocks=[look["samples"][i, s] for look in looks],
            numbers=lines if s == 0 else [[] for _ in lines],
        )
        for s in range(seeds)
    ]


def answer(name: str, group: str, entry: dict[str, dict[str, Any]]) -> str:
    """One model's numbers for a group of pictures in a sentence."""
    distance, floor, spread = (entry[key] for key in ("distance", "floor", "spread"))
    if distance["value"] is None:
        return f"{name}: there are no two pictures whose distance could be the unit; the samples must speak."
    text = (
        f"{name}, pictures {group}: samples are {said(distance)} of a random pair's distance{doubt(distance, 1.0)}, "
        f"from the h that they were made from (the real pictures at their size: {said(floor)})"
    )
    if spread["value"] is None:
        return text + "."
    unsure = doubt(spread, 1.0)
    return f"{text}; they differ from each other by {said(spread)} of the variance of random pictures{unsure}."


PROBE = Probe(
    name="samples",
    summary="Pictures that share the representation of a picture, how near to it they are and how they differ",
    figure="figures 1a, 1b, 2, 8, 9, 24, 28, 33 and 36",
    parameters={
        "samples": Option(int, 8, "samples of each h"),
        "seeds": Option(int, 1, "sets of samples, from the seed on; a row each"),
        "count": Option(int, 8, "held-out pictures to look at when no --image is given"),
        "beside": Option(int, 0, "held-out pictures to look at beside the ones given, to compare with"),
        "pool": Option(int, 256, "held-out pictures that random pairs are made of; 0: the ones looked at"),
    },
    run=run,
    least={"samples": 1, "count": 1, "pool": 0, "seeds": 1, "beside": 0},
    unless_given=("count",),
)
