"""Figures 3, 25 and 26: does the representation follow a transform of the picture, or is it blind to it?

Samples of h(x) and of h(Tx) are drawn from the same noise, so that what differs between them comes from h alone. Their
attributes are measured, and the shift of each is divided by the shift that T makes in the real picture: 1 follows,
0 ignores. Over several pictures the ratio is sum <shift of samples, real shift> / sum |real shift|², a projection on
what T really does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rcdm_core.metrics.attributes import ATTRIBUTES
from rcdm_core.metrics.bootstrap import Estimate, bootstrap_mean, bootstrap_ratio
from rcdm_core.metrics.retention import Observed, hearing, rendered_retention, variance_ratio
from rcdm_core.probes import verdicts
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.invariance_compare import between_models, between_transforms, named, power_notes
from rcdm_core.probes.invariance_look import Block, image_response, look_at, moves, shifts, views_of
from rcdm_core.probes.invariance_reference import MIN_READOUT, Reference, Usual, take_references
from rcdm_core.probes.opening import check_conditional, data_of, pictures_of
from rcdm_core.probes.pictures import Picture, Pictures, held_out
from rcdm_core.probes.transforms import IDENTITY, Transform, check_strength, pick
from rcdm_core.probes.wording import differing
from rcdm_core.provider import Option

TOLD = 6  # differences between models in the answer


def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for transforms or a strength that do not exist."""
    pick(params["transform"])
    check_strength(params["strength"])


def run(context: Context) -> Result:
    """Rows: the picture and its transforms. Columns: the transformed picture, samples of its h, by model.

    Raises RCDMError for parameters out of range, an unconditional model, or pictures that cannot be read.
    """
    from rcdm_core.report.invariance import SHOWN, draw_image, write_report

    params = context.params
    check_conditional(context)
    rows = pick(params["transform"])
    strength = params["strength"]
    data = data_of(context)
    pictures = pictures_of(context, data, params["count"])
    result = context.begin(pictures, data, transforms={t.name: t.says(strength) for t in rows})

    pool = Pictures([])
    if data is not None and params["pool"]:
        own = [picture.id for picture in pictures]
        pool = held_out(data, context.models, count=params["pool"], skip=own)
    references = take_references(context, pictures, pool)
    if any(not reference.readouts for reference in references):
        result.notes.append(
            f"Without {MIN_READOUT} more held-out pictures to fit a linear readout of h on (--data, --pool), a change "
            "that h holds and the generator does not draw cannot be told from one that h does not hold."
        )

    total = len(pictures) * len(context.models) * (len(rows) + 1) * params["samples"]
    context.progress.start(total, "sampling", unit="sample")
    found: list[list[Block]] = []
    for i, picture in enumerate(pictures):
        views = views_of(context, picture, rows, strength)
        blocks = [look_at(context, model, picture, views) for model in context.models]
        found.append(blocks if i < SHOWN else [block.numbers() for block in blocks])
        result.images.append(_record(context, picture, rows, blocks, references))
        name = f"invariance-{i + 1:03d}.png"
        draw_image(result.add_file(name), context.names, rows, blocks, result.images[-1])
        result.images[-1]["file"] = name
        result.save()  # what is done stays, whatever happens to the rest
    context.progress.finish()

    counted = {name: [blocks[m] for blocks in result.counted(found)] for m, name in enumerate(context.names)}
    for (name, of_model), reference in zip(counted.items(), references, strict=True):
        observed = {a: _of_untransformed(of_model, a) for a in ATTRIBUTES}
        usual = Usual(
            retention={a: rendered_retention(seen, seed=context.seed) for a, seen in observed.items()},
            variance={a: variance_ratio(seen, seed=context.seed) for a, seen in observed.items()},
            heard=hearing(
                np.stack([block.h[0] for block in of_model]),
                np.stack([block.again for block in of_model]),
                seed=context.seed,
            ),
        )
        result.aggregates[name] = {
            "random_pair_distance": reference.distance,
            "pool": reference.n,
            "readout_r2": {attribute: readout.r2 for attribute, readout in reference.readouts.items()},
            "rendered_retention": {a: value and value.as_json() for a, value in usual.retention.items()},
            "sample_variance": {a: value and value.as_json() for a, value in usual.variance.items()},
            "h_in_samples": usual.heard and usual.heard.as_json(),
            "transforms": {
                row.name: aggregate(row, r, of_model, reference, usual, seed=context.seed)
                for r, row in enumerate(rows, 1)
            },
        }
        result.answer.append(answer(name, result.aggregates[name]["transforms"]))
    units = {name: reference.distance for name, reference in zip(context.names, references, strict=True)}
    responses = {
        name: {row.name: result.aggregates[name]["transforms"][row.name]["responses"] for row in rows} for name in units
    }
    models = between_models(rows, counted, units, responses, seed=context.seed)
    transforms = between_transforms(rows, counted, units, seed=context.seed)
    result.aggregates["differences"] = [one.as_json() for one in models]
    for name, of_model_ in transforms.items():
        result.aggregates[name]["differences"] = [one.as_json() for one in of_model_]
    result.answer += differing(result.aggregates["differences"], named, most=TOLD)
    result.notes += power_notes(
        int(result.counting.sum()), {"models": len(models), "transforms": sum(map(len, transforms.values()))}
    )
    write_report(result, context, rows, found, models, transforms)
    return result


