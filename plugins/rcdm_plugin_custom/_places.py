"""Where the code of a custom provider is: the forms of its name, and the files behind modules. Nothing is imported."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rcdm_core import RCDMError

FORMS = "custom:FILE.py:function, custom:package.module:function or custom:FILE.pt (.pt2, .onnx)"


@dataclass(frozen=True)
class Place:
    """A function, and how to get at it.

    label     the file or module as the user wrote it, for messages
    function  its name
    module    the dotted name to import; None: `file` is run
    folder    what is put on the path while that happens: the file's own folder, or the one that the module is below
    file      the Python file; None for a module that has none, such as one in C
    lasting   the middle of the provider's name that holds in every working directory
    """

    label: str
    function: str
    module: str | None
    folder: Path
    file: Path | None
    lasting: str


def find(name: str, rest: str) -> Place:
    """The place of `rest`, which is the provider's `name` without its prefix.

    Raises RCDMError for a name of another form, and for a file or a module that does not exist.
    """
    source, _, function = rest.rpartition(":")
    if not source or not function.isidentifier():
        raise RCDMError(f"{name!r} should be {FORMS}")
    head, tail = os.path.split(source)
    path = Path(os.path.expanduser(source))
    file: Path | None
    if source.endswith(".py") or (head and (path.is_file() or not _is_dotted(tail))):
        if not path.is_file():
            raise RCDMError(
                f"{source} in {name!r} does not exist in {Path.cwd()}: give the path of the file that defines "
                f"{function}"
            )
        file = Path(os.path.abspath(path))
        return Place(source, function, None, file.resolve().parent, file, str(file))
    if not _is_dotted(tail):
        raise RCDMError(f"{source} in {name!r} is neither a .py file nor the name of a module")
    folder = Path(os.path.abspath(os.path.expanduser(head)))
    found, file = find_module(tail, folder)
    below = file is not None and _root(file, tail) == folder.resolve()
    if not found or (head and file is not None and not below):
        where = f"below {folder}" if head else f"in {folder}, nor is it installed"
        raise RCDMError(
            f"there is no module {tail} {where}: name the folder that it is in, as in custom:FOLDER/{tail}:{function}"
        )
    # A module that is found because of the working directory is found again through its folder alone.
    lasting = str(folder / tail) if head or below else tail
    return Place(source, function, tail, folder, file, lasting)


def find_module(module: str, folder: Path) -> tuple[bool, Path | None]:
    """Whether a dotted module can be imported with `folder` first on the path, and its Python file. No code is run,
    that of its packages included.
    """
    importlib.invalidate_caches()
    top, *inner = module.split(".")
    # First in the folder itself: a module of that name that is loaded already may be another one.
    spec = importlib.machinery.PathFinder.find_spec(top, [str(folder)])
    if spec is None or spec.origin is None:  # a mere folder of that name gives way to a package elsewhere
        with importable(folder):
            try:
                spec = importlib.util.find_spec(top)
            except (ImportError, ValueError):  # it is loaded, and does not say from where
                spec = None
    for part in inner:
        if spec is None or spec.submodule_search_locations is None:
            return False, None
        # By its last name: a nested namespace package would look its parent up among the modules that are loaded.
        spec = importlib.machinery.PathFinder.find_spec(part, list(spec.submodule_search_locations))
    if spec is None:
        return False, None
    if not spec.has_location or spec.origin is None or not spec.origin.endswith(".py"):
        return True, None
    file = Path(os.path.abspath(spec.origin))
    return (True, file) if file.is_file() else (False, None)  # one that is loaded may be gone


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Inside, modules in `folder` are found first, as if a file in there had been run."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _root(file: Path, module: str) -> Path:
    """The folder that a module's dotted name starts from."""
    inner = module.count(".") + (file.name == "__init__.py")
    return file.resolve().parents[inner]
