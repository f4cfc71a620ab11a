"""Figures 6 and 7: does a generative model show more of an h than descending to it does?

The same h three times: RCDM's samples, pixels that are moved from noise until they have it, and Deep Image Prior's
network. All may be near to h; how near, how rough the picture is as against the real one, and the seconds stand beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.bootstrap import bootstrap_mean
from rcdm_core.metrics.paired import Difference, compare, compare_each, together
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import draw
from rcdm_core.probes.encoding import h_of
from rcdm_core.probes.keeping import Arrays, keep
from rcdm_core.probes.opening import check_conditional, data_of, pictures_of, pool_of
from rcdm_core.probes.pictures import Picture, fit_of, read_arrays
from rcdm_core.probes.reference import Random, random_pictures
from rcdm_core.probes.wording import said
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, ShownRows, draw_grid

if TYPE_CHECKING:
    from torch import Tensor

    from rcdm_core.model import RCDM
    from rcdm_core.probes.inversion import Descent

METHODS = {"rcdm": "RCDM", "pixels": "gradient on pixels", "prior": "Deep Image Prior"}


def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for rates and weights that nothing descends with."""
    for name in ("rate", "prior_rate"):
        if params[name] <= 0:
            raise RCDMError(f"{name} is {params[name]:g}, but expected a learning rate above 0.")
    if params["tv"] < 0:
        raise RCDMError(f"tv is {params['tv']:g}, but expected a weight of at least 0.")


def run(context: Context) -> Result:
    """Each picture's h by the three methods: pictures, distances to h, roughness and seconds.

    Raises RCDMError for parameters out of range, an unconditional model, or an encoder without a gradient.
    """
    from rcdm_core.metrics.attack import is_differentiable
    from rcdm_core.report.baselines import write_report

    params = context.params
    check_conditional(context)
    for name, model in zip(context.names, context.models, strict=True):
        if not is_differentiable(model.encoder):
            raise RCDMError(
                f"The encoder of {name} has no gradient, which the probe baselines descends along; give a model of "
                "another encoder."
            )
    data = data_of(context)
    pictures = pictures_of(context, data, params["count"])
    result = context.begin(pictures, data)
    pool = pool_of(context, data, pictures, params["pool"])
    references = random_pictures(context, pool)

    rows = ShownRows()
    each = params["samples"] + 2 * params["iterations"]
    context.progress.start(len(pictures) * len(context.models) * each, "sampling and descending", unit="step")
    for number, picture in enumerate(pictures, 1):
        record: dict[str, Any] = {"name": picture.name, "content_id": picture.id, "models": {}}
        fresh = []
        for m, (name, model, reference) in enumerate(zip(context.names, context.models, references, strict=True)):
            shown, found = _methods(context, model, picture, reference)
            record["models"][name] = found
            fresh.append(_row(context, model, picture, number, m, shown, found, reference))
        record["file"] = f"baselines-{number:03d}.png"
        result.images.append(record)
        draw_grid(
            result.add_file(record["file"]),
            fresh,
            titles=list(METHODS.values()),
            caption="h: the squared distance from the picture's h, in those of two random pictures",
        )
        rows.take(fresh)
        result.save()  # what is done stays, whatever happens to the rest
    context.progress.finish()

    within: list[Difference] = []
    apart: dict[str, dict[str, np.ndarray]] = {}  # of each model, by method, over the pictures
    for name, reference in zip(context.names, references, strict=True):
        of_model = [record["models"][name] for record in result.counted(result.images)]
        result.aggregates[name] = {method: _aggregate(of_model, method, reference, context.seed) for method in METHODS}
        unit = reference.mean(reference.squares) or np.nan
        squares = {title: np.array([one[method]["square"] for one in of_model]) for method, title in METHODS.items()}
        apart[name] = {title: values / unit for title, values in squares.items()}
        of_methods = compare(apart[name], seed=context.seed)
        within += [replace(one, first=f"{name}: {one.first}") for one in of_methods]
        result.answer.append(answer(name, result.aggregates[name]))
    differences = together(within, compare_each(apart, seed=context.seed))
    result.aggregates["differences"] = [difference.as_json() for difference in differences]
    write_report(result, context, rows, differences[: len(within)], differences[len(within) :])
    return result