def _of_untransformed(blocks: list[Block], name: str) -> Observed:
    """An attribute of the untransformed pictures, and of their samples."""
    return Observed(
        real=np.stack([block.real[name][0] for block in blocks]),
        drawn=np.stack([block.drawn[name][0] for block in blocks]),
        spread=np.array([block.spread[name][0] for block in blocks]),
        floor=ATTRIBUTES[name].floor,
    )


def aggregate(
    row: Transform,
    r: int,
    blocks: list[Block],
    reference: Reference,
    usual: Usual,
    *,
    seed: int,
) -> dict[str, Any]:
    """A transform's numbers over pictures, for one model: how far h moves, each attribute's response and verdict."""
    dh = moves(blocks, r)
    relative = reference.in_units(dh, seed=seed) if reference.distance else None
    if relative is None and not dh.any():  # whatever the unit is, such as that of an h which is one for all pictures
        relative = Estimate(0.0, None, None, len(dh))
    responses = {name: _response(name, r, blocks, reference, relative, usual, seed) for name in ATTRIBUTES}
    judged = {name: entry for name, entry in responses.items() if entry["rendered"]}
    # the row is about what the transform is meant to change; side effects only speak where that is nothing
    about = {words: judged[name] for name, words in row.targets.items() if name in judged}
    if not row.targets:
        about = judged
    by_words = {words: verdicts.Verdict(entry["verdict"], entry["why"]) for words, entry in about.items()}
    return {
        "verdict": _row_sentence(row, by_words, relative),
        "dh": bootstrap_mean(dh, seed=seed).as_json(),
        "dh_relative": relative.as_json() if relative else None,
        "responses": responses,
    }


def _response(
    name: str,
    r: int,
    blocks: list[Block],
    reference: Reference,
    dh: Estimate | None,
    usual: Usual,
    seed: int,
) -> dict[str, Any]:
    real, drawn = shifts(blocks, r, name)
    square = (real**2).sum(axis=1)
    defined = np.isfinite(square)
    moved = math.sqrt(float(square[defined].mean())) if defined.any() else math.nan
    entry: dict[str, Any] = {
        "real_shift": moved,
        "threshold": ATTRIBUTES[name].floor,
        "undefined_in": int((~defined).sum()),
        "rendered": None,
        "decoded": None,
    }
    if not defined.any():
        return {**entry, "verdict": "not measurable"}
    if moved < ATTRIBUTES[name].floor:
        return {**entry, "verdict": "not moved"}
    rendered = bootstrap_ratio((drawn * real).sum(axis=1), square, seed=seed)
    entry["undefined_in_samples"] = int(defined.sum()) - rendered.n
    if rendered.n == 0 or not math.isfinite(rendered.value):  # where samples have it, no picture moved at all
        return {**entry, "verdict": "not measurable"}
    decoded, readout = None, reference.readouts.get(name)
    if readout is not None:
        read = readout.shift(np.stack([block.h[r] - block.h[0] for block in blocks]))
        decoded = bootstrap_ratio((read * real).sum(axis=1), square, seed=seed)
    verdict = verdicts.judge(
        verdicts.Evidence(
            rendered,
            decoded,
            dh,
            r2=readout.r2 if readout else None,
            growth=reference.growth.get(name, 0.0),
            drawn=usual.retention[name],
            variance=usual.variance[name],
            heard=usual.heard,
        )
    )
    return {
        **entry,
        "rendered": rendered.as_json(),
        "decoded": decoded.as_json() if decoded else None,
        "verdict": verdict.code,
        "why": verdict.why,
    }


