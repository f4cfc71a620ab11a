"""Figures 18 and 19: where in the picture do samples of one representation differ?

The variance of each pixel over the samples of one h, on one colour scale for all pictures and models, and its mean as
against that of random held-out pictures: 0 where h says everything that the generator draws, 1 where it says nothing.
The maps are in OUT/variance-NNN.npz, a file a block of pictures; result.json says which array and row of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.bootstrap import bootstrap_mean
from rcdm_core.metrics.paired import compare
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import blocks, draw, pixel_variance
from rcdm_core.probes.encoding import h_of
from rcdm_core.probes.keeping import write_arrays
from rcdm_core.probes.opening import check_conditional, data_of, pictures_of, pool_of
from rcdm_core.probes.pictures import fit_of, read_arrays
from rcdm_core.probes.reference import UNIT_PICTURES, Random, random_pictures
from rcdm_core.probes.wording import said
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, ShownRows, draw_grid
from rcdm_core.report.page import coloured, legend

LARGEST = 0.5  # the unbiased variance of two values, 0 and 1
SHOWN_SAMPLES = 4


def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for a scale that cannot be drawn."""
    if not 0 < params["top"] <= LARGEST:
        raise RCDMError(f"top is {params['top']:g}, but expected a variance above 0 and at most {LARGEST}.")


def run(context: Context) -> Result:
    """A map of the samples' variance for every picture and model, and its mean over that of random pictures.

    Raises RCDMError for parameters out of range, an unconditional model, or pictures that cannot be read.
    """
    from rcdm_core.report.variance import write_report

    params = context.params
    check_conditional(context)
    data = data_of(context)
    pictures = pictures_of(context, data, params["count"])
    result = context.begin(pictures, data)
    pool = pool_of(context, data, pictures, params["pool"])
    references = random_pictures(context, pool, kept=UNIT_PICTURES)
    top = params["top"]
    scale = legend(top, "variance")

    means: dict[str, list[float]] = {name: [] for name in context.names}
    rows = ShownRows()
    context.progress.start(len(pictures) * len(context.models) * params["samples"], "sampling", unit="sample")
    for number, block in enumerate(blocks(len(pictures), params["samples"]), 1):
        part = pictures[block]
        looks = []
        for model in context.models:
            drawn = draw(
                context, model, h_of(model, part, context), params["samples"], [picture.id for picture in part]
            )
            looks.append((drawn.samples, pixel_variance(drawn.samples)))
        shown = read_arrays(part, context.models[0].image_size, fit_of(context.models[0]))
        file = f"variance-{number:03d}"
        write_arrays(result.add_file(f"{file}.npz"), {_array(m): maps for m, (_, maps) in enumerate(looks)})
        fresh = []
        for i, picture in enumerate(part):
            of_models: dict[str, Any] = {}
            lines = []
            for m, (name, (_, maps), reference) in enumerate(zip(context.names, looks, references, strict=True)):
                mean, unit = float(maps[i].mean()), reference.mean(reference.pixels)
                means[name].append(mean)
                place = {"file": f"{file}.npz", "array": _array(m), "row": i}
                of_models[name] = {"variance": mean, "relative": mean / unit if unit else None, "map": place}
                lines.append([f"{mean:.4f}", *([f"{mean / unit:.2f} of random"] if unit else [])])
            record = {"name": picture.name, "content_id": picture.id, "models": of_models, "file": f"{file}.png"}
            result.images.append(record)
            fresh.append(
                GridRow(
                    label=[f"{block.start + i + 1}"],
                    picture=shown[i],
                    blocks=[
                        np.concatenate([coloured(maps[i], top)[None], samples[i, :SHOWN_SAMPLES]])
                        for samples, maps in looks
                    ],
                    numbers=lines,
                )
            )
        if number == 1 and len(pool) > 1:
            fresh.insert(0, _random_row(references, top))
        caption = f"the map's colour, then samples; {params['samples']} samples a map"
        draw_grid(result.add_file(f"{file}.png"), fresh, titles=context.names, legend=scale, caption=caption)
        rows.take(fresh)
        result.save()  # what is done stays, whatever happens to the rest
    context.progress.finish()

    counted = {name: np.array(result.counted(values)) for name, values in means.items()}
    for name, reference in zip(context.names, references, strict=True):
        of_model = counted[name]
        relative = reference.in_units(of_model, reference.pixels, seed=context.seed)
        result.aggregates[name] = {
            "random_variance": reference.mean(reference.pixels),
            "pool": len(pool),
            "variance": bootstrap_mean(of_model, seed=context.seed).as_json(),
            "relative": relative.as_json(),
        }
        result.answer.append(answer(name, result.aggregates[name]))
    units = {n: r.mean(r.pixels) or np.nan for n, r in zip(context.names, references, strict=True)}
    found = compare({name: values / units[name] for name, values in counted.items()}, seed=context.seed)
    result.aggregates["differences"] = [difference.as_json() for difference in found]
    write_report(result, context, rows, found, scale)
    return result


def _array(m: int) -> str:
    """What the maps of a model, float64 [pictures of the block, S, S], are called in their file."""
    return f"model_{m + 1}"


def _random_row(references: list[Random], top: float) -> GridRow:
    """The map of random pictures, to compare with."""
    return GridRow(
        label=["random", "pictures"],
        picture=None,
        blocks=[
            np.concatenate([coloured(pixel_variance(r.pictures), top)[None], r.pictures[:SHOWN_SAMPLES]])
            for r in references
        ],
        numbers=[[f"{r.mean(r.pixels) or 0:.4f}"] for r in references],
    )


def answer(name: str, entry: dict[str, Any]) -> str:
    """One model's variance in a sentence."""
    if entry["relative"]["value"] is None:
        return (
            f"{name}: the samples of one h have a variance of {said(entry['variance'], 4)}; there are no two other "
            "pictures to compare with."
        )
    return (
        f"{name}: samples of one h have {said(entry['relative'])} of the pixel variance of random pictures "
        f"({entry['variance']['value']:.4f} of {entry['random_variance']:.4f})."
    )


PROBE = Probe(
    name="variance",
    summary="Where in the picture samples of one representation differ, and by how much",
    figure="figures 18 and 19",
    parameters={
        "samples": Option(int, 16, "samples of each h, at least 2"),
        "count": Option(int, 8, "held-out pictures to look at when no --image is given"),
        "pool": Option(int, 256, "held-out pictures that random pairs are made of; 0: the ones looked at"),
        "top": Option(float, 0.1, "variance at which the colour scale ends; pixels are in [0, 1]"),
    },
    run=run,
    least={"samples": 2, "count": 1, "pool": 0},
    check=check,
    unless_given=("count",),
)
