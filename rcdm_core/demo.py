"""The whole story on the embedded shapes: two encoders that are known to forget, found out by their RCDMs.

An oracle declares what it forgets, so the truth is known and the demonstration can hold its conclusion against it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_core.errors import RCDMError
from rcdm_core.probes.verdicts import listed
from rcdm_core.progress import Reporter

if TYPE_CHECKING:
    import numpy as np

    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM
    from rcdm_core.probes.base import Result
    from rcdm_core.provider import Provider
    from rcdm_core.training import TrainConfig

# Of each model, as many as both trainings have the time for; a few sizes, so that like machines make like pictures.
STEPS, MINUTES = (300, 450, 700, 1000, 1400), 8
# So early, more steps teach more than larger batches, a high learning rate more than a safe one, and group norms
# (`embedding`) much more than batch norms, which mix a batch's noise levels.
BATCH_SIZE, LR, CONDITIONING = 16, 3e-3, "embedding"
PRESET = "tiny-32"
DATA = "shapes:12000"  # nothing is seen more than three times
COLOR = ("object color", "background color")
# What the demonstration speaks about, with the transforms that move it.
TESTS: Mapping[str, tuple[str, ...]] = {
    "object color": ("color-jitter",),
    "background color": ("color-jitter",),
    "position": ("vertical-shift", "horizontal-shift"),
    "size": ("zoom-in", "zoom-out"),
}
IN_WORDS = {
    "object color": "the colour of the object",
    "background color": "the colour of the background",
    "position": "the position",
    "size": "the size",
}
PICTURES, SAMPLES, SAMPLING_STEPS = 12, 4, 10  # of the probe: half a minute on two cores
SHOWN_SAMPLES = 6  # a row of the page's picture


@dataclass(frozen=True)
class Claim:
    """What the demonstration concluded about one attribute of one representation.

    truth       forgot or kept: what the oracle declares
    conclusion  forgot, kept or cannot tell: what the probe measured
    responses   transform -> the response of the samples (1 follows, 0 ignores) with its interval, as in result.json
    """

    provider: str
    attribute: str
    truth: str
    conclusion: str
    responses: Mapping[str, Mapping[str, Any]]

    @property
    def correct(self) -> bool:
        return self.conclusion == self.truth


@dataclass(frozen=True)
class Outcome:
    """page: the HTML file. claims: two oracles times all attributes. sentences: the same in words."""

    page: Path
    claims: tuple[Claim, ...]
    sentences: tuple[str, ...]

    @property
    def correct(self) -> bool:
        """Whether every conclusion is the truth."""
        return all(claim.correct for claim in self.claims)


def choose_oracles(names: Sequence[str] = ()) -> tuple[Provider, Provider]:
    """The two oracles that are shown: the named ones, or else one that forgets colour alone, and one position alone.

    Raises RCDMError unless both are oracles whose truths differ.
    """
    from rcdm_core import registry

    if not names:
        oracles = [provider for provider in registry.providers().values() if provider.kind == "oracle"]
        found = [
            next((oracle for oracle in oracles if set(oracle.forgets) == wanted), None)
            for wanted in (set(COLOR), {"position"})
        ]
        if found[0] is None or found[1] is None:
            raise RCDMError(
                "No two oracles are installed of which one forgets colour and one position; name two with --oracle."
            )
        return found[0], found[1]
    if len(names) != 2:
        raise RCDMError(f"--oracle was given {len(names)} times, but the demonstration compares exactly two.")
    first, second = (registry.find_provider(name) for name in names)
    for provider in (first, second):
        if provider.kind != "oracle":
            raise RCDMError(
                f"{provider.name} is a {provider.kind}, of which nobody knows what it forgets; give --oracle an oracle."
            )
    if set(first.forgets) == set(second.forgets):
        raise RCDMError(f"{first.name} and {second.name} forget the same; give --oracle two that differ.")
    return first, second


def run(
    *,
    oracles: Sequence[str] = (),
    steps: int | None = None,
    out: str | Path = "runs/demo",
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: Reporter | None = None,
) -> Outcome:
    """Train both RCDMs, probe them, and write OUT/report.html and OUT/demo.png.

    steps: of each model's training; None: the most of STEPS of which both fit into MINUTES, by the time that a step
        takes here. A demonstration that was stopped goes on where it was, with the steps that it had.

    Raises RCDMError for bad arguments, KeyboardInterrupt when a training was stopped.
    """
    import rcdm_core
    from rcdm_core.data.shapes import open_data
    from rcdm_core.precision import resolve_device
    from rcdm_core.training import TrainConfig, stopped, train_or_stop

    reporter = progress or Reporter()
    providers = choose_oracles(oracles)
    folder = Path(out)
    configs = [
        TrainConfig(
            provider=provider.name,
            data=DATA,
            out=folder / provider.name,
            preset=PRESET,
            batch_size=BATCH_SIZE,
            lr=LR,
            conditioning=CONDITIONING,
            seed=seed,
            device=device,
            precision=precision,
            preview_every=0,
            resume=(folder / provider.name).exists(),
        )
        for provider in providers
    ]
    steps = steps or choose_steps(configs, providers, folder, reporter)
    models = []
    for number, (provider, config) in enumerate(zip(providers, configs, strict=True), 1):
        reporter.log(f"{number} of 2: training for {provider.name} ({provider.summary}).")
        config = replace(config, steps=steps)
        path, asked = train_or_stop(config, reporter)
        if asked or stopped(config, path):
            raise KeyboardInterrupt
        models.append(rcdm_core.load(path, str(resolve_device(device))))
    reporter.log("Probing what both kept.")
    data = open_data(DATA)
    result = rcdm_core.run_probe(
        "invariance",
        models=models,
        data=data,
        out=folder / "invariance",
        seed=seed,
        precision=precision,
        steps=SAMPLING_STEPS,
        progress=reporter,
        transform=",".join(dict.fromkeys(name for names in TESTS.values() for name in names)),
        samples=SAMPLES,
        count=PICTURES,
    )
    claims = tuple(claim for provider in providers for claim in conclude(provider, result.aggregates[provider.name]))
    sentences = (*(sentence(provider.name, claims) for provider in providers), check(claims))
    gallery = draw(models, data, seed, precision)
    command = ["rcdm", "demo", *(word for provider in providers for word in ("--oracle", provider.name))]
    taken = max(model.config.step for model in models)  # a finished training stays as it is, whatever is asked for
    command += ["--steps", str(taken), "--seed", str(seed), "--device", device, "--precision", precision]
    command += ["--out", str(folder)]
    page = write_page(folder, shlex.join(command), providers, claims, sentences, gallery, result)
    return Outcome(page, claims, sentences)


def choose_steps(
    configs: Sequence[TrainConfig], providers: Sequence[Provider], folder: Path, reporter: Reporter
) -> int:
    """The steps that a demonstration in the same folder had, or those that there is time for, which is said."""
    import rcdm_core
    from rcdm_core.presets import PRESETS
    from rcdm_core.training.pace import seconds_a_step
    from rcdm_core.training.state import find_state

    for provider in providers:
        saved = find_state(folder / provider.name)
        if saved is not None:
            return int(saved.identity["arguments"]["steps"])
    h_dim = providers[0].dim or rcdm_core.load_encoder(providers[0].name).dim
    pace = seconds_a_step(configs[0], PRESETS[PRESET].unet_config(CONDITIONING, h_dim=h_dim))
    steps = max((n for n in STEPS if len(configs) * n * pace <= 60 * MINUTES), default=STEPS[0])
    minutes = math.ceil(len(configs) * steps * pace / 60)
    reporter.log(f"A training step takes {pace:.2f} s here: {steps} steps for each model, about {minutes} min in all.")
    return steps


def conclude(provider: Provider, aggregates: Mapping[str, Any]) -> list[Claim]:
    """The claims about one oracle from its aggregates in the probe `invariance`.

    An attribute is forgotten when it ignores every transform that moves it, and kept when it follows all of them.
    """
    claims = []
    for attribute, transforms in TESTS.items():
        responses = {name: aggregates["transforms"][name]["responses"][attribute] for name in transforms}
        codes = {response["verdict"] for response in responses.values()}
        claims.append(
            Claim(
                provider.name,
                attribute,
                truth="forgot" if attribute in provider.forgets else "kept",
                conclusion={("ignores",): "forgot", ("follows",): "kept"}.get(tuple(codes), "cannot tell"),
                responses={name: response.get("rendered") or {} for name, response in responses.items()},
            )
        )
    return claims


def sentence(provider: str, claims: Sequence[Claim]) -> str:
    """shapes-no-color forgot the colour of the object and …, and kept the position and the size."""
    own = [claim for claim in claims if claim.provider == provider]
    parts = []
    for conclusion, phrase in (("forgot", "forgot {}"), ("kept", "kept {}"), ("cannot tell", "leaves {} open")):
        about = [IN_WORDS[claim.attribute] for claim in own if claim.conclusion == conclusion]
        if about:
            parts.append(phrase.format(listed(about)))
    return f"{provider} {', and '.join(parts)}."


def headline(provider: str, claims: Sequence[Claim]) -> str:
    """What stands above the drawings: the name, and what was forgotten."""
    forgot = [c.attribute for c in claims if c.provider == provider and c.conclusion == "forgot"]
    return f"{provider}: forgot {listed(forgot)}" if forgot else provider


def check(claims: Sequence[Claim]) -> str:
    """Whether the conclusions are the truth, in words."""
    wrong = [claim for claim in claims if not claim.correct]
    if not wrong:
        return f"All {len(claims)} conclusions are what the two encoders were built to do."
    said = listed(
        [
            f"{claim.provider} {claim.truth} {IN_WORDS[claim.attribute]} (concluded: {claim.conclusion})"
            for claim in wrong
        ]
    )
    return f"{len(wrong)} of {len(claims)} conclusions are not the truth: {said}."


@dataclass(frozen=True)
class Row:
    """label: the picture's class. picture: [3, S, S]; samples: one array [n, 3, S, S] a model; all in [0, 1]."""

    label: str
    picture: np.ndarray
    samples: tuple[np.ndarray, ...]


