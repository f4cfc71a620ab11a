"""Figure 20 and appendix B: pictures without any picture to start from, h drawn from a kernel density, then x from h.

The h that are drawn lie next to those of training pictures, so that samples are near to these by construction: in h,
and in pixels as far as h says what the picture looks like. What tells memory from this is a control, the same drawing
next to the h of held-out pictures: without memory, samples are as far from their picture there.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.memory import require_memory
from rcdm_core.metrics.bootstrap import bootstrap_ratio, wilson
from rcdm_core.metrics.frechet import RESAMPLES, Resampled, over_images
from rcdm_core.metrics.paired import Difference, compare_each, together
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import Drawn, blocks, draw, pixels_of
from rcdm_core.probes.kernel_density import PARAMETERS, Density, check_density, density, stream
from rcdm_core.probes.neighbours import LEAST_POOL, SPACES, TITLES, describe, judge, rows_of, search, shares
from rcdm_core.probes.opening import check_conditional, data_of, pool_of
from rcdm_core.probes.pictures import Pictures, fit_of, read_arrays
from rcdm_core.probes.reference import Random, random_pictures
from rcdm_core.probes.wording import percent, said
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, draw_grid

OWN, MEMORY = "nearest is its own", "memory"
_BESIDE = 1024  # bytes at the least that a drawn h takes beside its numbers: its generator and its record
WORDS = {"near": "near", "copy": "copies"}  # what the flags of samples are called


def run(context: Context) -> Result:
    """Samples of h that are drawn from the density: how they vary, how near they are to their h, and to the training.

    Raises RCDMError for parameters out of range, an unconditional model, --image, or sets that are not at hand.
    """
    from rcdm_core.report.unconditional import write_report

    params = context.params
    check_conditional(context)
    each = max(_BESIDE + 4 * (2 * pixels_of(model) + 6 * model.h_dim) for model in context.models)
    what = f"Drawing {params['count']} h, each with its sample,"
    require_memory(params["count"] * each, what, "give a smaller --count")
    data = data_of(context)
    densities = [density(context, m, data) for m in range(len(context.models))]
    pool = pool_of(context, data, Pictures([]), params["pool"])
    if len(pool) < 2:
        raise RCDMError("There are no two held-out pictures to compare samples with; give some with --data.")
    result = context.begin(
        pool, data, density={n: len(d.h) for n, d in zip(context.names, densities, strict=True)}, drawn=params["count"]
    )
    if len(pool) < LEAST_POOL:
        result.notes.append(
            f"{len(pool)} held-out pictures are too few to say how near they usually are ({LEAST_POOL} are needed)."
        )
    references = random_pictures(context, pool)

    records: list[dict[str, Any]] = [{"name": f"drawn {k + 1}", "models": {}} for k in range(params["count"])]
    rows: list[list[GridRow]] = []
    measured: dict[str, dict[str, np.ndarray]] = {}  # of each model, by what the measure is called, over the drawn h
    remembered: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # what the ratio memory is of
    for m, (name, model, found) in enumerate(zip(context.names, context.models, densities, strict=True)):
        h, places = found.draw(params["count"], seed=context.seed)
        near = [found.pictures[place] for place in places]
        drawn = _sample(context, m, h, 0)
        away = _apart(drawn, read_arrays(near, model.image_size, fit_of(model)))
        of_held_out, held = Density([*pool], references[m].h, params["std"]).draw(params["count"], seed=context.seed)
        control = _apart(_sample(context, m, of_held_out, params["count"]), references[m].pictures[held])
        searched, seen = search(context, name, model, drawn, pool, Pictures(found.pictures))
        flags = {space: judge(searched[space, "samples"], searched[space, "held out"]) for space in ("h", "pixels")}
        nearest = searched["pixels", "samples"].places[:, 0]
        own = np.array([seen[j].id == picture.id for j, picture in zip(nearest, near, strict=True)])
        distance = np.linalg.norm(drawn.h[:, 0] - h, axis=-1)
        result.aggregates[name] = {
            **shares(searched, flags, params["count"], len(pool), len(seen), model.train_count),
            **_numbers(context, drawn, distance, found, references[m]),
            "memory": bootstrap_ratio(away, control, seed=context.seed).as_json(),
            "own": wilson(int(own.sum()), len(own)).as_json(),
        }
        unit, varied = (references[m].mean(of) or np.nan for of in (references[m].distances, references[m].pixels))
        measured[name] = {"diversity": _squares(drawn) / varied, "samples from h": distance / unit, OWN: own * 1.0}
        for space, of_space in flags.items():
            measured[name] |= {f"{WORDS[key]}, in {SPACES[space]}": flag * 1.0 for key, flag in of_space.items()}
        remembered[name] = away, control
        result.answer.append(answer(name, result.aggregates[name], params["std"]))
        describe(records, name, searched, flags, seen, 1, params["shown"])
        for k, record in enumerate(records):
            record["models"][name] |= {
                "near": near[k].name,
                "content_id": near[k].id,
                "distance": distance[k],
                "pixels_from_near": away[k],
                "nearest_is_own": bool(own[k]),
            }
        fresh = rows_of(context, model, Pictures(near), drawn, searched, flags, seen)
        if fresh:
            draw_grid(
                result.add_file(f"unconditional-{m + 1:03d}.png"),
                fresh,
                titles=TITLES,
                picture_title="near",
                caption=f"{name}: the training picture that h was drawn near to, the sample, and its nearest pictures",
            )
        rows.append(fresh)
        result.images = records
        result.save()  # what is done stays, whatever happens to the next model
    differences = together(compare_each(measured, seed=context.seed), compare_memory(remembered, seed=context.seed))
    result.aggregates["differences"] = [difference.as_json() for difference in differences]
    write_report(result, context, rows, differences)
    return result


def compare_memory(remembered: Mapping[str, tuple[np.ndarray, np.ndarray]], *, seed: int) -> list[Difference]:
    """Every two models in the ratio of two sums over the k drawn h, from resamples of the same k for both."""

    def ratio(parts: tuple[np.ndarray, np.ndarray]) -> Resampled:
        away, control = parts
        return over_images(
            lambda rows: float(away[rows].sum() / control[rows].sum()), len(away), seed=seed, resamples=RESAMPLES
        )

    ratios = {name: ratio(parts) for name, parts in remembered.items()}
    apart = {(a, b): ratios[a].less(ratios[b]) for a, b in combinations(ratios, 2)}
    return [Difference(f"{a}: {MEMORY}", b, one.estimate(), one.p(), None) for (a, b), one in apart.items()]


def _sample(context: Context, m: int, h: np.ndarray, first: int) -> Drawn:
    """One sample of each row of h, with the noise of the streams from `first` on."""
    context.progress.start(len(h), f"{context.names[m]}: sampling", unit="sample")
    streams = [stream(first + k) for k in range(len(h))]
    parts = [draw(context, context.models[m], h[block], 1, streams[block]) for block in blocks(len(h), 1)]
    context.progress.finish()
    return Drawn(np.concatenate([part.samples for part in parts]), np.concatenate([part.h for part in parts]))


def _apart(drawn: Drawn, pictures: np.ndarray) -> np.ndarray:
    """Of each sample from its picture [N, 3, S, S]: the root of the mean squared difference of their values, [N]."""
    squares = (drawn.samples[:, 0].astype(np.float64) - pictures) ** 2
    return np.asarray(np.sqrt(squares.mean(axis=(1, 2, 3))))


def _squares(drawn: Drawn) -> np.ndarray:
    """A number for each sample, [N], whose mean is the variance of the samples' pixels without bias."""
    samples = drawn.samples[:, 0].reshape(len(drawn.samples), -1).astype(np.float64)
    return np.asarray(((samples - samples.mean(axis=0)) ** 2).mean(axis=1) * len(samples) / (len(samples) - 1))


