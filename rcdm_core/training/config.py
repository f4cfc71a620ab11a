"""Everything that a training run can be told, and the defaults of it, in one place."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rcdm_core.errors import RCDMError
from rcdm_core.naming import RESERVED
from rcdm_core.precision import PRECISIONS
from rcdm_core.presets import PRESETS, Preset

CONDITIONINGS = ("batchnorm", "embedding", "none")
LR_SCHEDULES = ("constant", "cosine")
OPTIMIZERS = ("adamw", "muon")
# Held out by default: a tenth, but no more than a gallery for the faithfulness figures needs.
HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 512
_MOST = 10**12  # steps or pictures: beyond it somebody has slipped on the keyboard
# What a resumed run may change: how long it goes on, what it writes on the way, and where it computes. The provider is
# compared by `setup`, which can resolve its name.
FREE_ON_RESUME = (
    "out", "steps", "minutes", "device", "weights", "save_every", "preview_every", "resume", "cache",
    "pixel_cache_limit", "provider", "label", "representations",
)  # fmt: skip
# And what it may change when it is asked to, and then says: the remedies that a run which went wrong names. What is
# saved keeps its meaning under all of them.
TOLD_ON_RESUME = ("lr", "h_lr", "clip", "batch_size", "accumulate", "precision")


@dataclass(frozen=True)
class TrainConfig:
    """A training run. None means: the preset's value, or what the comment says.

    Raises RCDMError for a value that is out of range or does not go with another.
    """

    provider: str
    data: str | None = None             # folder of images, or shapes[:N[:SEED]]; None: shapes
    out: str | Path | None = None       # folder of the bundle; None: runs/PROVIDER
    weights: str | None = None          # checkpoint of the encoder; None: the provider's own
    provider_options: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None            # of this representation, where models are compared; None: the folder's name
    representations: str | Path | None = None   # a file of rcdm encode that holds h of the data; None: computed
    # data
    fit: str = "crop"                   # crop: centre square; pad: the whole image on a square
    keep_duplicates: bool = False       # links and copies count as pictures of their own
    held_out: int | float | None = None  # readable pictures, or share, never trained on; None: a tenth, at most 512
    flip: bool = True                   # mirror half of the pictures, and their representations with them
    # network
    preset: str = "tiny-32"
    conditioning: str | None = None     # batchnorm, embedding, none; None: batchnorm if there is an h
    standardise: bool | None = None     # standardise h per dimension with the training set's statistics
    # how long: whichever comes first; neither: the preset's steps, or on resume what the run was started with
    steps: int | None = None
    minutes: float | None = None        # of training in all, the time before a resume included
    # optimisation
    batch_size: int | None = None       # pictures a step
    accumulate: int | None = None       # parts that a step's pictures are split into, when memory is short; None: 1
    optimizer: str | None = None        # adamw, or muon: Muon for the matrices of the blocks, AdamW for the others
    lr: float | None = None
    h_lr: float | None = None           # learning rate of the layers that read h, as a share of lr
    lr_schedule: str | None = None      # constant or cosine (down to zero at --steps); None: the preset's if it can be
    warmup: int | None = None           # steps over which lr rises from zero
    half_size: int | None = None        # the first so many steps see pictures of half the size, twice as many each
    weight_decay: float | None = None
    clip: float | None = None           # largest norm of the gradient; 0: none
    ema: float | None = None            # decay of the averaged weights, which are the ones that are kept
    precision: str | None = None        # float32, bf16, or auto, as is None: bf16 where the hardware has it
    # the run
    seed: int = 0
    device: str = "auto"
    save_every: int = 500               # steps; at most so many are lost when the run is killed
    preview_every: int | None = None    # steps, at the next save, and at the end; None: at every save; 0: never
    resume: bool = False
    cache: str | Path | None = None     # folder of representations and pixels; None: RCDM_CACHE or ~/.cache/rcdm
    pixel_cache_limit: int = 4 * 2**30  # bytes; larger sets are decoded again in every epoch

    def __post_init__(self) -> None:
        _require(self.preset in PRESETS, f"--preset {self.preset} is not known; expected one of {', '.join(PRESETS)}")
        _one_of("--conditioning", self.conditioning, CONDITIONINGS)
        _one_of("--optimizer", self.optimizer, OPTIMIZERS)
        _one_of("--lr-schedule", self.lr_schedule, LR_SCHEDULES)
        _one_of("--precision", self.precision, PRECISIONS)
        _one_of("--fit", self.fit, ("crop", "pad"))
        _require(
            self.label is None or (self.label.strip() != "" and self.label.isprintable()),
            "--label must be a name on one line",
        )
        _require(self.label not in RESERVED, f"--label {self.label} is a word of results; it must be another one")
        for name in ("steps", "minutes", "batch_size", "accumulate", "lr", "h_lr", "save_every"):
            value = getattr(self, name)
            holds = value is None or (value > 0 and math.isfinite(value))
            _require(holds, f"{_option(name)} {value} must be a positive number")
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            _require(value is None or value <= _MOST, f"{_option(name)} {value} must be at most {_MOST}")
        for name in (
            "warmup", "half_size", "weight_decay", "clip", "preview_every", "held_out", "pixel_cache_limit", "seed"
        ):  # fmt: skip
            value = getattr(self, name)
            holds = value is None or (value >= 0 and math.isfinite(value))
            _require(holds, f"{_option(name)} {value} must be a number of at least 0")
        _require(self.ema is None or 0 <= self.ema < 1, f"--ema {self.ema} must be at least 0 and below 1")
        _require(
            self.lr_schedule != "cosine" or not self.minutes_alone,
            "--lr-schedule cosine needs --steps, because no schedule may depend on how fast the machine is",
        )

    @property
    def minutes_alone(self) -> bool:
        """Whether nobody knows beforehand how many steps there will be."""
        return self.steps is None and self.minutes is not None

    @property
    def precision_or_auto(self) -> str:
        """None is kept apart from auto only to see whether a run that resumes another was asked for it."""
        return self.precision or "auto"

    def complete(self, earlier: Mapping[str, Any] | None = None) -> TrainConfig:
        """With a number of steps where no end was given, and paths that hold in every working directory.

        earlier: `to_dict` of the run that is resumed, if there is one.
        """
        values: dict[str, Any] = {}
        if self.steps is None and self.minutes is None:
            values = {"steps": PRESETS[self.preset].steps}
            if earlier is not None:
                values = {"steps": earlier["steps"], "minutes": earlier["minutes"]}
        if self.weights and "://" not in self.weights:
            values["weights"] = _absolute(self.weights)
        for name in ("representations", "cache"):
            if getattr(self, name) is not None:
                values[name] = _absolute(str(getattr(self, name)))
        if self.data and self.data.partition(":")[0] != "shapes":
            values["data"] = _absolute(self.data)
        return replace(self, **values)

    def reached(self, step: int, seconds: float) -> bool:
        """Whether a run that has made so many steps in so many seconds of training is finished."""
        return (self.steps is not None and step >= self.steps) or (
            self.minutes is not None and seconds >= 60 * self.minutes
        )

    def recipe(self) -> Recipe:
        """The numbers that the preset supplies, with this run's own in their place.

        Raises RCDMError when the step's pictures cannot be split into `accumulate` equal parts, and when `half_size`
        goes neither with the preset nor with how long the run is.
        """
        preset = PRESETS[self.preset]
        schedule = self.lr_schedule or ("constant" if self.minutes_alone else preset.lr_schedule)
        own = {
            name: getattr(self, name)
            for name in (
                "batch_size", "optimizer", "lr", "h_lr", "warmup", "half_size", "weight_decay", "clip", "standardise"
            )
            if getattr(self, name) is not None
        }
        recipe = replace(Recipe.of(preset), lr_schedule=schedule, accumulate=self.accumulate or 1, **own)
        recipe = recipe if self.ema is None else replace(recipe, ema=self.ema)
        _require(
            recipe.batch_size % recipe.accumulate == 0,
            f"--batch-size {recipe.batch_size} cannot be split into --accumulate {recipe.accumulate} equal parts",
        )
        if recipe.half_size:
            self._require_halves(recipe.half_size, preset)
        return recipe

    def _require_halves(self, half_size: int, preset: Preset) -> None:
        """That the pictures can be halved, and that a run which begins now does not end before it sees whole ones."""
        size, levels = int(preset.unet["image_size"]), len(preset.unet["channel_mult"])
        _require(
            size % 2**levels == 0,
            f"--half-size {half_size} cannot be had with --preset {preset.name}: "
            f"{levels} levels take no {size / 2:g} x {size / 2:g} pixels",
        )
        if self.resume:
            return
        _require(
            not self.minutes_alone,
            f"--half-size {half_size} needs --steps, because a run must not end before its pictures are whole",
        )
        steps = self.steps or preset.steps
        _require(
            half_size < steps,
            f"--half-size {half_size} must be less than --steps {steps}, so that some steps see whole pictures",
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        values["precision"], values["accumulate"] = self.precision_or_auto, self.accumulate or 1
        values["provider_options"] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in self.provider_options.items()
        }
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    def changes(self, earlier: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[list[Change], list[Change]]:
        """What differs in a run that resumes another: what may not, and what was asked for and may (TOLD_ON_RESUME).

        earlier, recipe: `to_dict` of the other one and of its recipe. What the recipe says is compared there alone, so
        that a preset that was edited in between is noticed and spelling out a default is not.
        """
        now, recipe_now = self.to_dict(), self.recipe().to_dict()
        recipe = {"optimizer": "adamw", "half_size": 0, **recipe}  # what there was alone, once
        pairs = [
            (entry.name, earlier.get(entry.name), now[entry.name])
            for entry in fields(self)
            if entry.name not in FREE_ON_RESUME and entry.name not in recipe_now
        ]
        pairs += [(name, value, recipe_now.get(name)) for name, value in recipe.items()]
        refused: list[Change] = []
        told: list[Change] = []
        for name, before, after in pairs:
            if before != after:
                asked = name in TOLD_ON_RESUME and getattr(self, name) is not None
                (told if asked else refused).append(Change(_option(name), before, after))
        return refused, told


@dataclass(frozen=True)
class Change:
    """An option whose value is another one than it was when the run began."""

    option: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.option} (was {self.was}, now {self.now})"


@dataclass(frozen=True)
class Recipe:
    """How the weights are optimised: no value is left open."""

    batch_size: int
    accumulate: int
    optimizer: str
    lr: float
    lr_schedule: str
    warmup: int
    betas: tuple[float, float]
    weight_decay: float
    clip: float
    ema: float
    standardise: bool
    h_lr: float
    half_size: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def of(cls, preset: Preset) -> Recipe:
        """The preset's own."""
        return cls(
            preset.batch_size, 1, preset.optimizer, preset.lr, preset.lr_schedule, preset.warmup, preset.betas,
            preset.weight_decay, preset.clip, preset.ema_decay, preset.standardise, preset.h_lr, 0,
        )  # fmt: skip


