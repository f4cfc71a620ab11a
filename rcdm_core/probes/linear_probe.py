"""Table a: how well does a linear probe on h tell the class, and does it still on what is drawn from h?

Accuracy on held-out pictures beside that of always naming the most frequent class; then the same probe on samples of h,
encoded again, beside the real pictures at the samples' size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.bootstrap import share
from rcdm_core.metrics.paired import compare, together
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.classifying import Classifier, Divided, accuracy, classifiers, divide, short
from rcdm_core.probes.drawing import blocks, draw
from rcdm_core.probes.encoding import h_at_image_size
from rcdm_core.probes.opening import check_conditional, data_of, only_with
from rcdm_core.probes.pictures import fit_of, read_arrays
from rcdm_core.probes.wording import percent
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, ShownRows, draw_grid

if TYPE_CHECKING:
    from rcdm_core.model import RCDM



def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for a cross-validation in one part, and for what it does not read."""
    if params["folds"] == 1:
        raise RCDMError("folds is 1, but a cross-validation takes at least 2, and 0 tests on held-out pictures alone.")
    only_with(params, PROBE.parameters, ["fit"], reads=not params["folds"], remedy="--folds 0")


def run(context: Context) -> Result:
    """The accuracy of each model's linear probe on held-out pictures and on samples of their h.

    Raises RCDMError for parameters out of range, an unconditional model, single pictures, or too few labels.
    """
    from rcdm_core.report.linear_probe import write_report

    params = context.params
    check_conditional(context)
    data = data_of(context)
    divided = divide(context, data, fit=params["fit"], test=params["test"], parts=params["folds"])
    result = context.begin(divided.test, data, classes=divided.names, fitted_on=[p.id for p in divided.fit])
    found = classifiers(context, divided)
    result.images = [
        {
            "name": picture.name,
            "content_id": picture.id,
            "class": divided.names[label],
            "models": {
                name: {"predicted": divided.names[one.predicted[i]], "probability": one.probability[i]}
                for name, one in zip(context.names, found, strict=True)
            },
        }
        for i, (picture, label) in enumerate(zip(divided.test, divided.test_labels, strict=True))
    ]
    looked = min(params["count"], len(divided.test))
    rows = ShownRows()
    values: dict[str, dict[str, list[float]]] = {
        name: {key: [] for key in ("rendered", "small", "agreement")} for name in context.names
    }
    context.progress.start(looked * len(context.models) * params["samples"], "sampling", unit="sample")
    for number, block in enumerate(blocks(looked, params["samples"]), 1):
        places = np.arange(block.start, block.stop)
        looks = [look(context, model, one, divided, places) for model, one in zip(context.models, found, strict=True)]
        for name, seen in zip(context.names, looks, strict=True):
            for key, of_model in values[name].items():
                of_model += seen[key].tolist()
            for i, place in enumerate(places):
                said = [divided.names[label] for label in seen["said"][i]]
                result.images[place]["models"][name] |= {"samples": said, "rendered": seen["rendered"][i]}
        fresh = [_row(divided, int(place), i, found, looks) for i, place in enumerate(places)]
        file = f"linear-probe-{number:03d}.png"
        caption = "below each sample the class that the probe reads from it; red: another than the picture's"
        draw_grid(result.add_file(file), fresh, titles=context.names, caption=caption)
        rows.take(fresh)
        result.save()  # what is done stays, whatever happens to the rest
    context.progress.finish()

    for name, one in zip(context.names, found, strict=True):
        result.aggregates[name] = {
            **accuracy(one, divided),
            **{key: share(np.array(of_model)).as_json() for key, of_model in values[name].items()},
            "by_class": {
                of_class: share(one.predicted[divided.test_labels == i] == i).as_json()
                for i, of_class in enumerate(divided.names)
            },
        }
        result.answer.append(answer(name, result.aggregates[name]))
    right = {
        f"{name}, pictures": (one.predicted == divided.test_labels).astype(float)
        for name, one in zip(context.names, found, strict=True)
    }
    drawn = {f"{name}, samples": np.array(of_model["rendered"]) for name, of_model in values.items()}
    differences = together(*(compare(of_measure, seed=context.seed) for of_measure in (right, drawn)))
    result.aggregates["differences"] = [difference.as_json() for difference in differences]
    write_report(result, context, rows, differences)
    return result


def look(
    context: Context, model: RCDM, classifier: Classifier, divided: Divided, places: np.ndarray
) -> dict[str, np.ndarray]:
    """Samples of the test pictures at `places` [B], and what the probe makes of them.

    shown [B, 3, S, S]; samples [B, n, 3, S, S]; again: their h [B, n, dim]; said [B, n]: their classes. rendered,
    agreement [B]: the shares of samples with the picture's class, and with the class that the probe reads from the
    picture. small [B]: whether the picture at the generator's size still has its class.
    """

    pictures = [divided.test[int(place)] for place in places]
    shown = read_arrays(pictures, model.image_size, fit_of(model))
    drawn = draw(context, model, classifier.h[places], context.params["samples"], [p.id for p in pictures])
    said = classifier.judge(drawn.h, places)
    small = classifier.judge(h_at_image_size(model, pictures, context)[:, None], places)[:, 0]
    truth = divided.test_labels[places]
    return {
        "shown": shown,
        "samples": drawn.samples,
        "again": drawn.h,
        "said": said,
        "rendered": (said == truth[:, None]).mean(axis=1),
        "agreement": (said == classifier.predicted[places][:, None]).mean(axis=1),
        "small": (small == truth).astype(np.float64),
    }


def _row(divided: Divided, place: int, i: int, found: list[Classifier], looks: list[dict[str, np.ndarray]]) -> GridRow:
    truth = int(divided.test_labels[place])
    return GridRow(
        label=[f"{place + 1}", divided.names[truth]],
        picture=looks[0]["shown"][i],
        blocks=[seen["samples"][i] for seen in looks],
        numbers=[
            [f"h: {divided.names[one.predicted[place]]}", f"samples {seen['rendered'][i]:.0%}"]
            for one, seen in zip(found, looks, strict=True)
        ],
        captions=[[short(divided.names[label]) for label in seen["said"][i]] for seen in looks],
        framed=[np.flatnonzero(seen["said"][i] != truth).tolist() for seen in looks],
    )


def answer(name: str, entry: dict[str, Any]) -> str:
    """One model's accuracies in a sentence."""
    return (
        f"{name}: a linear probe tells the class of {percent(entry['accuracy'])} of held-out pictures (always "
        f"{entry['majority_class']}: {percent(entry['chance'])}), of {percent(entry['rendered'])} of the samples of "
        f"their h, and of {percent(entry['small'])} of the real pictures at the samples' size."
    )


PROBE = Probe(
    name="linear-probe",
    summary="How well a linear probe tells the class from h, and from what is drawn from h",
    figure="table a",
    parameters={
        "fit": Option(int, 5000, "labelled pictures that the probe is fitted on, at most"),
        "test": Option(int, 1000, "held-out pictures that it is tested on, at most"),
        "folds": Option(int, 0, "parts of a cross-validation of the held-out pictures; 0: fit on others"),
        "count": Option(int, 64, "of the pictures tested on, to draw samples of"),
        "samples": Option(int, 4, "samples of each h"),
    },
    run=run,
    of_sets="takes labelled sets",
    least={"samples": 1, "count": 1, "fit": 4, "test": 2, "folds": 0},
    check=check,
)
