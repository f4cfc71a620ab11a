"""Figures 4 and 29: what is drawn from the h of an adversarial picture?

A linear probe is fitted on h; a picture is changed, hardly visibly, so that the probe names another class. How many
pictures flip, by the size of the change, and whether samples of the attacked h have the attacked class or the true one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.bootstrap import share
from rcdm_core.metrics.paired import Difference, compare, together
from rcdm_core.probes.adversarial_look import AWAY, LEAST, NEXT, Attacked, look
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.classifying import UNKNOWN, Classifier, Divided, accuracy, classifiers, divide, short
from rcdm_core.probes.opening import check_conditional, data_of, few, labels_of, only_with, pictures_of
from rcdm_core.probes.pictures import Pictures
from rcdm_core.probes.wording import percent
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, draw_grid

if TYPE_CHECKING:

    pass

UNITS = "in units of the [0, 1] image at the encoder's input size"


def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for an attack or epsilons that make no sense, and for what the attack does not read."""
    from rcdm_core.metrics.attack import ATTACKS

    if params["attack"] not in ATTACKS:
        raise RCDMError(f"There is no attack {params['attack']!r}; expected {' or '.join(ATTACKS)}.")
    if min(params["epsilons"]) < 0 or max(params["epsilons"]) > 1 or params["step"] < 0:
        raise RCDMError(f"Epsilons are {UNITS}, from 0 to 1, and the step is at least 0; check --epsilons and --step.")
    names = ["attack_steps", "step"]
    only_with(params, PROBE.parameters, names, reads=params["attack"] == "pgd", remedy="--attack pgd")


def run(context: Context) -> Result:
    """Attack held-out pictures with each epsilon, and draw samples of the attacked h of the first ones.

    Raises RCDMError for parameters out of range, an unconditional model, an encoder without a gradient, or labels that
    are not enough.
    """
    from rcdm_core.metrics.attack import Attack, check_differentiable
    from rcdm_core.report.adversarial import write_report

    params = context.params
    epsilons = sorted(set(params["epsilons"]))
    check_conditional(context)
    for name, model in zip(context.names, context.models, strict=True):
        check_differentiable(model.encoder, name)
    attack = Attack(params["attack"], params["attack_steps"], params["step"], away=params["target"] == AWAY)
    data = data_of(context)
    given = pictures_of(context, data, 1, what=None) if context.images else Pictures([])
    divided = divide(context, data, fit=params["fit"], test=params["test"], skip=[picture.id for picture in given])
    pictures, truth = choose(context, divided, given, labels_of(data))
    result = context.begin(
        pictures,
        data,
        classes=divided.names,
        epsilons=epsilons,
        epsilon_unit=UNITS,
        fitted_on=[p.id for p in divided.fit],
    )
    found = classifiers(context, divided)
    looked = min(len(pictures), max(len(given), params["count"]))  # some of the given ones may be left out
    rows: dict[str, list[GridRow]] = {}
    flips: dict[str, np.ndarray] = {}
    drawn: dict[str, np.ndarray] = {}
    result.images = [
        {
            "name": picture.name,
            "content_id": picture.id,
            "class": None if label == UNKNOWN else divided.names[label],
            "models": {},
        }
        for picture, label in zip(pictures, truth, strict=True)
    ]
    for name, model, one in zip(context.names, context.models, found, strict=True):
        seen = look(context, name, model, one, divided, attack, pictures, truth, epsilons, looked)
        counted, known = seen.of(result.counting), truth[result.counting]
        flips[name] = np.where(
            (known != UNKNOWN) & (counted.clean == known), (counted.predicted != known).astype(np.float64), np.nan
        )
        drawn[name] = still_true(counted, known)
        result.aggregates[name] = _aggregate(one, divided, counted, known, flips[name], epsilons, context.seed)
        result.answer.append(answer(name, result.aggregates[name], attack.away))
        if seen.flat.any():
            result.notes.append(
                f"{name}: h of {int(seen.flat.sum())} of the {len(pictures)} pictures has no gradient in any pixel, so "
                "that the attack leaves them as they are: that is no robustness."
            )
        _describe(result, name, seen, divided, looked)
        rows[name] = []
        for i in range(min(looked, max(params["rows"], len(given)))):
            fresh = _rows(i, name, seen, truth, divided, epsilons)
            file = f"adversarial-{sum(f.endswith('.png') for f in result.files) + 1:03d}.png"
            caption = f"eps {UNITS}; predicted (true); red: another than the true class"
            draw_grid(result.add_file(file), fresh, titles=titles(epsilons), caption=caption)
            rows[name] += fresh
        result.save()  # what is done stays, whatever happens to the next model
    differences = between(flips, drawn, epsilons, context.seed)
    result.aggregates["differences"] = [difference.as_json() for difference in differences]
    write_report(result, context, rows, epsilons, differences)
    return result


