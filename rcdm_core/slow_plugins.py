"""Whether a plugin keeps the list of providers waiting, and by what: torch alone takes seconds to import."""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType

IMPORTS_TORCH = "imports torch when it is listed: move the import into load"
_SLOW = 1.0  # seconds


def torch_is_loaded() -> bool:
    """In this process, by whomever."""
    return "torch" in sys.modules


def why_slow(plugin: object, had_torch: bool, seconds: float) -> str | None:
    """What is wrong with how a plugin is listed, or None.

    had_torch: whether torch was there before; where an encoder is at work already, or another plugin imported it first,
    the names in the plugin's module still tell. seconds: that listing it took.
    """
    if (torch_is_loaded() and not had_torch) or _holds_torch(plugin):
        return IMPORTS_TORCH
    return f"takes {seconds:.1f} s to be listed: move slow imports into load" if seconds > _SLOW else None


def _holds_torch(plugin: object) -> bool:
    """Whether the plugin's module has torch among its names, something out of it, or something of a module that has."""
    module = plugin if isinstance(plugin, ModuleType) else sys.modules.get(getattr(plugin, "__module__", None) or "")
    if module is None:
        return False
    if _names_torch(module):
        return True
    homes = {_home(value) for value in list(vars(module).values()) if not _is_part(value, module)} - {None}
    return any(_names_torch(sys.modules[home]) for home in homes if home in sys.modules)


def _names_torch(module: ModuleType) -> bool:
    return any((_home(value) or "").partition(".")[0] == "torch" for value in list(vars(module).values()))


def _is_part(value: object, module: ModuleType) -> bool:
    """A package has its inner modules among its names from their import on, which may have been when it did work."""
    return isinstance(value, ModuleType) and value.__name__.startswith(f"{module.__name__}.")


def _home(value: object) -> str | None:
    """The name of the module that a value is, or comes from."""
    with contextlib.suppress(Exception):  # lazy objects import what they stand for, and fail
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        return name if isinstance(name, str) else None
    return None
