"""From the arguments of a run to what the loop needs: encoder, data, split, statistics of h."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcdm_core.atomic import explain_failures, make_folder, replace_text
from rcdm_core.bundle import FILE_NAME, DataRecord, id_prefix
from rcdm_core.data.folder import require_folder
from rcdm_core.data.shapes import is_shapes, open_data
from rcdm_core.data.source import ImageSource, data_fingerprint, split
from rcdm_core.encoder import Encoder, Fingerprint, compare_fingerprints, fingerprint, load_encoder, source_change
from rcdm_core.errors import RCDMError
from rcdm_core.naming import as_folder
from rcdm_core.out_folder import refuse_among_pictures
from rcdm_core.presets import PRESETS
from rcdm_core.progress import Reporter
from rcdm_core.provider import Provider
from rcdm_core.provider_record import ProviderRecord, reading_change, record_of
from rcdm_core.registry import find_provider
from rcdm_core.representations.cached import cache_folder
from rcdm_core.representations.file import Representations
from rcdm_core.training.config import Change, TrainConfig, default_held_out, learning_rate
from rcdm_core.training.dataset import Dataset, prepare
from rcdm_core.training.representations import check_for_training, statistics
from rcdm_core.training.state import SavedState, find_state, is_run, locked

_SHOWN = 20  # unreadable pictures; all of them are in skipped.txt


@dataclass(frozen=True)
class Setup:
    """What a run works with. train_rows, held_out_rows: rows of `dataset`, readable ones only."""

    run: Path
    conditioning: str
    dataset: Dataset
    train_rows: np.ndarray
    held_out_rows: np.ndarray
    h_mean: Tensor
    h_std: Tensor
    fingerprint: Fingerprint
    provider: ProviderRecord
    data: DataRecord
    train_ids: Tensor
    representations: dict[str, Any] | None      # the file that the user gave
    saved: SavedState | None
    identity: dict[str, Any]

    def encoder_tensors(self) -> dict[str, Tensor]:
        """What a saved state keeps of the encoder."""
        return {"h_mean": self.h_mean, "h_std": self.h_std, "fingerprint.h": self.fingerprint.h}


@contextlib.contextmanager
def claimed(config: TrainConfig) -> Iterator[None]:
    """Keep other trainings out of the run's folder, which is created, for as long as the block lasts.

    Raises RCDMError when another one is in there, or the folder cannot be used for this run.
    """
    run = _run_path(config, find_provider(config.provider))
    # Before anything is written there.
    refuse_foreign(run)
    refuse_place(config, run)
    refuse_folder(config, run)
    make_folder(run / "training")
    with locked(run):
        yield


def refuse_place(config: TrainConfig, run: Path) -> None:
    """Raises RCDMError for a run among its own pictures, or a new one whose folder of them is not there."""
    data = None if config.data is None else os.path.expanduser(config.data)  # told as it was given otherwise
    if not is_shapes(data):
        if not run.exists():  # that it goes on with other arguments is said before what is wrong with these
            require_folder(Path(str(data)))
        refuse_among_pictures(run, sets=[{"kind": "folder", "path": str(data)}])


def set_up(config: TrainConfig, device: torch.device, reporter: Reporter) -> Setup:
    """Everything up to the first step. Raises RCDMError for anything that is wrong with the arguments or the data."""
    provider = find_provider(config.provider)
    options = provider.complete_options(config.provider_options)
    run = _run_folder(config, provider)
    saved = find_state(run)
    if saved is not None:
        _refuse_changes(config, provider, saved)
    source = open_data(config.data, fit=config.fit, keep_duplicates=config.keep_duplicates)
    _split(config, source.ids)  # which fails here rather than when everything has been read
    # Before the encoder is loaded: a name that is misspelt should not take a minute to be found.
    given = None if config.representations is None else Representations(config.representations)
    encoder = load_encoder(provider, weights=config.weights, device=device, options=options)
    mark = fingerprint(encoder)
    conditioning = _conditioning(config, encoder)
    if given is not None:
        given.check(mark, fit=config.fit, interpolation=encoder.interpolation, whose=f"--provider {config.provider}")
        check_for_training(given, flip=config.flip)
        if (remark := given.remark()) is not None:
            reporter.log(remark)
    record = record_of(config.provider, provider, config.weights, options, encoder, mark, config.label)
    dataset = prepare(
        source,
        encoder,
        mark,
        provider=record,
        fit=config.fit,
        image_size=int(PRESETS[config.preset].unet["image_size"]),
        flip=config.flip,
        cache=cache_folder(config.cache),
        pixel_limit=config.pixel_cache_limit,
        device=device,
        reporter=reporter,
        given=given,
    )
    list_skipped(run, source)
    train_rows, held_out_rows = _rows_of_split(config, source, dataset, saved)
    ids = source.ids
    identity = {
        "arguments": {**config.to_dict(), "provider": provider.name},
        "recipe": config.recipe().to_dict(),
        "changes": _history(config, saved),
        "architecture": _architecture(config, conditioning, encoder.dim),
        "data": data_fingerprint(ids[int(dataset.order[row])] for row in train_rows),
        "weights_digest": mark.weights_digest,
        "source_digest": provider.source_digest(),
        "reading": [encoder.image_size, encoder.interpolation],
        "h_precision": dataset.h.file.about.precision,
    }
    if saved is not None:
        h_mean, h_std = _continue_with(saved, identity, mark, provider)
    elif PRESETS[config.preset].standardise if config.standardise is None else config.standardise:
        h_mean, h_std = statistics(dataset.h, train_rows)
    else:
        h_mean, h_std = torch.zeros(encoder.dim), torch.ones(encoder.dim)
    return Setup(
        run=run,
        conditioning=conditioning,
        dataset=dataset,
        train_rows=train_rows,
        held_out_rows=held_out_rows,
        h_mean=h_mean,
        h_std=h_std,
        fingerprint=mark,
        provider=record,
        data=DataRecord(
            description=source.describe(),
            fit=config.fit,
            fingerprint=data_fingerprint(ids),
            train_count=len(train_rows),
            held_out=tuple(ids[int(dataset.order[row])] for row in held_out_rows),
        ),
        train_ids=_train_ids(source, dataset, train_rows),
        representations=None if given is None else given.record(),
        saved=saved,
        identity=identity,
    )


def _split(config: TrainConfig, ids: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places in `ids` of what is trained on and of what is held out. Raises RCDMError as `split`."""
    held_out = default_held_out(len(set(ids))) if config.held_out is None else config.held_out
    return split(ids, held_out)


