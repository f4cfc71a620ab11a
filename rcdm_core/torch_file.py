"""Read what `torch.save` wrote, never running what its pickle names.

`weights_only=True` comes first. It refuses files that hold Python objects beside their tensors, as many released
checkpoints do: optimizers, configurations, functions. Of these the tensors are still wanted, so that they are read by
an unpickler which knows how to rebuild tensors and puts an inert placeholder in the place of everything else.
"""

from __future__ import annotations

import argparse
import collections
import pickle
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class _Sealed:
    """A function of torch's in a pickle's hands: it can be called, but not be given another state."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"it sets {name} of a function")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it sets the state of a function")


# Everything that a pickle may really get: containers, and what puts a tensor together from its storage.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): _Sealed(torch._utils._rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Sealed(torch._utils._rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): _Sealed(torch._utils._rebuild_parameter),
}
_ALLOWED |= {("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class Placeholder(dict[Any, Any]):
    """Stands for an object that is not wanted: takes everything that unpickling does to one, and does nothing.

    It keeps items, because many configurations and some state dicts are subclasses of dict.
    """

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __new__(cls, *_: object, **__: object) -> Placeholder:
        return dict.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __call__(self, *_: object, **__: object) -> Placeholder:
        return Placeholder()

    def __setstate__(self, _: object) -> None:
        pass

    def _ignore(self, *_: object) -> None:
        pass

    append = extend = add = _ignore


def _storages_alone(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """torch's reader of persistent ids without the ones that look a module's source up, and write patches of it."""

    def persistent_load(saved_id: Any) -> Any:
        if not (isinstance(saved_id, tuple) and saved_id and saved_id[0] in ("storage", b"storage")):
            raise pickle.UnpicklingError("it refers to something else than a tensor's storage")
        return load(saved_id)

    return persistent_load


class _Unpickler(pickle.Unpickler):
    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _storages_alone(value) if name == "persistent_load" else value)

    def find_class(self, module: str, name: str) -> Any:
        """Nothing is imported. A class of its own for each name: pickles make instances of them, and subclasses."""
        known = _ALLOWED.get((module, name))
        return known if known is not None else type(name.rpartition(".")[2] or "_", (Placeholder,), {})


def _load(file: Any, **arguments: Any) -> Any:
    return _Unpickler(file, **arguments).load()


# What torch.load asks of a `pickle_module`, for its archives and for its older files of several pickles in a row.
_INERT_PICKLE = types.SimpleNamespace(__name__="rcdm_inert_pickle", Unpickler=_Unpickler, load=_load)


def read_torch_file(path: str | Path) -> Any:
    """The content of a torch file, tensors on the CPU; objects other than containers, numbers and text are
    Placeholders, or argparse.Namespaces.

    Raises ValueError for a TorchScript archive, which is a program, whatever torch raises for a file that is not its
    own, and pickle.UnpicklingError for a broken pickle.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError("it is a TorchScript archive")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols and changed sources, of no use to a reader of weights
        return _read(path)


def _read(path: str | Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as refused:
        try:
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_INERT_PICKLE)
        except Exception as error:
            # Not a torch file at all, or one whose tensors need code to be rebuilt: the first answer says more.
            raise refused from error
