"""Several checkpoints of one architecture: an RCDM for each, in turn (figures 34 and 35 of the paper)."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rcdm_core.errors import RCDMError
from rcdm_core.naming import free_name, same_folder
from rcdm_core.progress import Reporter
from rcdm_core.registry import find_provider
from rcdm_core.training.config import TrainConfig, stopped
from rcdm_core.training.loop import train, train_or_stop
from rcdm_core.training.setup import default_run_folder, refuse_folder, refuse_foreign, refuse_place
from rcdm_core.weights import resolve_weights
from rcdm_core.weights_given import expand_weights, is_pattern, is_url, name_weights


def each_checkpoint(config: TrainConfig, weights: Sequence[str]) -> list[TrainConfig]:
    """One run for each checkpoint that `weights` (paths, URLs, patterns) names, with a label of its own.

    A run's label is that of its provider with the checkpoint's name behind it, and its folder is called so, in
    `config.out` (None: runs). A checkpoint that was trained there keeps its name, whatever is given beside it. One path
    or URL alone is the run that `config` describes, with these weights.

    Raises RCDMError for a pattern that matches nothing, a file that is missing, and a run that is there already and is
    not to be resumed: all of that before the first training.
    """
    if not weights:
        return [config]
    if len(weights) == 1 and not is_pattern(weights[0]):
        return [replace(config, weights=weights[0])]
    if config.label is not None:
        raise RCDMError("--label names one representation, but there are several --weights, which name themselves")
    files = expand_weights(weights)
    for file in files:
        if not is_url(file):
            resolve_weights(file, None, provider=config.provider)
    own = default_run_folder(find_provider(config.provider).name)
    folder = own.parent if config.out is None else Path(config.out)
    labels = _labels(own.name, folder, files)
    configs = [
        replace(config, weights=file, label=label, out=folder / default_run_folder(label).name)
        for file, label in zip(files, labels, strict=True)
    ]
    for one in configs:
        refuse_foreign(Path(str(one.out)))
        refuse_place(one, Path(str(one.out)))
        refuse_folder(one, Path(str(one.out)))
    return configs


def _labels(name: str, folder: Path, files: Sequence[str]) -> list[str]:
    """Of each checkpoint. Names tell those apart that are given together: with others, one could get another name, and
    be trained again. So a checkpoint with a model in `folder` keeps the name of that, and others stay clear of it."""
    known: dict[str, str] = {}
    for config in sorted(folder.glob(f"{glob.escape(name)}-*/config.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # of something else
            record = json.loads(config.read_text(encoding="utf-8"))["provider"]
            if default_run_folder(record["label"]).name == config.parent.name:
                known[_place(record["weights"])] = record["label"]
    asked = [_place(file) for file in files]
    names = name_weights([*files, *(place for place in known if place not in asked)])
    taken = {same_folder(label) for label in known.values()}
    labels = []
    for place, new in zip(asked, names, strict=False):
        labels.append(known.get(place) or free_name(f"{name}-{new}", taken))
        taken.add(same_folder(labels[-1]))
    return labels


def _place(weights: str) -> str:
    return weights if is_url(weights) else os.path.realpath(os.path.expanduser(weights))


def train_each(configs: Sequence[TrainConfig], progress: Reporter | None = None) -> list[Path]:
    """`train` for each of them in turn; returns the folders of their bundles.

    One that fails does not keep the later ones from being trained: the others are finished first. Ctrl-C ends the
    series; the last folder is then that of the run that was stopped, or that had just been finished.

    Raises RCDMError at the end when some have failed, with the reasons and what is done.
    """
    if len(configs) == 1:
        return [train(configs[0], progress)]
    reporter = progress or Reporter()
    done: list[Path] = []
    failed: dict[str, list[str]] = {}  # the sentence -> the labels
    reporter.log(f"{len(configs)} checkpoints, a model for each: {', '.join(str(one.label) for one in configs)}.")
    for number, config in enumerate(configs, 1):
        reporter.log(f"{number} of {len(configs)}: {config.label}, from {config.weights}.")
        try:
            path, asked = train_or_stop(config, reporter)
            done.append(path)
        except RCDMError as error:
            reporter.finish()
            reporter.log(f"{config.label} failed: {str(error).rstrip('.')}.")
            failed.setdefault(str(error).rstrip("."), []).append(str(config.label))
            continue
        except BaseException:
            reporter.log(f"{config.label} was not finished; {_state_of(done)}; --resume goes on.")
            raise
        short = stopped(config, done[-1])
        if asked or short:
            left = ", ".join(str(one.label) for one in configs[number:])
            if left:
                state = _state_of(done[:-1] if short else done)
                reporter.log(f"Not begun: {left}; {state}; the same command with --resume goes on.")
            break
    if failed:
        reasons = "; ".join(f"{', '.join(labels)} failed: {sentence}" for sentence, labels in failed.items())
        raise RCDMError(f"{reasons}; {_state_of(done)}; the same command with --resume tries the rest again")
    return done


def _state_of(done: Sequence[Path]) -> str:
    return f"trained so far: {', '.join(map(str, done))}" if done else "no other model is trained yet"
