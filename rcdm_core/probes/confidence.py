"""Figure 12: are samples more alike in class where a linear probe is sure than where it is not?

The held-out pictures with the highest and with the lowest probability of the class that the probe reads from their h,
and their samples: how many have that class, how many the picture's own, and how near they are to the h.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.metrics.bootstrap import bootstrap_mean, share
from rcdm_core.metrics.distances import mean_of_pairs
from rcdm_core.metrics.groups import compare_groups, compare_overlapping
from rcdm_core.metrics.paired import Difference, together
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.classifying import Classifier, Divided, accuracy, classifiers, divide, short
from rcdm_core.probes.drawing import blocks
from rcdm_core.probes.linear_probe import look
from rcdm_core.probes.opening import check_conditional, data_of, few
from rcdm_core.probes.wording import percent, said
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, draw_grid

if TYPE_CHECKING:
    from rcdm_core.model import RCDM

GROUPS = ("most confident", "least confident")
MEASURES = {
    "agreement": "samples of the probe's class",
    "rendered": "samples of the picture's class",
    "distance": "samples from h",
}


def run(context: Context) -> Result:
    """Samples of the pictures that each model's linear probe is most and least sure of, and their classes.

    Raises RCDMError for parameters out of range, an unconditional model, single pictures, or too few labels.
    """
    from rcdm_core.report.confidence import write_report

    params = context.params
    check_conditional(context)
    data = data_of(context)
    divided = divide(context, data, fit=params["fit"], test=params["test"])
    result = context.begin(divided.test, data, classes=divided.names, fitted_on=[p.id for p in divided.fit])
    count = max(1, min(params["count"], len(divided.test) // 2))
    if len(divided.test) == 1:
        result.notes.append("There is one held-out picture, which is the most and the least confident one.")
    elif count < params["count"]:
        result.notes.append(f"There are {len(divided.test)} held-out pictures, so that each group has {count}.")
    too_few = few(count, "picture in each group", many="pictures in each group")
    result.notes += [note for note in too_few if note not in result.notes]
    found = classifiers(context, divided)
    rows: dict[str, list[GridRow]] = {}
    context.progress.start(2 * count * len(context.models) * params["samples"], "sampling", unit="sample")
    within: list[Difference] = []
    measured: dict[str, dict[tuple[str, str], np.ndarray]] = {}  # of every test picture; NaN where it is in no group
    for name, model, one in zip(context.names, context.models, found, strict=True):
        order = np.argsort(-one.probability, kind="stable")
        groups = dict(zip(GROUPS, (order[:count], order[::-1][:count]), strict=True))
        values: dict[str, dict[str, np.ndarray]] = {}
        rows[name] = []
        for group, places in groups.items():
            values[group], fresh = _group(context, result, name, model, one, divided, group, places)
            rows[name] += fresh
        result.aggregates[name] = _aggregate(one, divided, groups, values, context.seed)
        unit = result.aggregates[name]["random_pair_distance"] or np.nan
        measured[name] = {}
        for group, places in groups.items():
            values[group]["distance"] = values[group]["distance"] / unit
            for key in MEASURES:
                measured[name][group, key] = np.full(len(divided.test), np.nan)
                measured[name][group, key][places] = values[group][key]
        within += [
            compare_groups(
                (f"{name}: {what}, {GROUPS[0]}", GROUPS[1]),
                *(values[group][key] for group in GROUPS),
                seed=context.seed,
            )
            for key, what in MEASURES.items()
        ]
        result.answer.append(answer(name, result.aggregates[name]))
        result.save()  # what is done stays, whatever happens to the next model
    context.progress.finish()
    differences = together(within, between(measured, context.seed))
    result.aggregates["differences"] = [difference.as_json() for difference in differences]
    write_report(result, context, rows, differences[: len(within)], differences[len(within) :])
    return result


def between(measured: Mapping[str, Mapping[tuple[str, str], np.ndarray]], seed: int) -> list[Difference]:
    """Every two models in each group and measure; each model has its own groups, which may share pictures."""
    return [
        compare_overlapping(
            (f"{first}: {what}, {group}", second), measured[first][group, key], measured[second][group, key], seed=seed
        )
        for first, second in combinations(measured, 2)
        for group in GROUPS
        for key, what in MEASURES.items()
    ]


def _group(
    context: Context,
    result: Result,
    name: str,
    model: RCDM,
    one: Classifier,
    divided: Divided,
    group: str,
    places: np.ndarray,
) -> tuple[dict[str, np.ndarray], list[GridRow]]:
    """The measures [n] of a group's pictures, their records in the result, and the rows to show."""
    parts: dict[str, list[np.ndarray]] = {key: [] for key in MEASURES}
    rows: list[GridRow] = []
    for block in blocks(len(places), context.params["samples"]):
        part = places[block]
        seen = look(context, model, one, divided, part)
        seen["distance"] = np.linalg.norm(seen["again"] - one.h[part][:, None], axis=-1).mean(axis=1)
        fresh = []
        for i, place in enumerate(part):
            truth, read = divided.names[divided.test_labels[place]], divided.names[one.predicted[place]]
            result.images.append(
                {
                    "name": divided.test[int(place)].name,
                    "content_id": divided.test[int(place)].id,
                    "model": name,
                    "group": group,
                    "class": truth,
                    "predicted": read,
                    "probability": one.probability[place],
                    "samples": [divided.names[label] for label in seen["said"][i]],
                    **{key: seen[key][i] for key in MEASURES},
                }
            )
            fresh.append(
                GridRow(
                    label=[group.split()[0] + f" {block.start + i + 1}", truth],
                    picture=seen["shown"][i],
                    blocks=[seen["samples"][i]],
                    numbers=[[f"h: {read}", f"p {one.probability[place]:.3f}"]],
                    captions=[[short(divided.names[label]) for label in seen["said"][i]]],
                    framed=[np.flatnonzero(seen["said"][i] != divided.test_labels[place]).tolist()],
                )
            )
        for key in MEASURES:
            parts[key].append(seen[key])
        file = f"confidence-{sum(f.endswith('.png') for f in result.files) + 1:03d}.png"
        caption = f"{group}; below each sample its class by the probe; red: another than the picture's"
        draw_grid(result.add_file(file), fresh, titles=[name], caption=caption)
        rows += fresh
        result.save()
    return {key: np.concatenate(value) for key, value in parts.items()}, rows


