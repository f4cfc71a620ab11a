"""Table 1a: how good are the samples, as one set of pictures beside another?

Held-out pictures are split in halves. Samples of the h of the first half (or of h from a kernel density) are compared
with the second half, and so are the real pictures of the first half: what these have is as good as it gets with so many
pictures. The Fréchet distance in the space of any encoder; FID, IS, KID, precision and recall where Inception's weights
are at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.data.images import content_hash
from rcdm_core.errors import RCDMError
from rcdm_core.metrics import fidelity
from rcdm_core.metrics.frechet import distances
from rcdm_core.metrics.paired import Difference, together
from rcdm_core.metrics.resampled import Resampled
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import BLOCK, draw
from rcdm_core.probes.encoding import h_of
from rcdm_core.probes.keeping import Arrays, keep_encoded
from rcdm_core.probes.kernel_density import PARAMETERS, check_density, density, most_compared, stream
from rcdm_core.probes.opening import check_conditional, data_of, few, only_with
from rcdm_core.probes.pictures import Pictures, fit_of, held_out, read_arrays
from rcdm_core.probes.reference import reading
from rcdm_core.probes.wording import said
from rcdm_core.provider import Option
from rcdm_core.registry import find_provider

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM

CONDITIONAL, UNCONDITIONAL = "conditional", "unconditional"
MANY = 10_000  # pictures that table 1a takes; with fewer the bias is worth a note
SETS = ("samples", "real", "reference")
FRECHET = "Fréchet distance"


def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for drawings that do not exist, and for what the drawing and the space do not read."""
    if params["drawing"] not in (CONDITIONAL, UNCONDITIONAL):
        raise RCDMError(f"drawing is {params['drawing']!r}, but expected {CONDITIONAL} or {UNCONDITIONAL}.")
    check_density(params)
    drawn = params["drawing"] == UNCONDITIONAL
    only_with(params, PROBE.parameters, [*PARAMETERS], reads=drawn, remedy=f"--drawing {UNCONDITIONAL}")
    only_with(params, PROBE.parameters, ["space_weights"], reads=bool(params["space"]), remedy="--space NAME")
    if params["space"]:  # a name that is misspelt is found before anything is drawn
        find_provider(params["space"])


def run(context: Context) -> Result:
    """Fréchet distances, and torch-fidelity's measures where they can be had, of samples and of real pictures.

    Raises RCDMError for parameters out of range, --image, an unconditional model, fewer than four held-out pictures, or
    an encoder or weights that cannot be had.
    """
    from rcdm_core.report.quality import draw_rows, write_report

    params = context.params
    check_conditional(context)
    weights = fidelity.find_weights(params["inception"])
    data = data_of(context)
    first, second = _halves(context, data)
    result = context.begin(
        Pictures([*first, *second], first.notes), data, drawn=len(first), reference_pictures=len(second)
    )
    result.notes += _notes(context, len(first), weights is not None)

    looked: list[dict[str, Resampled]] = []  # of each model's samples, by what the measure is called
    rows: list[dict[str, np.ndarray]] = []
    for m, (name, model) in enumerate(zip(context.names, context.models, strict=True)):
        sets = _sets(context, m, first, second, data)
        space, h = _encoded(context, name, model, sets)
        (samples, real), relative = distances([h["samples"], h["real"]], h["reference"], seed=context.seed)
        of_set = {"samples": relative[0], "real": relative[1], "excess": relative[0].less(relative[1])}
        measures = None if weights is None else _fidelity(context, name, model, weights, sets)
        looked.append({FRECHET: relative[0]})
        result.aggregates[name] = {
            "drawn": len(first),
            "reference": len(second),
            "space": space,
            "dim": h["samples"].shape[1],
            "frechet": {"samples": samples.estimate().as_json(), "real": real.estimate().as_json()},
            "relative": {key: value.estimate().as_json() for key, value in of_set.items()},
            "fidelity": None,
        }
        if measures is not None:
            looked[-1] |= {title: measures["samples"][key] for key, title in fidelity.MEASURES.items()}
            result.aggregates[name]["fidelity"] = {
                key: {of: found[key].estimate().as_json() for of, found in measures.items()}
                for key in fidelity.MEASURES
            }
        result.answer.append(answer(name, result.aggregates[name]))
        rows.append({key: sets[key][: params["shown"]] for key in ("samples", "reference")})
        result.save()  # what is done stays, whatever happens to the next model
    differences = compare(context, looked)
    result.aggregates["differences"] = [difference.as_json() for difference in differences]
    result.notes += not_compared(context)
    result.images = [{"name": picture.name, "content_id": picture.id} for picture in first]
    if params["shown"]:
        draw_rows(result.add_file("quality.png"), context.names, rows)
    write_report(result, context, rows, differences)
    return result