def draw(models: Sequence[RCDM], data: ImageSource, seed: int, precision: str) -> list[Row]:
    """Samples of both models for one held-out picture of each class, from the same noise."""
    chosen: dict[int, int] = {}
    held_out = set(models[0].config.data.held_out) if models[0].config.data else set()
    for index in sorted(range(len(data)), key=data.ids.__getitem__):
        if data.ids[index] in held_out:
            chosen.setdefault(data.labels[index] if data.labels else 0, index)
    indices = [chosen[label] for label in sorted(chosen)]
    streams = [data.ids[index] for index in indices]
    drawn = [
        model.sample(
            model.encode_files(data, indices), SHOWN_SAMPLES, seed=seed, streams=streams, precision=precision
        ).numpy()
        for model in models
    ]
    return [
        Row(
            label=data.label_names[label] if data.label_names else "",
            picture=data.get(chosen[label], models[0].image_size) / 255,
            samples=tuple(samples[row] for samples in drawn),
        )
        for row, label in enumerate(sorted(chosen))
    ]


def write_page(
    folder: Path,
    command: str,
    providers: Sequence[Provider],
    claims: Sequence[Claim],
    sentences: Sequence[str],
    gallery: Sequence[Row],
    result: Result,
) -> Path:
    """OUT/report.html, one file that needs no other, and OUT/demo.png, its picture."""
    from rcdm_core.report.grid import GridRow, draw_grid, strip
    from rcdm_core.report.html import data_uri
    from rcdm_core.report.html import write_page as fill

    draw_grid(
        folder / "demo.png",
        [GridRow([row.label], row.picture, row.samples, [[] for _ in row.samples]) for row in gallery],
        titles=[headline(provider.name, claims) for provider in providers],
    )
    return fill(
        folder / "report.html",
        "demo.html.j2",
        title="rcdm demo",
        names=[provider.name for provider in providers],
        result={**result.to_json(), "answer": list(sentences), "command": command},
        summaries=[provider.summary for provider in providers],
        gallery=[
            {
                "label": row.label,
                "picture": data_uri(row.picture),
                "strips": [data_uri(strip(samples)) for samples in row.samples],
            }
            for row in gallery
        ],
        claims=claims,
        in_words=IN_WORDS,
        correct=all(claim.correct for claim in claims),
    )