def _aggregate(
    one: Classifier,
    divided: Divided,
    groups: dict[str, np.ndarray],
    values: dict[str, dict[str, np.ndarray]],
    seed: int,
) -> dict[str, Any]:
    return {
        **accuracy(one, divided),
        "random_pair_distance": mean_of_pairs(one.pairs()),
        "groups": {
            group: {
                "probability": bootstrap_mean(one.probability[places], seed=seed).as_json(),
                "accuracy": share(one.predicted[places] == divided.test_labels[places]).as_json(),
                "agreement": share(values[group]["agreement"]).as_json(),
                "rendered": share(values[group]["rendered"]).as_json(),
                "distance": one.in_units(values[group]["distance"], seed=seed).as_json(),
            }
            for group, places in groups.items()
        },
    }


def answer(name: str, entry: dict[str, Any]) -> str:
    """One model's groups in a sentence."""
    parts = [
        f"of the {group} pictures' samples {percent(one['agreement'])} have the class that the probe reads from h, and "
        f"they are {said(one['distance'])} of a random pair's distance from it"
        for group, one in entry["groups"].items()
    ]
    return f"{name} (accuracy of the probe {percent(entry['accuracy'])}): {'; '.join(parts)}."


PROBE = Probe(
    name="confidence",
    summary="What is drawn from the h that a linear probe is most and least sure of",
    figure="figure 12",
    parameters={
        "fit": Option(int, 5000, "labelled pictures that the probe is fitted on, at most"),
        "test": Option(int, 1000, "held-out pictures that the most and least confident ones are looked for among"),
        "count": Option(int, 16, "pictures in each of the two groups"),
        "samples": Option(int, 4, "samples of each h"),
    },
    run=run,
    of_sets="takes labelled sets",
    least={"samples": 1, "count": 1, "fit": 4, "test": 2},
)