def _halves(context: Context, data: ImageSource | None) -> tuple[Pictures, Pictures]:
    if data is None:
        raise RCDMError("The pictures of the training are not there any more; give a folder with --data.")
    params, count = context.params, 2 * context.params["count"]
    if params["drawing"] == UNCONDITIONAL:
        count = most_compared(params, data, count)
    found = held_out(data, context.models, count=count)
    half = len(found) // 2
    if half < 2:
        halved = "" if count == 2 * params["count"] else ", as half of the pictures are drawn from"
        raise RCDMError(
            f"{len(found)} held-out picture{' is' if len(found) == 1 else 's are'} too few for two sets of them (4 are "
            f"needed{halved}); give more with --data."
        )
    return Pictures(found[:half], found.notes), Pictures(found[half : 2 * half])


def _notes(context: Context, n: int, inception: bool) -> list[str]:
    notes = few(n)
    if n < MANY:
        notes.append(
            f"With {n} pictures a set, Fréchet distances and FID are too large by an amount that depends on that "
            "number (and the inception score too small): compare them with those of the real pictures beside them and "
            "with runs of the same number, not with published ones."
        )
    if not inception and context.params["inception"] == fidelity.AUTO:
        notes.append(
            "FID, IS, KID, precision and recall are left out, because Inception's weights are not at hand: "
            f"--inception {fidelity.DOWNLOAD} fetches them, and --inception FILE takes "
            f"{fidelity.URL.rsplit('/', 1)[1]} from torch-fidelity's releases."
        )
    return notes


def _sets(
    context: Context, m: int, first: Pictures, second: Pictures, data: ImageSource | None
) -> dict[str, np.ndarray]:
    """Samples, the real pictures of the first half, and those of the second: uint8 [n, 3, S, S] each."""
    name, model = context.names[m], context.models[m]
    streams = [picture.id for picture in first]
    drawn_h = None
    if context.params["drawing"] == UNCONDITIONAL:
        compared = [picture.id for picture in (*first, *second)]
        drawn_h, _ = density(context, m, data, compared).draw(len(first), seed=context.seed)
        streams = [stream(k) for k in range(len(first))]
    context.progress.start(len(first), f"{name}: sampling", unit="sample")
    parts: dict[str, list[np.ndarray]] = {key: [] for key in SETS}
    for start in range(0, len(first), BLOCK):
        block = slice(start, start + BLOCK)
        h = h_of(model, first[block], context) if drawn_h is None else drawn_h[block].astype(np.float32)
        samples = draw(context, model, h, 1, streams[block], encoded=0).samples[:, 0]
        parts["samples"].append(np.round(samples * 255).astype(np.uint8))
        for key, pictures in (("real", first), ("reference", second)):
            shown = read_arrays(pictures[block], model.image_size, fit_of(model))
            parts[key].append(np.round(shown * 255).astype(np.uint8))
    context.progress.finish()
    return {key: np.concatenate(values) for key, values in parts.items()}


def _encoded(
    context: Context, name: str, model: RCDM, sets: dict[str, np.ndarray]
) -> tuple[str, dict[str, np.ndarray]]:
    """The name of the space, and h in it of every set [n, dim]."""
    import torch

    given = context.params["space"]
    read: Callable[[np.ndarray], np.ndarray]
    by = ""  # of the encoder, where it is not the model's own
    if given:
        from rcdm_core.encoder import fingerprint, load_encoder

        encoder = load_encoder(given, weights=context.params["space_weights"] or None, device=model.device)
        read, space, by = reading(encoder), given, fingerprint(encoder).weights_digest
    else:
        read, space = (lambda images: model.encode(torch.from_numpy(images)).numpy()), model.config.provider.name
    context.progress.start(sum(map(len, sets.values())), f"{name}: encoding in {space}", unit="picture")
    found: dict[str, np.ndarray] = {}
    for key, pictures in sets.items():
        parts = []
        for start in range(0, len(pictures), BLOCK):
            part = pictures[start : start + BLOCK]
            depends = {"images": part, "space": [given, by]}
            parts.append(keep_encoded(context, model, depends, partial(_read, read, part))["h"])
            context.progress.update(len(part))
        found[key] = np.concatenate(parts)
    context.progress.finish()
    return space, found


def _read(read: Callable[[np.ndarray], np.ndarray], part: np.ndarray) -> Arrays:
    return {"h": read(part.astype(np.float32) / 255)}


