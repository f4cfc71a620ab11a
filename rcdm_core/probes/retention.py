"""What of a picture is in its h, attribute by attribute, and what is not: the paper's question, as numbers.

Two witnesses. Rendered: how much of an attribute the samples of h bring back, Cov(a(x), mean a of the samples) over
Var(a). Decodable: how well a readout of h tells the attribute, cross-validated. Both are Var(E[a | h]) / Var(a) where
generator and readout are perfect, and the verdict says which of the two is the limit where they disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.attributes import ATTRIBUTES, measure
from rcdm_core.metrics.bootstrap import Estimate, Summed
from rcdm_core.metrics.paired import compare_summed
from rcdm_core.metrics.readout import cross_validate
from rcdm_core.metrics.retention import (
    Observed,
    agreement,
    hearing,
    instrument,
    rendered_retention,
    variance_ratio,
)
from rcdm_core.probes import verdicts
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.encoding import h_of
from rcdm_core.probes.opening import check_conditional, data_of, only_with, pictures_of
from rcdm_core.probes.pictures import Pictures, fit_of, held_out, read_arrays
from rcdm_core.probes.reference import batches
from rcdm_core.probes.retention_class import NONE, labels_of, one_hot, train_judge, usable_labels
from rcdm_core.probes.retention_rows import CLASS, Rows, take_rows
from rcdm_core.provider import Option

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.metrics.judge import Judge
    from rcdm_core.model import RCDM

MIN_PICTURES = 20  # that an attribute has to be defined in, and that the probe has to have
CLASS_FLOOR = 0.2  # standard deviation of the one-hot class: with less, nearly all pictures are of one
MOST = 0.5  # share of the samples in which an attribute is undefined from which on they cannot be measured
SEEN = 0.3  # of the class that a judge has to see in real pictures before it can judge samples
ABOUT = {**{name: a.unit for name, a in ATTRIBUTES.items()}, CLASS: "one-hot, as the folder of the picture says"}


@dataclass(frozen=True)
class Pool:
    """Held-out pictures that readouts are fitted on beside the probed ones: h [N, dim], attribute -> [N, d]."""

    h: np.ndarray
    attributes: dict[str, np.ndarray]


@dataclass
class Found:
    """One attribute in one model: its entry in result.json, and its two retentions over the N pictures."""

    entry: dict[str, Any]
    retentions: dict[str, Summed] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What `measured` found: the result so far, and for every model the attributes and the rows of its pictures."""

    result: Result
    found: dict[str, dict[str, Found]]
    rows: list[Rows]