def _rows_of_split(
    config: TrainConfig, source: ImageSource, dataset: Dataset, saved: SavedState | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the dataset to train on and to hold out, readable ones only: of these as many are held out as asked for.

    Earlier versions held out so many of all files, and had less where some could not be read. A run that was begun so
    goes on so: the training set that it recorded tells.
    """
    ids = [source.ids[int(index)] for index in dataset.order]
    readable = np.flatnonzero(dataset.readable)
    training, held = (readable[part] for part in _split(config, [ids[row] for row in readable]))
    if saved is not None and saved.identity["data"] != data_fingerprint(ids[row] for row in training):
        parts = (np.array(part, np.int64) for part in _split(config, ids))
        before, held_before = (part[dataset.readable[part]] for part in parts)
        if saved.identity["data"] == data_fingerprint(ids[row] for row in before):
            return before, held_before
    return training, held


def completed(config: TrainConfig) -> TrainConfig:
    """`config` with an end and absolute paths; on resume, the end is the one that the run had."""
    saved = None
    if config.resume:
        saved = find_state(_run_path(config, find_provider(config.provider)))
    return config.complete(None if saved is None else saved.identity["arguments"])


def remarks(asked: TrainConfig, config: TrainConfig, saved: SavedState | None) -> list[str]:
    """What the user should know about a run's beginning, what a resume changes, and length and learning rate, as lines.

    asked, config: before and after `completed`.
    """
    lines = []
    if saved is None and config.resume:
        run = _run_path(config, find_provider(config.provider))
        lines.append(f"There is nothing to go on with in {run} yet: starting at step 0.")
    if saved is None and asked.steps is None and config.steps is not None:
        lines.append(
            f"Training for the {config.steps} steps of preset {config.preset}; --steps or --minutes shorten that."
        )
    if saved is not None:
        for change in _changes(config, saved)[1]:
            line = f"Going on after step {saved.counters.step} with {change.option} {change.now}, before {change.was}"
            order = "; the pictures come in another order from here" if change.option == "--batch-size" else ""
            lines.append(f"{line}{order}.")
    if config.minutes_alone and config.lr_schedule is None and PRESETS[config.preset].lr_schedule != "constant":
        lines.append("The learning rate stays constant with --minutes alone; --steps lets it decay to zero.")
    if saved is not None and config.steps is not None:
        before = saved.identity["arguments"]["steps"]
        step, recipe = saved.counters.step, config.recipe()
        was, now = (learning_rate(recipe, step, steps) for steps in (before, config.steps))
        if before != config.steps and now > was:
            lines.append(
                f"The learning rate rises again, from {was:.3g} to {now:.3g}: it was to reach zero at step {before}, "
                f"and does so at step {config.steps} now."
            )
    return lines


def default_run_folder(provider: str) -> Path:
    """runs/PROVIDER, with what does not belong into a folder's name replaced."""
    return Path("runs") / as_folder(provider.rsplit("/", 1)[-1])


def _run_path(config: TrainConfig, provider: Provider) -> Path:
    return Path(config.out) if config.out is not None else default_run_folder(provider.name)


def _run_folder(config: TrainConfig, provider: Provider) -> Path:
    run = _run_path(config, provider)
    refuse_folder(config, run)
    folder = make_folder(run / "training")
    # Fails now rather than after an hour: a folder can exist and still not be writable.
    with explain_failures(folder), tempfile.TemporaryFile(dir=folder):
        pass
    return run


def refuse_folder(config: TrainConfig, run: Path) -> None:
    """Raises RCDMError when there is a training in `run` already, and `config` does not go on with it."""
    resumable = find_state(run) is not None
    if (resumable or (run / FILE_NAME).exists()) and not config.resume:
        raise RCDMError(f"{run} already holds a training; go on with it by --resume, or choose another --out.")
    if config.resume and (run / FILE_NAME).exists() and not resumable:
        raise RCDMError(
            f"{run} holds a trained model, but not what --resume goes on from (its folder training/); put that back, "
            "or choose another --out."
        )


def refuse_foreign(run: Path) -> None:
    """Raises RCDMError when `run` holds files and no training, which could overwrite them. Hidden ones do not count."""
    if is_run(run) or not run.is_dir():
        return
    with explain_failures(run):
        files = sorted(path.name for path in run.iterdir() if not path.name.startswith("."))
    if files:
        raise RCDMError(
            f"{run} is not empty and holds no training ({files[0]} is in there): its files could be overwritten, so "
            "choose another --out."
        )


def _refuse_changes(config: TrainConfig, provider: Provider, saved: SavedState) -> None:
    earlier = saved.identity["arguments"]
    changes = _changes(config, saved)[0]
    if earlier["provider"] not in (config.provider, provider.name):
        changes.insert(0, Change("--provider", earlier["provider"], config.provider))
    if changes:
        raise RCDMError(
            f"{saved.folder.parent.parent} was started with other arguments: {', '.join(map(str, changes))}; "
            "resume it with the same ones, or choose another --out."
        )


def _changes(config: TrainConfig, saved: SavedState) -> tuple[list[Change], list[Change]]:
    return config.changes(saved.identity["arguments"], saved.identity.get("recipe", {}))


def _history(config: TrainConfig, saved: SavedState | None) -> list[dict[str, Any]]:
    """What this and earlier resumes have changed, and after which step, for JSON."""
    if saved is None:
        return []
    new = [{"step": saved.counters.step, **asdict(change)} for change in _changes(config, saved)[1]]
    return [*saved.identity.get("changes", []), *new]


def _continue_with(
    saved: SavedState, identity: Mapping[str, Any], now: Fingerprint, provider: Provider
) -> tuple[Tensor, Tensor]:
    """The statistics of the run that is resumed, if data and encoder are still the same."""
    run = saved.folder.parent.parent
    if saved.identity["data"] != identity["data"]:
        raise RCDMError(f"The images of {run} have changed since it began; restore them, or choose another --out.")
    settings, before_that = identity["architecture"], saved.identity.get("architecture", identity["architecture"])
    changed = [
        f"{name} (was {before_that.get(name)}, now {value})"
        for name, value in settings.items()
        if before_that.get(name) != value
    ]
    if changed:
        raise RCDMError(
            f"The preset {identity['arguments']['preset']} has changed since {run} began: {', '.join(changed)}; go on "
            "with the rcdm that began it, or choose another --out."
        )
    precision = saved.identity.get("h_precision", "float32")
    if precision != identity["h_precision"]:
        raise RCDMError(
            f"{run} was started with representations in {precision}, and these are in {identity['h_precision']}; give "
            "the same file with --representations, or choose another --out."
        )
    tensors = saved.encoder()
    before = Fingerprint(saved.identity["weights_digest"], tensors["fingerprint.h"])
    reading = saved.identity.get("reading", identity["reading"])
    difference = compare_fingerprints(before, now) or reading_change(reading, identity["reading"])
    if difference is not None:
        edited = source_change(provider, saved.identity.get("source_digest"))
        raise RCDMError(
            f"The encoder of {run} has changed since it was started: {edited}{difference}; choose another --out."
        )
    return tensors["h_mean"], tensors["h_std"]


def _architecture(config: TrainConfig, conditioning: str, h_dim: int) -> dict[str, Any]:
    """All settings of the network and of its diffusion, as JSON has them."""
    preset = PRESETS[config.preset]
    settings = preset.unet_config(conditioning, h_dim=h_dim).to_dict() | asdict(preset.diffusion)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _conditioning(config: TrainConfig, encoder: Encoder) -> str:
    if config.conditioning is None:
        return "batchnorm" if encoder.dim else "none"
    if (config.conditioning == "none") != (encoder.dim == 0):
        raise RCDMError(
            f"--conditioning {config.conditioning} does not go with --provider {config.provider}, whose h has "
            f"{encoder.dim} dimensions; conditioning none belongs to provider none, and only to it."
        )
    return config.conditioning


def list_skipped(run: Path, source: ImageSource) -> list[str]:
    """Write which pictures cannot be read, and why, to skipped.txt; returns the lines to tell the user."""
    lines = [f"{name}: {reason}".replace("\n", "\\n") for name, reason in source.skipped]
    if not lines:
        return []
    replace_text(run / "skipped.txt", "\n".join(lines) + "\n")
    shown = [*lines[:_SHOWN], f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else lines
    return [
        f"Skipped {len(lines)} pictures that cannot be read ({run / 'skipped.txt'}):",
        *(f"  {line}" for line in shown),
    ]


def _train_ids(source: ImageSource, dataset: Dataset, rows: np.ndarray) -> Tensor:
    return torch.tensor(sorted({id_prefix(source.ids[int(dataset.order[row])]) for row in rows}), dtype=torch.int64)
