"""Models that torch itself saved: TorchScript (torch.jit.save) and programs of torch.export (torch.export.save)."""

from __future__ import annotations

import contextlib
import logging
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from rcdm_core import RCDMError

from ._network import FileNetwork, Input, Run, reason

_SAVED_BY = {".pt": "torch.jit.save", ".pt2": "torch.export.save"}


class ScriptNetwork(FileNetwork):
    """A TorchScript model. It runs in torch's own interpreter: no Python code comes with it."""

    def __init__(self, path: Path, output: str | None) -> None:
        _check_kind(path)
        super().__init__(path, output, Input(), [path])
        with _readable(path):
            self._on = self._load(torch.device("cpu"))

    def placed(self, device: torch.device) -> Run:
        """Read again for another device, which takes its constants along; `.to` would leave them behind."""
        if self._on[0] != device:
            self._on = self._load(device)
        return self._on[1]

    def _load(self, device: torch.device) -> tuple[torch.device, Run]:
        with _quietly():
            model = torch.jit.load(str(self.path), map_location=device).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.takes = Input(dtype=dtype)
        return device, model  # in a tuple: as a submodule it would be moved by halves


class ExportedNetwork(FileNetwork):
    """A program of torch.export. Loading one may unpickle objects and evaluates expressions: it is to be trusted."""

    def __init__(self, path: Path, output: str | None) -> None:
        _check_kind(path)
        with _readable(path):
            program = torch.export.load(str(path))
        value = _input_of(path, program)
        super().__init__(path, output, _takes(path, program, value), [path])
        _refuse_training_mode(path, program)
        self._program = program
        self._on = (value.device, _module(program))

    def placed(self, device: torch.device) -> Run:
        """Its tensors, its constants and the devices that are written into the program are moved together."""
        if self._on[0] != device:
            from torch.export.passes import move_to_device_pass

            self._on = (device, _module(move_to_device_pass(self._program, str(device))))
        return self._on[1]


def _module(program: torch.export.ExportedProgram) -> torch.nn.Module:
    with _quietly():  # torch 2.6 warns of buffers that it finds a moment later
        return program.module().requires_grad_(False)


def _check_kind(path: Path) -> None:
    """Raises RCDMError for a file that is not what its ending says, or whose checksums do not fit."""
    expected = _SAVED_BY[path.suffix.lower()]
    found = _saved_by(path)
    if found == "torch.save":
        raise RCDMError(
            f"{path} holds weights, not a model: write a function that builds the network, as in "
            f"custom:FILE.py:function, and give it this file with --weights"
        )
    if found in _SAVED_BY.values() and found != expected:
        ending = next(ending for ending, by in _SAVED_BY.items() if by == found)
        raise RCDMError(f"{path} was written by {found}: let its name end in {ending}")
    if found != expected:
        raise RCDMError(f"{path} is {found}, expected a model that {expected} wrote; save it again, or copy it again")


def _saved_by(path: Path) -> str:
    """The function that wrote a file, or what else it is."""
    with path.open("rb") as file:
        start = file.read(2)
    if not zipfile.is_zipfile(path):
        # Before its archives, torch.save wrote plain pickles; an archive that is cut has lost its table of contents.
        return {b"\x80\x02": "torch.save", b"PK": "cut short or damaged"}.get(start, "no model file at all")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # torch itself does not look at the checksums, and would take changed weights as they are.
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        return "damaged"
    inner = {name.partition("/")[2] for name in names}
    if damaged is not None:
        return f"damaged (in {damaged})"
    if "constants.pkl" in inner:
        return "torch.jit.save"
    if "serialized_exported_program.json" in names or any(name.startswith("models/") for name in inner):
        return "torch.export.save"
    if any(name.startswith("data/aotinductor/") for name in inner):
        return "compiled for one machine by AOTInductor"
    return "torch.save" if "data.pkl" in inner else "an archive of something else"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    log = logging.getLogger("torch.export")  # logs whole tracebacks of what it then raises
    was, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, which is for those who save it to know
            yield
    finally:
        log.disabled = was


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises RCDMError where torch cannot read the file in there."""
    try:
        with _quietly():
            yield
    except Exception as error:
        by = _SAVED_BY[path.suffix.lower()]
        raise RCDMError(
            f"{path} cannot be read ({reason(error)}): save it again with {by} of torch {torch.__version__} or earlier"
        ) from error


def _input_of(path: Path, program: torch.export.ExportedProgram) -> torch.Tensor:
    """What stands for the pictures in a program. Raises RCDMError where it takes other things too."""
    names = program.graph_signature.user_inputs
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    value = values.get(str(names[0])) if len(names) == 1 else None
    if not isinstance(value, torch.Tensor):
        raise RCDMError(f"{path} takes {len(names)} arguments, expected one, the pictures: export it for those alone")
    return value


def _takes(path: Path, program: torch.export.ExportedProgram, value: torch.Tensor) -> Input:
    takes = Input.of_shape(path, [side if isinstance(side, int) else None for side in value.shape], value.dtype)
    node = getattr(value.shape[0], "node", None)  # of a size that is not fixed
    limits = program.range_constraints.get(node.expr) if node is not None else None
    if limits is None:
        return takes
    least, most = (int(end) if getattr(end, "is_Integer", False) else None for end in (limits.lower, limits.upper))
    return replace(takes, least=max(least or 1, 1), most=most)


def _refuse_training_mode(path: Path, program: torch.export.ExportedProgram) -> None:
    """Where its batch norm and dropout are those of training, which the program cannot undo, h depends on chance."""
    place = {torch.ops.aten.batch_norm.default: 5, torch.ops.aten.dropout.default: 2}
    for node in program.graph.nodes:
        number = place.get(node.target)
        if number is not None and len(node.args) > number and node.args[number] is True:
            raise RCDMError(f"{path} was exported in training mode: call eval() of the model, and export it again")