def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for pictures to learn classes from where nothing learns them."""
    remedy = "a --judge other than none"
    only_with(params, PROBE.parameters, ["judge_pictures"], reads=params["judge"] != NONE, remedy=remedy)


def run(context: Context) -> Result:
    """Rendered and decodable retention and the verdict of every attribute and model, and what differs between models.

    Raises RCDMError for parameters out of range, a model without a representation, or fewer than 20 held-out pictures.
    """
    from rcdm_core.report.retention import draw_bars, draw_samples, write_report

    about = measured(context)
    result = about.result
    result.answer = [answer(name, result.aggregates[name]["attributes"]) for name in context.names]
    result.aggregates["comparisons"] = compare(about.found, seed=context.seed)
    draw_bars(result.add_file("retention.png"), context.names, result.aggregates)
    if context.params["rows"]:
        draw_samples(result.add_file("samples.png"), context.names, about.rows)
    write_report(result, context, about.rows)
    return result


def measured(context: Context) -> Measured:
    """Both retentions and the verdict of every attribute in every model: in the aggregates and records of a result.

    Raises RCDMError as `run`.
    """
    params = context.params
    check_conditional(context)
    data = data_of(context)
    pictures = _unseen(context, pictures_of(context, data, params["count"], what=None))
    labels, notes = usable_labels(labels_of(pictures, data))
    result = context.begin(pictures, data)
    result.notes += notes
    own = [picture.id for picture in pictures]
    pool = Pictures([])
    if data is not None and params["pool"]:
        pool = held_out(data, context.models, count=params["pool"], skip=own)
    judges = _judges(context, data, labels, [*own, *(picture.id for picture in pool)], result)

    found: dict[str, dict[str, Found]] = {}
    shown: list[Rows] = []
    for m, (name, model) in enumerate(zip(context.names, context.models, strict=True)):
        judge = judges[m]
        rows = take_rows(context, model, pictures, judge)
        classes = sorted({int(label) for label in labels if label >= 0}) if judge is None else list(judge.classes)
        beside = _pool(context, model, pool)
        beside.attributes[CLASS] = one_hot(labels_of(pool, data), classes)
        heard = hearing(rows["h"], rows["h of a sample"], seed=context.seed)
        found[name] = {
            attribute: _attribute(attribute, rows, beside, one_hot(labels, classes), heard, context.seed)
            for attribute in (*ATTRIBUTES, *([CLASS] if (labels >= 0).any() else []))
        }
        result.aggregates[name] = {
            "pictures": len(pictures),
            "readout_pictures": len(pictures) + len(pool),
            "h_in_samples": heard.as_json() if heard else None,
            "judge": None if judge is None else {"name": params["judge"], "pictures": judge.n},
            "attributes": {attribute: one.entry for attribute, one in found[name].items()},
        }
        shown.append(rows)
        result.save()  # what is done stays, whatever happens to the next model
    result.images = [
        {
            "name": picture.name,
            "content_id": picture.id,
            "label": data.label_names[labels[i]] if data is not None and labels[i] >= 0 else None,
            "models": {name: _of_picture(rows, i) for name, rows in zip(context.names, shown, strict=True)},
        }
        for i, picture in enumerate(pictures)
    ]
    return Measured(result, found, shown)


def _unseen(context: Context, pictures: Pictures) -> Pictures:
    """Without those that a model was trained on: the numbers are about pictures that no generator remembers."""
    kept = pictures.unseen(context.models)
    if seen := len(pictures) - len(kept):
        kept.notes.append(f"{seen} of the {len(pictures)} pictures were trained on and are left out.")
    if len(kept) < MIN_PICTURES:
        raise RCDMError(
            f"Retention is measured over at least {MIN_PICTURES} different pictures that no model was trained on, and "
            f"there are {len(kept)}; give more with --data or --image."
        )
    return kept


def _judges(
    context: Context, data: ImageSource | None, labels: np.ndarray, skip: list[str], result: Result
) -> list[Judge | None]:
    """A judge of the class for every model; the same one for models of one image size and fit."""
    params = context.params
    classes = sorted({int(label) for label in labels if label >= 0})
    if data is None or not classes or params["judge"] == NONE or not params["judge_pictures"]:
        return [None] * len(context.models)
    trained: dict[tuple[int, str], Judge | None] = {}
    for model in context.models:
        seen = model.image_size, fit_of(model)
        if seen not in trained:
            trained[seen] = train_judge(
                params["judge"],
                model,
                context.models,
                data,
                classes,
                skip=skip,
                count=params["judge_pictures"],
                seed=context.seed,
            )
    if None in trained.values():
        result.notes.append(
            "There are too few labelled pictures beside the probed ones to learn what the classes look like, so that "
            "nothing can be said about the class of samples."
        )
    return [trained[model.image_size, fit_of(model)] for model in context.models]


def _pool(context: Context, model: RCDM, pool: Pictures) -> Pool:
    parts: list[np.ndarray] = []
    shown: list[dict[str, np.ndarray]] = []
    context.progress.start(len(pool), f"{model.name}: encoding pictures for the readouts", unit="picture")
    for block in batches(context, pool):
        parts.append(h_of(model, pool[block], context))
        shown.append(measure(read_arrays(pool[block], model.image_size, fit_of(model))))
    context.progress.finish()
    h = np.concatenate(parts) if parts else np.empty((0, model.h_dim))
    attributes = {
        name: np.concatenate([one[name] for one in shown]) if shown else np.empty((0, attribute.dim))
        for name, attribute in ATTRIBUTES.items()
    }
    return Pool(h, attributes)


def _attribute(name: str, rows: Rows, pool: Pool, classes: np.ndarray, heard: Estimate | None, seed: int) -> Found:
    """Both retentions and the verdict of one attribute. classes [N, d]: the one-hot labels, NaN where there is none."""
    is_class = name == CLASS
    real = classes if is_class else rows[f"real {name}"]
    floor = CLASS_FLOOR if is_class else ATTRIBUTES[name].floor
    defined = np.isfinite(real).all(axis=1)
    sd = float(np.sqrt(real[defined].var(axis=0).sum())) if defined.any() else 0.0
    entry: dict[str, Any] = {
        "n": int(defined.sum()),
        "undefined_in_pictures": int((~defined).sum()),
        "standard_deviation": sd,
        "threshold": floor,
        "undefined_in_samples": None,
        **{key: None for key in ("rendered", "decodable", "sample_variance", "agreement", "growth", "judge")},
    }

    def no_verdict(why: str) -> Found:
        return Found({**entry, "verdict": "not measurable", "why": why})

    if entry["n"] < MIN_PICTURES:
        return no_verdict(f"it is defined in {entry['n']} of the {len(real)} pictures")
    if sd < floor:
        return no_verdict(f"the pictures hardly differ in it (standard deviation {sd:.3f}, threshold {floor:g})")

    judged = f"drawn {name}" in rows.arrays
    usable, observed = defined, None
    if judged:
        undefined = float(rows[f"undefined {name}"][defined].mean())
        entry["undefined_in_samples"] = undefined
        if undefined <= MOST:
            seen = rows[f"real {name}"] if is_class else None
            observed = Observed(real, rows[f"drawn {name}"], rows[f"spread {name}"], floor, seen)
            usable = observed.usable
    h, target = rows["h"][usable], real[usable]
    extra: dict[str, Any] = {
        "extra_h": pool.h,
        "extra_attribute": pool.attributes[name],
        "classes": is_class,
        "seed": seed,
    }
    decoded, of_half = (cross_validate(h, target, share=share, **extra) for share in (1.0, 0.5))
    decodable = decoded.r2(seed=seed)
    growth = decodable.value - of_half.r2(seed=seed).value
    entry |= {"n": int(usable.sum()), "decodable": decodable.as_json(), "growth": growth}
    retentions = {"decodable": decoded.summed(usable)}

    if not judged:
        found = no_verdict("there is no judge that says of which class a sample is")
        return Found(found.entry, retentions)
    evidence: dict[str, Estimate | None] = dict.fromkeys(("rendered", "sample_variance", "agreement"))
    if observed is not None:
        if is_class:
            sees = instrument(observed, seed=seed)
            entry["judge"] = sees.as_json() if sees else None
            if sees is None or sees.low is None or sees.low < SEEN:
                value = 0.0 if sees is None else sees.value
                found = no_verdict(f"the judge sees too little of the class in real pictures ({value:.2f})")
                return Found(found.entry, retentions)
        evidence = {
            "rendered": rendered_retention(observed, seed=seed),
            "sample_variance": variance_ratio(observed, seed=seed),
            "agreement": agreement(observed, seed=seed),
        }
        if evidence["rendered"] is not None:
            retentions["rendered"] = observed.rendered()
    entry |= {key: value.as_json() if value else None for key, value in evidence.items()}
    verdict = verdicts.judge_retention(
        verdicts.Retained(
            rendered=evidence["rendered"],
            decodable=decodable,
            agreement=evidence["agreement"],
            variance=evidence["sample_variance"],
            growth=growth,
            heard=heard,
        )
    )
    return Found({**entry, "verdict": verdict.code, "why": verdict.why}, retentions)


def compare(
    found: dict[str, dict[str, Found]], *, seed: int, pairs: Sequence[tuple[str, str]] | None = None
) -> list[dict[str, Any]]:
    """Models in every attribute and both retentions: the difference, p by sign flips, and p after Holm.

    pairs: of names; None: every two models. What two models have measured in too few of the same pictures is left out.
    """
    about: list[dict[str, str]] = []
    numbers: list[tuple[str, Summed, str, Summed]] = []
    for first, second in combinations(found, 2) if pairs is None else pairs:
        for attribute, one in found[first].items():
            other = found[second].get(attribute)
            for what in ("rendered", "decodable"):
                if other is None or not (what in one.retentions and what in other.retentions):
                    continue
                about.append({"attribute": attribute, "retention": what})
                numbers.append((first, one.retentions[what], second, other.retentions[what]))
    compared = zip(about, compare_summed(numbers, seed=seed), strict=True)
    return [{**of, **difference.as_json()} for of, difference in compared if difference.p is not None]


def _of_picture(rows: Rows, i: int) -> dict[str, Any]:
    """One picture's attributes and its samples' means, as in result.json."""
    names = [name.removeprefix("drawn ") for name in rows.arrays if name.startswith("drawn ")]
    return {name: {key: rows[f"{key} {name}"][i] for key in ("real", "drawn", "spread", "undefined")} for name in names}


def answer(name: str, attributes: dict[str, dict[str, Any]]) -> str:
    """One model's verdicts in a sentence."""
    phrases = {
        "kept": "keeps {}",
        "nonlinear": "keeps {}, though no linear readout finds it",
        "dropped": "drops {}",
        "generator": "holds {} without the generator drawing it",
        "cannot tell": "leaves open whether it keeps {}",
        "not measurable": "was not measured in {}",
    }
    return f"{name} {verdicts.phrased({key: entry['verdict'] for key, entry in attributes.items()}, phrases)}."


PROBE = Probe(
    name="retention",
    summary="What of a picture is kept in its representation and what is dropped, attribute by attribute",
    figure="beyond the figures",
    parameters={
        "count": Option(int, 256, "held-out pictures to measure when no --image is given"),
        "samples": Option(int, 4, "samples of each"),
        "pool": Option(int, 512, "further held-out pictures that the readouts of h are fitted on; 0: none"),
        "judge": Option(str, "pixels", "who says of which class a sample is: pixels, none, or a provider's name"),
        "judge_pictures": Option(int, 1000, "labelled pictures, none of them measured, that the judge learns from"),
        "rows": Option(int, 6, "pictures shown with their samples"),
    },
    run=run,
    check=check,
    least={"samples": 1, "count": MIN_PICTURES, "pool": 0, "rows": 0, "judge_pictures": 0},
    unless_given=("count",),
)
