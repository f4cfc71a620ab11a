"""What resuming needs, on disk: complete before a small pointer file names it, so a reader never sees half of one.

    RUN/training/latest               the name of the folder to resume from
    RUN/training/state-00000500/      weights, ema, optimizer and encoder (safetensors), state.json
    RUN/training/lock                 held by the process that trains; empty, and of no meaning when nobody holds it

The older state is removed only after the pointer has moved. A crash at any moment leaves a whole state behind.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rcdm_core.atomic import create_folder, replace_text
from rcdm_core.bundle import FILE_NAME
from rcdm_core.errors import RCDMError
from rcdm_core.locks import holding
from rcdm_core.training.ema import EMA

_FORMAT = 1
_POINTER = "latest"
_LOCK = "lock"
_IDENTITY = {"arguments", "data", "weights_digest"}  # what a saved one cannot do without


@dataclass
class Counters:
    """How far a training is.

    seconds is its time in all; log_bytes is the length of log.jsonl when the state was saved, skipped the steps that
    were left out because the loss or the gradient was not finite, in_a_row how many of them came last.
    """

    step: int = 0
    images_seen: int = 0
    skipped: int = 0
    in_a_row: int = 0
    seconds: float = 0.0
    log_bytes: int = 0


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep other trainings out of `run`, whose folder training/ exists, until the block is left or the process ends.

    Where there are no such locks (Windows, some network file systems) nothing is kept out. Raises RCDMError when
    another training is in there.
    """
    refusal = f"{run} is being trained by another process; wait for it, or choose another --out."
    with holding(run / "training" / _LOCK, refusal):
        yield


@dataclass(frozen=True)
class SavedState:
    """A state found on disk; the tensors are read when they are needed.

    identity says what the state belongs to: the run's arguments, its recipe, its data and the encoder's weights.
    """

    folder: Path
    counters: Counters
    identity: dict[str, Any]

    def encoder(self) -> dict[str, Tensor]:
        """What the run knows of its encoder: h_mean, h_std [dim] and fingerprint.h. Raises RCDMError as `restore`."""
        with self._explained():
            return load_file(self.folder / "encoder.safetensors")

    def restore(self, network: nn.Module, ema: EMA, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Bring the three to where they were. Raises RCDMError when a file is damaged or of another architecture."""
        with self._explained():
            network.load_state_dict(load_file(self.folder / "weights.safetensors"))
            ema.load(load_file(self.folder / "ema.safetensors"))
            by_parameter = _by_parameter(network, load_file(self.folder / "optimizer.safetensors"))
            for optimizer in optimizers:
                _restore_optimizer(optimizer, network, by_parameter)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise RCDMError(
                f"The saved state {self.folder} cannot be read ({type(error).__name__}); start anew with another --out."
            ) from error


def save_state(
    run: Path,
    network: nn.Module,
    ema: EMA,
    optimizers: Sequence[torch.optim.Optimizer],
    counters: Counters,
    identity: Mapping[str, Any],
    encoder: Mapping[str, Tensor],
) -> Path:
    """Write a state under `run`/training, point to it, then remove the older ones.

    Raises RCDMError when the disk is full or not writable; the older state is then still in place.
    """
    root = run / "training"
    name = f"state-{counters.step:08d}"

    def fill(folder: Path) -> None:
        save_file(_contiguous(network.state_dict()), folder / "weights.safetensors")
        save_file(_contiguous(ema.state()), folder / "ema.safetensors")
        save_file(_optimizer_tensors(optimizers, network), folder / "optimizer.safetensors")
        save_file(_contiguous(encoder), folder / "encoder.safetensors")
        text = json.dumps({"format": _FORMAT, "counters": asdict(counters), "identity": identity}, indent=1)
        (folder / "state.json").write_text(text, encoding="utf-8")

    if pointed_to(run) != name:
        create_folder(root / name, fill)
        replace_text(root / _POINTER, name + "\n")
    for folder in root.glob("*state-*"):
        if folder.name != name:
            shutil.rmtree(folder, ignore_errors=True)
    return root / name


def is_run(run: Path) -> bool:
    """Whether a training was begun in the folder `run`, though it may have saved nothing, or left its bundle there."""
    marks = (run / "training" / _LOCK, run / "training" / _POINTER, run / FILE_NAME)
    try:
        return any(mark.exists() for mark in marks)
    except PermissionError as error:
        raise RCDMError(f"{run} cannot be read ({error.strerror}); check who owns it.") from error


def pointed_to(run: Path) -> str | None:
    """Name of the folder to resume from; None when nothing has been saved. RCDMError when it may not be read."""
    pointer = run / "training" / _POINTER
    try:
        return pointer.read_text(encoding="utf-8").strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise RCDMError(f"{pointer} is damaged; start anew with another --out.") from error
    except OSError as error:
        raise RCDMError(f"{pointer} cannot be read ({error.strerror}); check who owns it.") from error


def find_state(run: Path) -> SavedState | None:
    """The state to resume from; None when nothing has been saved yet. Raises RCDMError when it is damaged."""
    name = pointed_to(run)
    if name is None:
        return None
    folder = run / "training" / name
    try:
        values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if values["format"] != _FORMAT:
            raise RCDMError(f"{folder} was saved by another version of rcdm; resume it with that one.")
        found = SavedState(folder, Counters(**values["counters"]), values["identity"])
        if missing := _IDENTITY - set(found.identity):
            raise KeyError(*missing)
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RCDMError(f"The saved state {folder} cannot be read ({error}); start anew with another --out.") from error


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer], network: nn.Module) -> dict[str, Tensor]:
    """What the optimizers keep, as `name of the weight/name of the entry`; a weight has one optimizer."""
    tensors = {}
    for name, parameter in network.named_parameters():
        for optimizer in optimizers:
            for entry, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{name}/{entry}"] = value
    return _contiguous(tensors)


def _by_parameter(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `_optimizer_tensors`: entries by the weight's name."""
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, entry = key.rsplit("/", 1)
        parameter = network.get_parameter(name)
        if value.shape == parameter.shape:
            # The fused optimizer walks through memory: the moments, contiguous in the file, must lie as the weights do.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        by_parameter.setdefault(name, {})[entry] = value.detach()
    return by_parameter


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, network: nn.Module, by_parameter: Mapping[str, dict[str, Tensor]]
) -> None:
    state = optimizer.state_dict()
    name_of = {id(parameter): name for name, parameter in network.named_parameters()}
    names = [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    state["state"] = {index: by_parameter[name] for index, name in enumerate(names) if name in by_parameter}
    optimizer.load_state_dict(state)
