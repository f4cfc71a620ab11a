"""Figure 32: do differences of representations mean something: h(a) − h(b) + h(c)?

Samples are drawn at the target h(a) − h(b) + h(c), and from h(c) with the same noise. If the difference of a and b is
drawn onto c, then the samples' h moves from the one to the other as h(a) − h(b) does: a response of 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.bootstrap import bootstrap_mean, wilson
from rcdm_core.metrics.paired import compare
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import draw
from rcdm_core.probes.encoding import h_of
from rcdm_core.probes.interpolation import tuples
from rcdm_core.probes.opening import check_conditional, data_of, few, pictures_of, pool_of
from rcdm_core.probes.pictures import Picture, Pictures, choose, fit_of, read_arrays, the_picture
from rcdm_core.probes.reference import Random, random_pictures
from rcdm_core.probes.wording import percent, said
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, ShownRows, draw_grid

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM

ENDS = ("a", "b", "c", "target")


def run(context: Context) -> Result:
    """Samples of h(a) − h(b) + h(c) for every three pictures, and how far they are from a, b, c and the target.

    The three are named by a, b and c, or are the pictures given (or held out), three at a time.

    Raises RCDMError for parameters out of range, an unconditional model, or fewer than three different pictures.
    """
    from rcdm_core.report.arithmetic import write_report

    params = context.params
    check_conditional(context)
    data = data_of(context)
    pictures = _pictures(context, data)
    triples = [tuple(pictures[i : i + 3]) for i in range(0, len(pictures), 3)]
    pictures.notes += few(int(pictures.counting(context.models).sum()), "triple")
    result = context.begin(pictures, data, triples=[[picture.name for picture in triple] for triple in triples])
    pool = pool_of(context, data, pictures, params["pool"])
    references = random_pictures(context, pool)

    rows = ShownRows()
    total = 2 * len(triples) * len(context.models) * params["samples"]
    context.progress.start(total, "sampling", unit="sample")
    for number, triple in enumerate(triples, 1):
        looks = [_look(context, model, triple) for model in context.models]
        file = f"arithmetic-{number:03d}.png"
        result.images.append(
            {
                "name": " ".join(
                    f"{sign}{picture.name}" for sign, picture in zip(("", "− ", "+ "), triple, strict=True)
                ),
                "content_ids": [picture.id for picture in triple],
                "models": {
                    name: {key: value for key, value in look.items() if not isinstance(value, np.ndarray)}
                    for name, look in zip(context.names, looks, strict=True)
                },
                "file": file,
            }
        )
        fresh = _rows(context, number, looks, references)
        caption = "the target's samples, and below those of h(c) from the same noise"
        draw_grid(result.add_file(file), fresh, titles=["a, b, c", *context.names], caption=caption)
        rows.take(fresh)
        result.save()  # what is done stays, whatever happens to the rest
    context.progress.finish()

    counted = result.counted(result.images)
    for name, reference in zip(context.names, references, strict=True):
        found = [record["models"][name] for record in counted]
        result.aggregates[name] = _aggregate(found, reference, len(pool), context.seed)
        result.answer.append(answer(name, result.aggregates[name]))
    compared = compare(
        {name: np.array([record["models"][name]["response"] for record in counted]) for name in context.names},
        seed=context.seed,
    )
    result.aggregates["differences"] = [difference.as_json() for difference in compared]
    write_report(result, context, rows, compared)
    return result


def _pictures(context: Context, data: ImageSource | None) -> Pictures:
    """Three at a time: those that are named, or as for every probe."""
    named = {name: context.params[name] for name in ENDS[:3]}
    if not any(named.values()):
        return tuples(pictures_of(context, data, 3 * context.params["count"], what=None), 3, context)
    missing = [f"--{name}" for name, path in named.items() if not path]
    if missing:
        raise RCDMError(f"h(a) − h(b) + h(c) takes three pictures; give {' and '.join(missing)} as well.")
    if context.images:
        raise RCDMError("The three pictures are named with --a, --b and --c; leave --image out, or leave these out.")
    for name, path in named.items():
        the_picture(path, f"--{name}")
    pictures = choose([*named.values()], None, context.models, count=3)
    if len(pictures) < 3:
        raise RCDMError("Two of --a, --b and --c are the same picture; give three different ones.")
    return tuples(pictures, 3, context)


def _look(context: Context, model: RCDM, triple: tuple[Picture, ...]) -> dict[str, Any]:
    """One model on a, b and c.

    shown [3, 3, S, S]; samples and plain [n, 3, S, S]: of the target and of h(c). distance: of the samples' h to a, b,
    c and the target; of_target: of the target itself. response: of the mean h, from plain to samples, on h(a) − h(b).
    nearest: the share of samples that are nearer to the target than to a, b and c.
    """
    h = h_of(model, list(triple), context).astype(np.float64)
    target = h[0] - h[1] + h[2]
    stream = "-".join(picture.id for picture in triple)
    drawn = draw(context, model, np.stack([target, h[2]]), context.params["samples"], [stream, stream])
    ends = np.stack([*h, target])
    distances = np.linalg.norm(drawn.h[0][:, None] - ends, axis=-1)  # [n, 4]
    change = h[0] - h[1]
    square = float((change**2).sum())
    moved = drawn.h[0].mean(axis=0) - drawn.h[1].mean(axis=0)
    return {
        "shown": read_arrays(list(triple), model.image_size, fit_of(model)),
        "samples": drawn.samples[0],
        "plain": drawn.samples[1],
        "distance": dict(zip(ENDS, distances.mean(axis=0).tolist(), strict=True)),
        "of_target": dict(zip(ENDS[:3], np.linalg.norm(h - target, axis=-1).tolist(), strict=True)),
        "response": float(moved @ change) / square if square else float("nan"),
        "nearest": float((distances[:, 3:] < distances[:, :3]).all(axis=1).mean()),
    }


def _rows(context: Context, number: int, looks: list[dict[str, Any]], references: list[Random]) -> list[GridRow]:
    numbers: list[list[str]] = [[]]
    for look, reference in zip(looks, references, strict=True):
        unit = reference.mean(reference.distances)
        lines = [f"response {look['response']:.2f}"] if np.isfinite(look["response"]) else []
        if unit:
            lines.append(f"to target {look['distance']['target'] / unit:.2f}")
            lines.append(f"to c {look['distance']['c'] / unit:.2f}")
        numbers.append(lines)
    shown = looks[0]["shown"]
    plain = [look["plain"] for look in looks]
    return [
        GridRow(
            [f"{number}", "a − b + c".replace("−", "-")], None, [shown, *(look["samples"] for look in looks)], numbers
        ),
        GridRow(["", "c"], None, [shown[2:], *plain], [[] for _ in numbers]),
    ]


def _aggregate(found: list[dict[str, Any]], reference: Random, pool: int, seed: int) -> dict[str, Any]:
    """Distances in units of random pairs, the response, and how often the target is nearest, over the triples."""

    def scaled(which: str, end: str) -> dict[str, Any]:
        values = np.array([entry[which][end] for entry in found])
        return dict(reference.in_units(values, reference.distances, seed=seed).as_json())

    nearest = [entry["nearest"] for entry in found]
    return {
        "random_pair_distance": reference.mean(reference.distances),
        "pool": pool,
        "distance": {end: scaled("distance", end) for end in ENDS},
        "of_target": {end: scaled("of_target", end) for end in ENDS[:3]},
        "response": bootstrap_mean(np.array([entry["response"] for entry in found]), seed=seed).as_json(),
        "nearest": wilson(sum(nearest), len(nearest)).as_json(),
    }


def answer(name: str, entry: dict[str, Any]) -> str:
    """One model's arithmetic in a sentence."""
    if entry["response"]["value"] is None:
        return f"{name}: h(a) and h(b) are the same; there is no difference to draw."
    return (
        f"{name}: of the difference h(a) − h(b), the samples take on {said(entry['response'])}; "
        f"{percent(entry['nearest'])} of them are nearer to the target than to a, b and c; they are "
        f"{said(entry['distance']['target'])} of a random pair's distance from it and {said(entry['distance']['c'])} "
        "from c."
    )


PROBE = Probe(
    name="arithmetic",
    summary="Whether the difference of two representations can be added to a third: h(a) − h(b) + h(c)",
    figure="figure 32",
    parameters={
        "a": Option(str, "", "a picture whose h is added"),
        "b": Option(str, "", "the picture whose h is taken away"),
        "c": Option(str, "", "the picture that the difference is added to"),
        "samples": Option(int, 6, "samples of each h"),
        "count": Option(int, 5, "triples of held-out pictures when none are given"),
        "pool": Option(int, 256, "held-out pictures that random pairs are made of; 0: the ones looked at"),
    },
    run=run,
    least={"samples": 1, "count": 1, "pool": 0},
    unless_given=("count",),
)