def _numbers(context: Context, drawn: Drawn, distance: np.ndarray, found: Density, reference: Random) -> dict[str, Any]:
    """How the samples vary, how far they are from the drawn h, and what the noise on h is: in units of random pairs."""
    unit = reference.mean(reference.distances)
    return {
        "random_pair_distance": unit,
        "diversity": reference.in_units(_squares(drawn), reference.pixels, seed=context.seed).as_json(),
        "distance": reference.in_units(distance, reference.distances, seed=context.seed).as_json(),
        "noise": found.std * float(np.sqrt(found.h.shape[1])) / unit if unit else None,
    }


def answer(name: str, entry: dict[str, Any], std: float) -> str:
    """One model in a sentence."""
    pixels = entry["spaces"]["pixels"]
    return (
        f"{name}: samples of h drawn next to those of {entry['searched']} pictures (noise of standard deviation "
        f"{std:g}) vary by {said(entry['diversity'])} of the variance of real pictures, and are "
        f"{said(entry['distance'])} of a random pair's distance from their h; from the pictures themselves they are "
        f"{said(entry['memory'])} of the distance of samples made in the same way from held-out ones (below 1, the "
        f"model remembers its training); {percent(pixels['copy'])} are copies in pixels."
    )


PROBE = Probe(
    name="unconditional",
    summary="Pictures from no picture: h from a kernel density, then samples of it; new ones, or memories",
    figure="figure 20 and appendix B",
    parameters={
        "count": Option(int, 64, "h to draw, each with one sample"),
        **PARAMETERS,
        "pool": Option(int, 512, "held-out pictures that say how near and how varied is usual, at least 20"),
        "shown": Option(int, 4, "nearest pictures that are shown and recorded"),
        "rows": Option(int, 12, "drawn h that are shown"),
    },
    run=run,
    of_sets="starts from no picture",
    least={"count": 2, "pool": LEAST_POOL, "training": 0, "shown": 1, "rows": 0},
    check=check_density,
)