def still_true(seen: Attacked, truth: np.ndarray) -> np.ndarray:
    """The share of samples with the true class of the S pictures that were drawn from [E, S]; NaN without a label."""
    known = truth[: seen.said.shape[1]]
    return np.where(known == UNKNOWN, np.nan, (seen.said == known[:, None]).mean(axis=2))


def between(
    flips: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray], epsilons: Sequence[float], seed: int
) -> list[Difference]:
    """Every two models at each epsilon on the same pictures: who flips [E, N], and which samples are still true [E, S].

    Only pictures that both probes had right count for the flips, and unattacked ones have not flipped.
    """
    parts = [
        compare({f"{name}, flipped at ε {epsilon:g}": values[e] for name, values in flips.items()}, seed=seed)
        for e, epsilon in enumerate(epsilons)
        if epsilon > 0
    ]
    parts += [
        compare({f"{name}, true samples at ε {epsilon:g}": values[e] for name, values in drawn.items()}, seed=seed)
        for e, epsilon in enumerate(epsilons)
    ]
    return together(*parts)


def choose(context: Context, divided: Divided, given: Pictures, labels: dict[str, str]) -> tuple[Pictures, np.ndarray]:
    """The pictures to attack, the given ones first, and their classes, UNKNOWN for those without one.

    Raises RCDMError for a target that is no class.
    """
    target = context.params["target"]
    if target not in (*divided.names, NEXT, LEAST, AWAY):
        raise RCDMError(
            f"There is no target {target!r}; expected a class ({', '.join(divided.names[:5])}, …), {NEXT}, {LEAST} or "
            f"{AWAY}."
        )
    items = [*given, *divided.test]
    truth = np.array([divided.label_of(labels.get(picture.id)) for picture in items], dtype=np.int64)
    notes = [*given.notes, *divided.test.notes]
    if unknown := int((truth[: len(given)] == UNKNOWN).sum()):
        notes.append(
            f"{unknown} of the pictures given {'has' if unknown == 1 else 'have'} no label that the probe knows: they "
            "are attacked and shown, and do not count for the rates."
        )
    keep = np.ones(len(items), bool)
    if target in divided.names:
        keep = truth != divided.names.index(target)
        if not keep.all():
            notes.append(f"{int((~keep).sum())} pictures are of the class {target} already and are left out.")
    places = np.flatnonzero(keep)[: max(context.params["attacked"], len(given))]
    if not len(places):
        raise RCDMError(f"Every picture is of the class {target} already; give another --target.")
    chosen = Pictures([items[i] for i in places], notes)
    chosen.notes += [note for note in few(int(chosen.counting(context.models).sum())) if note not in notes]
    return chosen, truth[places]


def _aggregate(
    one: Classifier,
    divided: Divided,
    seen: Attacked,
    truth: np.ndarray,
    flips: np.ndarray,
    epsilons: list[float],
    seed: int,
) -> dict[str, Any]:
    """The probe's accuracy, and for each epsilon the shares, the move of h, and what the samples show."""
    looked = seen.said.shape[1]
    target, true = seen.target[:looked], still_true(seen, truth)
    steps = []
    for e, epsilon in enumerate(epsilons):
        hit = np.where(target == UNKNOWN, np.nan, (seen.said[e] == target[:, None]).mean(axis=1))
        follows = (seen.said[e] == seen.predicted[e, :looked, None]).mean(axis=1)
        flipped = flips[e, :looked] == 1
        steps.append(
            {
                "epsilon": epsilon,
                "flipped": share(flips[e]).as_json(),
                "reached": share(
                    np.where((seen.target == UNKNOWN) | np.isnan(flips[e]), np.nan, seen.predicted[e] == seen.target)
                ).as_json(),
                "moved": one.in_units(seen.moved[e], seed=seed).as_json(),
                "samples_true": share(true[e]).as_json(),
                "samples_target": share(hit).as_json(),
                "flipped_samples_true": share(true[e][flipped]).as_json(),
                "flipped_samples_follow": share(follows[flipped]).as_json(),
            }
        )
    return {**accuracy(one, divided), "attacked": len(truth), "without_gradient": int(seen.flat.sum()), "steps": steps}


