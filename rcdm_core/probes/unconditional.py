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
from rcdm_core.metrics.bootstrap import MIN_IMAGES, OTHER_STREAM, resampled_counts, share
from rcdm_core.metrics.paired import Difference, compare_each, together
from rcdm_core.metrics.resampled import RESAMPLES, Resampled
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import Drawn, blocks, draw, pixels_of
from rcdm_core.probes.kernel_density import PARAMETERS, Density, check_density, density, most_compared, stream
from rcdm_core.probes.neighbours import (
    LEAST_POOL,
    SPACES,
    TITLES,
    by_picture,
    describe,
    judge,
    rows_of,
    search,
    shares,
)
from rcdm_core.probes.opening import check_conditional, data_of, few, pool_of
from rcdm_core.probes.pictures import Pictures, fit_of, read_arrays
from rcdm_core.probes.reference import Random, random_pictures
from rcdm_core.probes.wording import doubt, percent, said
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
    pool = pool_of(context, data, Pictures([]), most_compared(params, data, params["pool"]))
    if len(pool) < 2:
        raise RCDMError("There are no two held-out pictures to compare samples with; give some with --data.")
    compared = [picture.id for picture in pool]
    densities = [density(context, m, data, compared) for m in range(len(context.models))]
    result = context.begin(
        pool, data, density={n: len(d.h) for n, d in zip(context.names, densities, strict=True)}, drawn=params["count"]
    )
    if len(pool) < LEAST_POOL:
        result.notes.append(
            f"{len(pool)} held-out pictures are too few to say how near they usually are ({LEAST_POOL} are needed)."
        )
    distinct = min([params["count"], len(pool), *(len(one.h) for one in densities)])
    result.notes += few(distinct, "picture that h is drawn near", many="pictures that h is drawn near")
    references = random_pictures(context, pool)

    records: list[dict[str, Any]] = [{"name": f"drawn {k + 1}", "models": {}} for k in range(params["count"])]
    rows: list[list[GridRow]] = []
    measured: dict[str, dict[str, np.ndarray]] = {}  # of each model, by what the measure is called, over pictures
    remembered: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # what the ratio memory is of
    for m, (name, model, found) in enumerate(zip(context.names, context.models, densities, strict=True)):
        h, places = found.draw(params["count"], seed=context.seed)
        near = [found.pictures[place] for place in places]
        drawn = _sample(context, m, h, 0)
        away = _apart(drawn, read_arrays(near, model.image_size, fit_of(model)))
        of_held_out, held = Density([*pool], references[m].h, params["std"]).draw(params["count"], seed=context.seed)
        control = _apart(_sample(context, m, of_held_out, params["count"]), references[m].pictures[held])
        owners = found.owners(params["count"])
        remembered[name] = by_picture(away, owners), by_picture(control, np.arange(len(held)) % len(references[m].h))
        searched, seen = search(context, name, model, drawn, pool, Pictures(found.pictures))
        flags = {space: judge(searched[space, "samples"], searched[space, "held out"]) for space in ("h", "pixels")}
        nearest = searched["pixels", "samples"].places[:, 0]
        own = np.array([seen[j].id == picture.id for j, picture in zip(nearest, near, strict=True)])
        distance = np.linalg.norm(drawn.h[:, 0] - h, axis=-1)
        result.aggregates[name] = {
            **shares(searched, flags, owners, len(pool), len(seen), model.train_count, seed=context.seed),
            **_numbers(context, drawn, distance, found, references[m]),
            "pictures": int(owners.max()) + 1,
            "memory": memory(*remembered[name], seed=context.seed).estimate().as_json(),
            "own": share(by_picture(own, owners)).as_json(),
        }
        unit, varied = (references[m].mean(of) or np.nan for of in (references[m].distances, references[m].pixels))
        of_samples = {"diversity": _squares(drawn) / varied, "samples from h": distance / unit, OWN: own}
        for space, of_space in flags.items():
            of_samples |= {f"{WORDS[key]}, in {SPACES[space]}": flag for key, flag in of_space.items()}
        measured[name] = {key: by_picture(values, owners) for key, values in of_samples.items()}
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
                caption=f"{name}: the picture that h was drawn near to, the sample, and its nearest pictures",
            )
        rows.append(fresh)
        result.images = records
        result.save()  # what is done stays, whatever happens to the next model
    differences = together(
        compare_each(_of_one_length(measured), seed=context.seed), compare_memory(remembered, seed=context.seed)
    )
    result.aggregates["differences"] = [difference.as_json() for difference in differences]
    write_report(result, context, rows, differences)
    return result


def compare_memory(remembered: Mapping[str, tuple[np.ndarray, np.ndarray]], *, seed: int) -> list[Difference]:
    """Every two models in `memory`, from the same resamples for both where they have as many pictures."""
    ratios = {name: memory(*parts, seed=seed) for name, parts in remembered.items()}
    apart = {(a, b): ratios[a].less(ratios[b]) for a, b in combinations(ratios, 2)}
    return [Difference(f"{a}: {MEMORY}", b, one.estimate(), one.p(), None) for (a, b), one in apart.items()]


def memory(away: np.ndarray, control: np.ndarray, *, seed: int) -> Resampled:
    """The mean of away [n], over pictures of the training, over that of control [m], over held-out ones.

    These are other pictures, and resampled on their own.
    """
    of_control = float(control.mean())
    value, n = (float(away.mean()) / of_control if of_control else np.nan), min(len(away), len(control))
    draws = np.zeros(0)
    if n >= MIN_IMAGES and of_control:
        tops, bottoms = (
            np.concatenate([counts @ one / len(one) for counts in resampled_counts(len(one), RESAMPLES, own)])
            for one, own in ((away, seed + len(away)), (control, seed + len(control) + OTHER_STREAM))
        )
        draws = tops[bottoms > 0] / bottoms[bottoms > 0]
    return Resampled(value, draws, n, (0.0, np.inf))


def _of_one_length(measured: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """With NaN for the pictures that another model has more of: the k-th of both are compared."""
    longest = max(len(values) for of_model in measured.values() for values in of_model.values())
    return {
        name: {key: np.append(values, np.full(longest - len(values), np.nan)) for key, values in of_model.items()}
        for name, of_model in measured.items()
    }


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
    unit, owners = reference.mean(reference.distances), found.owners(len(distance))
    squares, distance = by_picture(_squares(drawn), owners), by_picture(distance, owners)
    return {
        "random_pair_distance": unit,
        "diversity": reference.in_units(squares, reference.pixels, seed=context.seed).as_json(),
        "distance": reference.in_units(distance, reference.distances, seed=context.seed).as_json(),
        "noise": found.std * float(np.sqrt(found.h.shape[1])) / unit if unit else None,
    }


def answer(name: str, entry: dict[str, Any], std: float) -> str:
    """One model in a sentence."""
    pixels = entry["spaces"]["pixels"]
    high = entry["memory"]["high"]
    remembers = ": the model remembers its training" if high is not None and high < 1 else doubt(entry["memory"], 1.0)
    return (
        f"{name}: samples of h drawn next to those of {entry['searched']} pictures (noise of standard deviation "
        f"{std:g}) vary by {said(entry['diversity'])} of the variance of real pictures, and are "
        f"{said(entry['distance'])} of a random pair's distance from their h; from the pictures themselves they are "
        f"{said(entry['memory'])} of the distance of samples made in the same way from held-out ones{remembers}; "
        f"{percent(pixels['copy'])} are copies in pixels."
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
