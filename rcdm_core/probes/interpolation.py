"""Figures 1c, 14 and 15: what lies between the representations of two pictures?

h goes from one picture's to another's, on the straight line (lerp) or on the arc about the origin (slerp); samples are
drawn at even steps, each row of them from one noise. The samples are encoded again: their distances to both ends say
whether they follow the way, and not only that it looks like it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.memory import require_memory
from rcdm_core.metrics.bootstrap import bootstrap_mean
from rcdm_core.metrics.paired import compare, together
from rcdm_core.metrics.paths import PATHS
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import draw, pixels_of
from rcdm_core.probes.encoding import h_of
from rcdm_core.probes.opening import check_conditional, data_of, few, pictures_of
from rcdm_core.probes.pictures import Picture, Pictures, fit_of, read_arrays
from rcdm_core.probes.wording import said
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, ShownRows, draw_grid

if TYPE_CHECKING:
    from rcdm_core.model import RCDM

CURVES = ("to_first", "to_second", "progress")


def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for a way that does not exist."""
    pick_paths(params["path"])


def run(context: Context) -> Result:
    """Samples along the way between the h of every two pictures, and how far they are from both ends.

    Pictures are taken in twos: the first with the second, the third with the fourth.

    Raises RCDMError for parameters out of range, an unconditional model, fewer than two pictures, or an arc that does
    not exist.
    """
    from rcdm_core.report.interpolation import write_report

    params = context.params
    paths, points = pick_paths(params["path"]), params["points"]
    check_conditional(context)
    size = max(pixels_of(model) * params["samples"] + 2 * model.h_dim for model in context.models)
    what = f"{points} --points with {params['samples']} --samples of each"
    require_memory(points * size * 4, what, "give smaller numbers")
    data = data_of(context)
    pictures = pictures_of(context, data, 2 * params["count"], what=None)
    pictures = tuples(pictures, 2, context)
    pairs = [(pictures[i], pictures[i + 1]) for i in range(0, len(pictures), 2)]
    pictures.notes += few(int(pictures.counting(context.models).sum()), "pair")
    result = context.begin(pictures, data, pairs=[[first.name, second.name] for first, second in pairs])

    t = np.linspace(0, 1, points)
    rows = ShownRows()
    total = len(pairs) * len(paths) * len(context.models) * params["points"] * params["samples"]
    context.progress.start(total, "sampling", unit="sample")
    for number, (first, second) in enumerate(pairs, 1):
        looks = {path: [_look(context, model, first, second, path, t) for model in context.models] for path in paths}
        file = f"interpolation-{number:03d}.png"
        result.images.append(
            {
                "name": f"{first.name} to {second.name}",
                "content_ids": [first.id, second.id],
                "models": {
                    name: {path: {key: looks[path][m][key] for key in (*CURVES, "length")} for path in paths}
                    for m, name in enumerate(context.names)
                },
                "file": file,
            }
        )
        fresh = [row for path in paths for row in _rows(context, number, path, looks[path], t)]
        draw_grid(
            result.add_file(file),
            fresh,
            titles=[*context.names, ""],
            picture_title="first",
            caption=f"{first.name} to {second.name}; each row from one noise; below, how far along the samples' h is",
        )
        rows.take(fresh)
        result.save()  # what is done stays, whatever happens to the rest
    context.progress.finish()

    counted = result.counted(result.images)
    for name in context.names:
        result.aggregates[name] = {
            path: _aggregate([record["models"][name][path] for record in counted], t, context.seed) for path in paths
        }
        result.answer += [answer(name, path, result.aggregates[name][path]) for path in paths]
    compared = together(
        *(
            compare(
                {f"{name}, {path}": _slopes([r["models"][name][path] for r in counted], t) for name in context.names},
                seed=context.seed,
            )
            for path in paths
        )
    )
    result.aggregates["differences"] = [difference.as_json() for difference in compared]
    write_report(result, context, rows, t, paths, compared)
    return result


def pick_paths(names: str) -> list[str]:
    """The ways that are named, with commas between them. Raises RCDMError for another one."""
    wanted = [name.strip().lower() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in PATHS]
    if unknown or not wanted:
        raise RCDMError(f"There is no path {unknown[0] if unknown else names!r}; expected lerp, slerp, or lerp,slerp.")
    return list(dict.fromkeys(wanted))


