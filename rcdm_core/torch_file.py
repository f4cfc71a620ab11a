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
from pathlib import Path
from typing import Any

import torch

# Everything that a pickle may really get: containers, and what puts a tensor together from its storage.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
_ALLOWED |= {("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class Placeholder:
    """Stands for an object that is not wanted: takes everything that unpickling does to one, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> Placeholder:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> Placeholder:
        return Placeholder()

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass

    def _ignore(self, *_: object) -> None:
        pass

    append = extend = add = update = _ignore


class _Unpickler(pickle.Unpickler):
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

    Raises whatever torch raises for a file that is not one, and pickle.UnpicklingError for a broken pickle.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as refused:
        try:
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_INERT_PICKLE)
        except Exception as error:
            # Not a torch file at all, or one whose tensors need code to be rebuilt: the first answer says more.
            raise refused from error