def _row_sentence(row: Transform, about: dict[str, verdicts.Verdict], dh: Estimate | None) -> str:
    if about:
        return verdicts.in_words(about)
    if dh is None:
        return "no measured attribute moves: look at the pictures"
    high = dh.high if dh.high is not None else dh.value
    if high <= verdicts.STILL:
        return f"ignores: h hardly moves ({dh.value:.3f} of a random pair's distance)"
    return f"no measured attribute moves; h moves by {dh.value:.2f} of a random pair's distance: look at the pictures"


def answer(name: str, transforms: dict[str, Any]) -> str:
    """The model's conclusion in one sentence, from the rows' targets."""
    from rcdm_core.probes.transforms import TRANSFORMS

    found: dict[str, dict[str, str]] = {}  # words -> transform -> code
    for transform, entry in transforms.items():
        for attribute, words in TRANSFORMS[transform].targets.items():
            code = entry["responses"][attribute]["verdict"]
            if code not in ("not moved", "not measurable"):
                found.setdefault(words, {})[transform] = code
    by_code: dict[str, dict[str, list[str]]] = {}  # code -> words -> transforms
    for words, codes in found.items():
        for transform, code in codes.items():
            by_code.setdefault(code, {}).setdefault(words, []).append(transform)

    def named(code: str) -> str:
        """What has that verdict; where two transforms disagree about it, with the one that says so."""
        return verdicts.listed(
            [
                words if len(set(found[words].values())) == 1 else f"{words} (by {verdicts.listed(said)})"
                for words, said in by_code[code].items()
            ]
        )

    phrases = {
        "follows": "keeps {}",
        "partly": "keeps some of {}",
        "ignores": "does not keep {}",
        "generator": "holds {} without the generator drawing it",
        "cannot tell": "leaves open whether it keeps {}",
    }
    parts = [phrase.format(named(code)) for code, phrase in phrases.items() if code in by_code]
    if not parts:
        return f"{name}: none of the transforms moves what is measured; the pictures must speak."
    return f"{name} {'; '.join(parts)}."


def _record(
    context: Context, picture: Picture, rows: list[Transform], blocks: list[Block], references: list[Reference]
) -> dict[str, Any]:
    """One picture's entry in result.json."""
    models: dict[str, Any] = {}
    for name, block, reference in zip(context.names, blocks, references, strict=True):
        entries, unit = {}, reference.distance
        for r, label in enumerate([IDENTITY, *(row.name for row in rows)]):
            dh = float(moves([block], r)[0])
            entries[label] = {
                "dh": dh,
                "dh_relative": dh / unit if unit else None,
                "real": {a: values[r] for a, values in block.real.items()},
                "samples": {a: values[r] for a, values in block.drawn.items()},
                "response": {a: image_response(block, r, a) for a in ATTRIBUTES},
            }
        models[name] = entries
    return {"name": picture.name, "content_id": picture.id, "models": models}


PROBE = Probe(
    name="invariance",
    summary="What a representation follows and what it is blind to, by transforming the picture",
    figure="figures 3, 25 and 26",
    parameters={
        "transform": Option(str, "all", "which rows, with commas between them (vertical-shift,grayscale), or all"),
        "strength": Option(float, 1.0, "how strong the transforms are, in their own usual strengths, up to 3"),
        "samples": Option(int, 8, "samples of each h"),
        "count": Option(int, 12, "held-out pictures to look at when no --image is given"),
        "pool": Option(int, 256, "more held-out pictures, for random pairs and linear readouts; 0: none"),
    },
    run=run,
    least={"samples": 1, "count": 1, "pool": 0},
    check=check,
    unless_given=("count",),
)