def answer(name: str, entry: dict[str, Any], away: bool) -> str:
    """One model's robustness in a sentence: at the least epsilon that flips half of the pictures, or the largest."""
    steps = entry["steps"]
    half = [step for step in steps if (step["flipped"]["value"] or 0) >= 0.5]
    step = half[0] if half else steps[-1]
    right = f"{name}: a linear probe is right on {percent(entry['accuracy'])} of held-out pictures"
    if step["flipped"]["value"] is None:
        return f"{right}, and on none that was attacked, so that nothing could be flipped."
    text = (
        f"{right}; an attack of ε = "
        f"{step['epsilon']:g} flips {percent(step['flipped'])} of those"
    )
    if step["flipped_samples_true"]["value"] is not None:
        text += (
            f", and of the samples of the flipped ones' h {percent(step['flipped_samples_follow'])} have the class "
            f"that the probe now reads and {percent(step['flipped_samples_true'])} the true one"
        )
    return text + ("." if half else "; no ε that was tried flips half of them.")


def _describe(result: Result, name: str, seen: Attacked, divided: Divided, looked: int) -> None:
    """Into each picture's record."""
    for i, record in enumerate(result.images):
        record["models"][name] = {
            "unattacked": divided.names[seen.clean[i]],
            "target": None if seen.target[i] == UNKNOWN else divided.names[seen.target[i]],
            "predicted": [divided.names[label] for label in seen.predicted[:, i]],
            "moved": seen.moved[:, i],
        }
        if i < looked:
            record["models"][name]["samples"] = [
                [divided.names[label] for label in of_epsilon] for of_epsilon in seen.said[:, i]
            ]


def titles(epsilons: list[float]) -> list[str]:
    return [f"eps {epsilon:g}" for epsilon in epsilons]  # the font of the PNG files has no ε


def _rows(
    i: int, name: str, seen: Attacked, truth: np.ndarray, divided: Divided, epsilons: list[float]
) -> list[GridRow]:
    """A row of attacked pictures, and one for each sample of their h."""
    own = "?" if truth[i] == UNKNOWN else divided.names[truth[i]]

    def row(label: list[str], pictures: np.ndarray, said: np.ndarray) -> GridRow:
        return GridRow(
            label,
            None,
            [picture[None] for picture in pictures],
            [[] for _ in epsilons],
            [[f"{short(divided.names[one], 9)} ({short(own, 9)})"] for one in said],
            [[0] if truth[i] not in (UNKNOWN, one) else [] for one in said],
        )

    aim = "" if seen.target[i] == UNKNOWN else f"to {divided.names[seen.target[i]]}"
    first = row([f"{i + 1}", own, *([aim] if aim else [])], seen.shown[:, i] / np.float32(255), seen.predicted[:, i])
    return [
        first,
        *(row(["", f"sample {k + 1}"], seen.samples[:, i, k], seen.said[:, i, k]) for k in range(seen.said.shape[2])),
    ]


PROBE = Probe(
    name="adversarial",
    summary="Whether pictures drawn from the h of an adversarial picture show the attacked class or the true one",
    figure="figures 4 and 29",
    parameters={
        "attack": Option(str, "fgsm", "fgsm or pgd"),
        "epsilons": Option("floats", (0.0, 0.005, 0.01, 0.025, 0.05, 0.1), f"largest changes of a pixel, {UNITS}"),
        "target": Option(str, NEXT, "class to attack towards: a name, next, least (likely), or away from the true one"),
        "attack_steps": Option(int, 10, "steps of pgd"),
        "step": Option(float, 0.0, "step size of pgd, in the epsilons' unit; 0: 2.5 epsilon over the steps"),
        "attacked": Option(int, 100, "held-out pictures to attack"),
        "count": Option(int, 16, "of these, to draw samples of"),
        "samples": Option(int, 2, "samples of each attacked h"),
        "rows": Option(int, 4, "pictures that are shown"),
        "fit": Option(int, 5000, "labelled pictures that the linear probe is fitted on, at most"),
        "test": Option(int, 1000, "held-out pictures that it is tested on, at most"),
    },
    run=run,
    least={"samples": 1, "count": 1, "attacked": 1, "rows": 0, "attack_steps": 1, "fit": 4, "test": 2},
    check=check,
)
