"""Import and call a user's function, and say in one sentence what went wrong in there."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from rcdm_core import RCDMError, first_line, resolve_weights

from ._places import Place, importable


def call(name: str, place: Place, weights: str | None, own: Mapping[str, Any]) -> nn.Module:
    """The module that the function returns, given `own` arguments. Raises RCDMError naming the file, and the exception
    if there was one.
    """
    source, function = place.label, place.function
    path = place.file.resolve() if place.file is not None else None
    # The user's other files can be imported too, as if the file had been run, or `python -m` had been typed. What the
    # code prints is no part of the answer of a command (--json).
    with importable(place.folder), contextlib.redirect_stdout(sys.stderr), _own_helpers(place):
        with _explained(source, path):
            module = _import_module(place.module, path) if place.module else _import_file(path)
        build = getattr(module, function, None)
        if not callable(build):
            raise RCDMError(f"{source} defines no function {function}{_functions_of(module)}")
        arguments = _weights_argument(name, source, function, build, weights)
        with _explained(source, path, arguments.get("weights")):
            result = build(**arguments, **own)
    if not isinstance(result, nn.Module):
        raise RCDMError(f"{function} in {source} returns a {type(result).__name__}, expected a torch.nn.Module")
    return result


_INSTALLED = {"site-packages", "dist-packages"}  # folders of an environment


@dataclass(frozen=True)
class _Helper:
    """A module that a user's file imported from beside itself: from which folder, and its file as it was then.

    file is None for a folder without an __init__.py.
    """

    folder: Path
    file: Path | None
    stamp: tuple[int, int] | None

    def is_edited(self) -> bool:
        return self.stamp != _stamp(self.file)


_helpers: dict[str, _Helper] = {}  # by the name of the module


@contextlib.contextmanager
def _own_helpers(place: Place) -> Iterator[None]:
    """Inside, what a user's file imports from beside it is what is there now.

    Not the module of that name that another user's file imported from beside itself, which is put back unless its name
    was taken, nor what it was before an edit. What has not changed is not run again.
    """
    if place.module is not None:  # which is imported once, as Python does
        yield
        return
    loaded = {name: helper for name, helper in _helpers.items() if name in sys.modules}
    edited = {helper.folder for helper in loaded.values() if helper.is_edited()}
    hidden = {
        name: sys.modules.pop(name)
        for name, helper in loaded.items()
        if helper.folder != place.folder or helper.folder in edited
    }
    if hidden:
        importlib.invalidate_caches()
    before = set(sys.modules)
    try:
        yield
    finally:
        imported = set(sys.modules) - before
        taken = {_top(name) for name in imported}
        for name, module in hidden.items():
            if _helpers[name].folder != place.folder and _top(name) not in taken:
                sys.modules[name] = module
        for name in imported:
            _remember(name, place.folder, before, hidden)


def _remember(name: str, folder: Path, before: set[str], hidden: Mapping[str, ModuleType]) -> None:
    """Note a module that was imported just now, if it is from below the folder and no part of what was there before.

    What is installed is not the user's, even where the environment lies in their folder.
    """
    module = sys.modules[name]
    if module is hidden.get(name) or _top(name) in before:
        return
    file = getattr(module, "__file__", None)
    places = [Path(one).resolve() for one in ([file] if file is not None else [*getattr(module, "__path__", ())])]
    if any(one.is_relative_to(folder) and not _INSTALLED & {*one.relative_to(folder).parts} for one in places):
        path = None if file is None else Path(file)
        _helpers[name] = _Helper(folder, path, _stamp(path))


def _top(name: str) -> str:
    return name.partition(".")[0]


def _stamp(file: Path | None) -> tuple[int, int] | None:
    try:
        return None if file is None else ((found := file.stat()).st_mtime_ns, found.st_size)
    except OSError:
        return None


def _import_module(name: str, path: Path | None) -> ModuleType:
    module = importlib.import_module(name)
    if path is not None and module.__file__ is not None and Path(module.__file__).resolve() != path:
        raise RCDMError(f"{name} is loaded already, from {module.__file__} instead of {path}: start Python afresh")
    return module


def _import_file(path: Path | None) -> ModuleType:
    """Run a file afresh, so that one which was edited in between counts as it is now."""
    assert path is not None  # a place without a module is a file
    key = f"rcdm_custom_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(key, path)
    if spec is None or spec.loader is None:
        raise RCDMError(f"{path} is not a Python file: its name should end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # dataclasses and torch.compile look a class's module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module


@contextlib.contextmanager
def _explained(source: str, path: Path | None, weights: str | None = None) -> Iterator[None]:
    """Turn whatever the user's code raises into a sentence with the last line of the file that was running.

    weights: the file that it was given, which is as likely to be what is wrong.
    """
    try:
        yield
    except RCDMError:
        raise
    except (Exception, SystemExit) as error:
        what = first_line(error)
        frames: list[int | None] = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, path)
        ]
        if isinstance(error, SyntaxError) and error.filename and _same(error.filename, path):
            frames, what = [error.lineno], f"{type(error).__name__}: {error.msg}"
        line = f" line {frames[-1]}" if frames and frames[-1] else ""
        given = f" on weights {weights}" if weights is not None else ""
        raise RCDMError(f"{source}{line} fails{given} with {what}; --debug shows where") from error


def _same(filename: str, path: Path | None) -> bool:
    return path is not None and Path(filename).resolve() == path.resolve()


def _functions_of(module: ModuleType) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return f"; it defines {', '.join(own[:5])}" if own else ""


def _weights_argument(
    name: str, source: str, function: str, build: Callable[..., Any], weights: str | None
) -> dict[str, str]:
    """{"weights": path} where the user gave some and the function takes them."""
    parameters: Mapping[str, inspect.Parameter] = {}
    with contextlib.suppress(TypeError, ValueError):  # what is written in C has no signature
        parameters = inspect.signature(build).parameters
    takes = "weights" in parameters or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    if weights is not None:
        if not takes:
            raise RCDMError(
                f"{function} in {source} takes no weights: leave out --weights {weights}, or give {function} a "
                "parameter called weights"
            )
        return {"weights": str(resolve_weights(weights, None, provider=name))}
    if "weights" in parameters and parameters["weights"].default is inspect.Parameter.empty:
        raise RCDMError(f"{function} in {source} needs weights: give a checkpoint file with --weights FILE")
    return {}