def tuples(pictures: Pictures, size: int, context: Context) -> Pictures:
    """As many of the pictures as fill groups of `size`, with a note on those left over.

    Raises RCDMError where they do not fill one.
    """
    if len(pictures) < size:
        raise RCDMError(
            f"The probe {context.probe.name} takes {size} different pictures, but there "
            f"{'is' if len(pictures) == 1 else 'are'} {len(pictures)}; give more with --image or --data."
        )
    left = len(pictures) % size
    items = [*pictures][: len(pictures) - left]
    notes = [*pictures.notes]
    if left:
        over = ", ".join(picture.name for picture in [*pictures][-left:])
        notes.append(f"Pictures are taken {size} at a time; {over} {'is' if left == 1 else 'are'} left over.")
    return Pictures(items, notes, each=size)


def _look(context: Context, model: RCDM, first: Picture, second: Picture, path: str, t: np.ndarray) -> dict[str, Any]:
    """One model on one pair: ends [2, 3, S, S], samples [T, n, 3, S, S], and the curves [T], means over the samples.

    to_first, to_second: distances of the samples' h to the ends', over the ends' distance. progress: where the sample's
    h falls on the line from the first to the second, 0 to 1. length: the ends' distance.
    """
    ends = h_of(model, [first, second], context).astype(np.float64)
    targets = PATHS[path](ends[0], ends[1], t)
    # one stream for all steps: what changes along a row comes from h alone
    drawn = draw(context, model, targets, context.params["samples"], [f"{first.id}-{second.id}"] * len(t))
    way = ends[1] - ends[0]
    length = float(np.linalg.norm(way))
    unit = length or np.nan
    return {
        "ends": read_arrays([first, second], model.image_size, fit_of(model)),
        "samples": drawn.samples,
        "to_first": (np.linalg.norm(drawn.h - ends[0], axis=-1) / unit).mean(axis=1),
        "to_second": (np.linalg.norm(drawn.h - ends[1], axis=-1) / unit).mean(axis=1),
        "progress": ((drawn.h - ends[0]) @ way / unit**2).mean(axis=1),
        "length": length,
    }


def _rows(context: Context, number: int, path: str, looks: list[dict[str, Any]], t: np.ndarray) -> list[GridRow]:
    """A row for each noise; under the last one the progress."""
    n = context.params["samples"]
    rows = []
    for k in range(n):
        told = [look if k == n - 1 and look["length"] else None for look in looks]  # two pictures of one h have no way
        captions = [[] if look is None else [f"{value:.2f}" for value in look["progress"]] for look in told]
        rows.append(
            GridRow(
                label=[f"{number} {path}", f"noise {k + 1}"],
                picture=looks[0]["ends"][0],
                blocks=[*(look["samples"][:, k] for look in looks), looks[0]["ends"][1:]],
                numbers=[[] for _ in range(len(looks) + 1)],
                captions=[*captions, []],
            )
        )
    return rows


def _aggregate(looks: list[dict[str, Any]], t: np.ndarray, seed: int) -> dict[str, Any]:
    """Each curve's estimates over the pairs, and the slope of progress on t: 1 where samples go all the way."""
    entry: dict[str, Any] = {"t": t}
    for key in CURVES:
        values = np.stack([look[key] for look in looks])
        entry[key] = [bootstrap_mean(column, seed=seed).as_json() for column in values.T]
    entry["slope"] = bootstrap_mean(_slopes(looks, t), seed=seed).as_json()
    return entry


def _slopes(looks: list[dict[str, Any]], t: np.ndarray) -> np.ndarray:
    """Of progress on t, by least squares: [pairs]."""
    centred = t - t.mean()
    return np.asarray(np.stack([look["progress"] for look in looks]) @ centred / (centred**2).sum())


def answer(name: str, path: str, entry: dict[str, Any]) -> str:
    """One model's way in a sentence."""
    if entry["slope"]["value"] is None:
        return f"{name}, {path}: the two pictures of every pair have the same h; there is no way between them."
    middle = len(entry["t"]) // 2
    return (
        f"{name}, {path}: from one end to the other the samples' h goes {said(entry['slope'])} of the way; in the "
        f"middle it is {said(entry['to_first'][middle])} and {said(entry['to_second'][middle])} of the ends' distance "
        "away from the two."
    )


PROBE = Probe(
    name="interpolation",
    summary="What lies between the representations of two pictures",
    figure="figures 1c, 14 and 15",
    parameters={
        "path": Option(str, "lerp,slerp", "the ways: lerp (the straight line), slerp (the arc about the origin)"),
        "points": Option(int, 7, "steps of the way, with both ends"),
        "samples": Option(int, 2, "rows of samples, each from one noise"),
        "count": Option(int, 5, "pairs of held-out pictures when no --image is given"),
    },
    run=run,
    least={"samples": 1, "count": 1, "points": 3},
    check=check,
    unless_given=("count",),
)
