"""Read what `torch.save` wrote, never running what its pickle names.

`weights_only=True` comes first. It refuses files that hold Python objects beside their tensors, as many released
checkpoints do: optimizers, configurations, functions. Of these the tensors are still wanted, so that they are read by
an unpickler which knows how to rebuild tensors, in every form in which torch has written dense ones since 1.0, and puts
an inert placeholder in the place of everything else.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pickle
import re
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


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


class _DType:
    """numpy's dtype in a pickle: its code, such as f4, and the byte order that arrives as its state."""

    def __init__(self, code: object, *_: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def numbers(self) -> np.dtype[Any]:
        """As numpy's own. Raises UnpicklingError for what is not plain numbers, objects above all."""
        plain = isinstance(self.code, str) and re.fullmatch("[iufc][1-9][0-9]?|b1", self.code)
        if not plain or self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it holds an array of {self.code}")
        return np.dtype(f"{self.order}{self.code}")


class _Array:
    """numpy's array in a pickle, in the pieces that arrive as its state."""

    def __init__(self, *_: object) -> None:
        self.pieces: Any = None

    def __setstate__(self, state: Any) -> None:
        self.pieces = state

    def tensor(self) -> Tensor:
        """Raises UnpicklingError for pieces that make no array of numbers."""
        try:
            _, shape, dtype, by_columns, raw = self.pieces
            array = np.frombuffer(raw, dtype.numbers()).reshape(shape, order="F" if by_columns else "C")
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
        except (AttributeError, TypeError, ValueError) as error:
            raise pickle.UnpicklingError("it holds a broken array") from error


# What puts a tensor together. Hooks and Python attributes, which files of training carry along, are not its values.


def _tensor_v2(storage: Any, offset: int, size: Any, stride: Any, grad: bool, _: object, *metadata: Any) -> Tensor:
    rebuild: Callable[..., Tensor] = torch._utils._rebuild_tensor_v2
    return rebuild(storage, offset, size, stride, grad, collections.OrderedDict(), *metadata)


def _tensor_v3(
    storage: Any, offset: int, size: Any, stride: Any, grad: bool, _: object, dtype: torch.dtype, *metadata: Any
) -> Tensor:
    """The numbers of a type that has no storage of its own, such as float8, over bytes."""
    rebuild: Callable[..., Tensor] = torch._utils._rebuild_tensor_v3
    return rebuild(storage, offset, size, stride, grad, collections.OrderedDict(), dtype, *metadata)


def _parameter(data: Tensor, grad: bool, *_: object) -> Tensor:
    return torch.nn.Parameter(data, grad)


def _from_numpy(data: Any, dtype: torch.dtype, *_: object) -> Tensor:
    """What devices without storages of their own (XLA, HPU) wrote; it is read to the CPU."""
    if not isinstance(data, _Array):
        raise pickle.UnpicklingError("it rebuilds a tensor from something else than an array")
    return data.tensor().to(dtype)


def _from_cpu(data: Tensor, dtype: torch.dtype, *_: object) -> Tensor:
    return data.to(dtype)


def _from_type(function: Any, _: object, arguments: Any, *__: object) -> Tensor:
    """A tensor with Python attributes, or of a subclass: the tensor that is in it."""
    if not isinstance(function, _Sealed):
        raise pickle.UnpicklingError("it rebuilds a tensor by a function that is not known")
    tensor: Tensor = function(*arguments)
    return tensor


def _bytes(text: str, encoding: str) -> bytes:
    """How bytes are written by the protocol that torch uses."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


# Everything that a pickle may really get: containers, and what puts a tensor together from its storage.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): _Sealed(torch._utils._rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Sealed(_tensor_v2),
    ("torch._utils", "_rebuild_tensor_v3"): _Sealed(_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): _Sealed(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Sealed(_parameter),
    ("torch._utils", "_rebuild_xla_tensor"): _Sealed(_from_numpy),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): _Sealed(_from_numpy),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _Sealed(_from_cpu),
    ("torch.tensor", "_rebuild_from_type"): _Sealed(_from_type),  # the module's name before torch 1.9
    ("torch._tensor", "_rebuild_from_type"): _Sealed(_from_type),
    ("torch._tensor", "_rebuild_from_type_v2"): _Sealed(_from_type),
    ("numpy", "dtype"): _Sealed(_DType),
    ("numpy.core.multiarray", "_reconstruct"): _Sealed(_Array),
    ("numpy._core.multiarray", "_reconstruct"): _Sealed(_Array),  # since numpy 2
    ("_codecs", "encode"): _Sealed(_bytes),
}
_ALLOWED |= {("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
# Storages of bytes, by their names since torch 1.11. Those with a type torch finds itself, by the end of their names.
_BYTES = {(module, name) for module in ("torch", "torch.storage") for name in ("UntypedStorage", "_UntypedStorage")}


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
        if (module, name) in _BYTES:
            return torch.serialization.StorageType("ByteStorage")  # not the class, whose state could be set
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
    except Exception as refused:  # most are UnpicklingErrors, but tensors of devices that are not here raise anything
        try:
            with _not_forced():
                return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_INERT_PICKLE)
        except Exception as error:
            # Not a torch file at all, or one whose tensors need code to be rebuilt: the first answer says more.
            raise refused from error


@contextlib.contextmanager
def _not_forced() -> Iterator[None]:
    """Without the user's wish that nothing in a pickle be run, which the inert unpickler keeps as well, and for which
    torch would refuse every unpickler but its own."""
    wish = os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD", None)
    try:
        yield
    finally:
        if wish is not None:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = wish