def _methods(
    context: Context, model: RCDM, picture: Picture, reference: Random
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """One h by every method: pictures [n, 3, S, S]; square, distance, roughness and seconds of one picture."""
    import torch

    from rcdm_core.probes.inversion import Descent, deep_image_prior, match_pixels, total_variation

    params = context.params
    h = h_of(model, [picture], context)
    real = float(total_variation(torch.from_numpy(read_arrays([picture], model.image_size, fit_of(model))))[0])
    shown: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    sampled = draw(context, model, h, params["samples"], [picture.id], encoded=0)
    shown["rcdm"], seconds["rcdm"] = sampled.samples[0], sampled.seconds / params["samples"]
    for method, descend, rate in (
        ("pixels", match_pixels, params["rate"]),
        ("prior", deep_image_prior, params["prior_rate"]),
    ):
        descent = Descent(
            size=model.image_size,
            iterations=params["iterations"],
            rate=rate,
            tv=params["tv"],
            unit=reference.mean(reference.squares) or 1.0,
            seed=context.seed,
            stream=picture.id,
            step=lambda: context.progress.update(1),
        )
        drawn, seconds[method] = _descended(context, model, method, descend, h[0], descent)
        shown[method] = drawn[None]
    found = {}
    for method, drawn_ in shown.items():
        images = torch.from_numpy(drawn_)
        squares = ((model.encode(images).numpy().astype(np.float64) - h) ** 2).sum(axis=1)
        found[method] = {
            "square": float(squares.mean()),
            "distance": float(np.sqrt(squares).mean()),
            "roughness": float(total_variation(images).mean()) / max(real, 1e-6),
            "seconds": seconds[method],
        }
    return shown, found


def _descended(
    context: Context, model: RCDM, method: str, descend: Callable[..., Tensor], h: np.ndarray, descent: Descent
) -> tuple[np.ndarray, float]:
    """The picture [3, S, S] at the end of a descent to h [dim], and the seconds that it took when it was made."""
    import torch

    def compute() -> Arrays:
        begun = time.perf_counter()
        drawn = descend(model.encoder, torch.from_numpy(h).to(model.device), descent)
        return {"picture": drawn.numpy(), "seconds": np.array(time.perf_counter() - begun)}

    depends = {field.name: getattr(descent, field.name) for field in fields(descent) if field.name != "step"}
    found = keep(context, model, method, {**depends, "h": h}, compute, steps=descent.iterations)
    return found["picture"], float(found["seconds"])


def _row(
    context: Context,
    model: RCDM,
    picture: Picture,
    number: int,
    m: int,
    shown: dict[str, np.ndarray],
    found: dict[str, dict[str, float]],
    reference: Random,
) -> GridRow:
    unit = reference.mean(reference.squares)
    numbers = [
        [*([f"h {found[method]['square'] / unit:.3f}"] if unit else []), f"{found[method]['seconds']:.1f} s"]
        for method in METHODS
    ]
    label = [f"{number}"] if len(context.models) == 1 else [f"{number}", context.names[m]]
    real = read_arrays([picture], model.image_size, fit_of(model))[0]
    return GridRow(label, real, [shown[method] for method in METHODS], numbers)


def _aggregate(found: list[dict[str, Any]], method: str, reference: Random, seed: int) -> dict[str, Any]:
    """One method over the pictures; distances in units of random pairs, beside the squares as they are."""
    values = {key: np.array([one[method][key] for one in found]) for key in found[0][method]}
    return {
        "relative": reference.in_units(values["square"], reference.squares, seed=seed).as_json(),
        "distance": reference.in_units(values["distance"], reference.distances, seed=seed).as_json(),
        **{key: bootstrap_mean(values[key], seed=seed).as_json() for key in ("square", "roughness", "seconds")},
    }


def answer(name: str, entry: dict[str, Any]) -> str:
    """One model's three methods in a sentence."""
    parts = [
        f"pictures by {title} are {said(entry[method]['relative'], 3)} of a random pair's squared distance from h, "
        f"{said(entry[method]['roughness'])} times as rough as the real ones, in {said(entry[method]['seconds'], 1)} s"
        for method, title in METHODS.items()
    ]
    return f"{name}: {'; '.join(parts)}."


PROBE = Probe(
    name="baselines",
    summary="RCDM's samples beside pictures that are found by descending to h: on pixels, and by Deep Image Prior",
    figure="figures 6 and 7",
    parameters={
        "samples": Option(int, 4, "samples of RCDM of each h"),
        "count": Option(int, 8, "held-out pictures to look at when no --image is given"),
        "iterations": Option(int, 500, "steps of each descent"),
        "rate": Option(float, 0.1, "learning rate of the pixels (before a sigmoid)"),
        "prior_rate": Option(float, 0.01, "learning rate of Deep Image Prior's weights"),
        "tv": Option(float, 0.0, "weight of the total variation, beside squared distances of random pairs"),
        "pool": Option(int, 256, "held-out pictures that random pairs are made of; 0: the ones looked at"),
    },
    run=run,
    least={"samples": 1, "count": 1, "pool": 0, "iterations": 1},
    check=check,
    unless_given=("count",),
)