def _fidelity(
    context: Context, name: str, model: RCDM, weights: Any, sets: dict[str, np.ndarray]
) -> dict[str, dict[str, Resampled]]:
    """torch-fidelity's measures, by name, of the samples and of the real pictures."""
    network, digest = fidelity.Inception(weights, model.device), content_hash(weights)
    context.progress.start(sum(map(len, sets.values())), f"{name}: Inception", unit="picture")
    seen: dict[str, fidelity.Seen] = {}
    for key, pictures in sets.items():
        parts = []
        for start in range(0, len(pictures), BLOCK):
            part = pictures[start : start + BLOCK]
            depends = {"images": part, "space": ["Inception", digest]}
            parts.append(keep_encoded(context, model, depends, partial(_looked, network, part)))
            context.progress.update(len(part))
        seen[key] = fidelity.Seen(*(np.concatenate([part[name] for part in parts]) for name in ("features", "logits")))
    context.progress.finish()
    samples, real = fidelity.measure([seen["samples"], seen["real"]], seen["reference"], seed=context.seed)
    return {"samples": samples, "real": real}


def _looked(network: fidelity.Inception, part: np.ndarray) -> Arrays:
    return vars(network.look(part))


def compare(context: Context, looked: Sequence[Mapping[str, Resampled]]) -> list[Difference]:
    """Every two models in every measure that both have, from resamples of the same pictures; Holm's over all.

    Fréchet distances, which are relative, only where they are in one space; none where the real pictures that samples
    are held against are not the same, because they are of another size or cut otherwise.
    """
    found = []
    for i, j in combinations(range(len(looked)), 2):
        for title in looked[i] if _one_reference(context, i, j) else ():
            if title == FRECHET and not _one_space(context, i, j):
                continue
            apart = looked[i][title].less(looked[j][title])
            first, second = (f"{context.names[k]}, {title}" for k in (i, j))
            found.append(Difference(first, second, apart.estimate(), apart.p(), None))
    return together(found)


def not_compared(context: Context) -> list[str]:
    """Why some models stand side by side without a comparison, or without one of their Fréchet distances."""
    pairs = [*combinations(range(len(context.models)), 2)]
    notes = []
    if not all(_one_reference(context, i, j) for i, j in pairs):
        notes.append(
            "Models of different image sizes or fits are held against real pictures of their own size and fit, which "
            "are not the same, and are not compared."
        )
    if not all(_one_space(context, i, j) for i, j in pairs if _one_reference(context, i, j)):
        notes.append(
            "Fréchet distances in the spaces of different encoders say nothing about each other and are not compared; "
            "with --space NAME one encoder judges the samples of all models."
        )
    return notes


def _one_reference(context: Context, i: int, j: int) -> bool:
    """Whether both models' samples are held against the same real pictures."""
    first, second = context.models[i], context.models[j]
    return (first.image_size, fit_of(first)) == (second.image_size, fit_of(second))


def _one_space(context: Context, i: int, j: int) -> bool:
    from rcdm_core.encoder import compare_fingerprints

    first, second = context.models[i].fingerprint, context.models[j].fingerprint
    return bool(context.params["space"]) or compare_fingerprints(first, second) is None


def answer(name: str, entry: dict[str, Any]) -> str:
    """One model in a sentence."""
    relative = entry["relative"]
    text = (
        f"{name}: in the space of {entry['space']}, {entry['drawn']} samples are at a Fréchet distance of "
        f"{said(relative['samples'])} of the real pictures' variance from {entry['reference']} real pictures, and as "
        f"many other real pictures at {said(relative['real'])}"
    )
    if entry["fidelity"] is None:
        return text + "."
    measures = "; ".join(
        f"{title} {said(values['samples'], digits(key))} (real pictures {said(values['real'], digits(key))})"
        for key, title in fidelity.MEASURES.items()
        for values in [entry["fidelity"][key]]
    )
    return f"{text}; {measures}."


def digits(measure: str) -> int:
    """Behind the point, of torch-fidelity's measures."""
    return {"fid": 1, "is": 2, "kid": 4}.get(measure, 2)


PROBE = Probe(
    name="quality",
    summary="How good samples are as a set: Fréchet distances, FID, IS, KID, precision and recall",
    figure="table 1a",
    parameters={
        "count": Option(int, 256, "samples, and real pictures to compare them with"),
        "drawing": Option(str, CONDITIONAL, "where h is from: conditional (held-out pictures) or unconditional"),
        "space": Option(str, "", "provider in whose space Fréchet distances are; otherwise the model's own encoder"),
        "space_weights": Option(str, "", "checkpoint of that provider; otherwise its own"),
        "inception": Option(
            str, fidelity.AUTO, "Inception's weights: a file or URL, auto (if at hand), download or no"
        ),
        **PARAMETERS,
        "shown": Option(int, 8, "samples that are shown"),
    },
    run=run,
    of_sets="compares sets of pictures",
    depends=lambda params: fidelity.find_weights(params["inception"]) is not None,
    least={"count": 2, "training": 0, "shown": 0},
    check=check,
)