def step_told(run: Path) -> int:
    """The step that config.json in `run` speaks of. Raises OSError, ValueError and KeyError where it does not."""
    return int(json.loads((run / "config.json").read_text(encoding="utf-8"))["step"])


def stopped(config: TrainConfig, run: Path) -> bool:
    """Whether the bundle in `run` is one of a training that Ctrl-C ended before its time."""
    done = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return not config.complete(done.get("arguments")).reached(done["step"], done["seconds"])


def default_held_out(count: int) -> int:
    """How many of `count` pictures are held out when nothing else is asked for."""
    return min(HELD_OUT_MOST, round(HELD_OUT_SHARE * count))


def learning_rate(recipe: Recipe, step: int, steps: int | None) -> float:
    """lr of the step that comes after `step` finished ones: linear warm-up, then constant or half a cosine to zero.

    The cosine begins with the first whole pictures: what halved ones taught is rough, and large steps are still needed
    at the size that counts.
    """
    warm = min(1.0, (step + 1) / (recipe.warmup + 1))
    if recipe.lr_schedule == "constant" or steps is None:
        return recipe.lr * warm
    begin = max(recipe.warmup, recipe.half_size)
    done = min(max(step - begin, 0) / max(steps - begin, 1), 1.0)
    return recipe.lr * warm * 0.5 * (1 + math.cos(math.pi * done))


def _absolute(path: str) -> str:
    # Links are kept: one to the data set of the day is to be followed anew each time.
    return os.path.abspath(os.path.expanduser(path))


def _option(name: str) -> str:
    return "--provider-option" if name == "provider_options" else "--" + name.replace("_", "-")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RCDMError(f"{otherwise}.")


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    _require(value is None or value in allowed, f"{option} {value} is not known; expected {', '.join(allowed)}")
