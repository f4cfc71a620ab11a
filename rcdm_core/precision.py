"""Which device and which number format the network computes in: decided here and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from rcdm_core.errors import RCDMError

PRECISIONS = ("auto", "float32", "bf16")
_DEVICES = ("cpu", "cuda", "mps")


def has_native_bf16(device: torch.device | str) -> bool:
    """True where bfloat16 arithmetic is in the hardware; elsewhere it is emulated, and slower than float32."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Without oneDNN, as in torch for macOS, nothing uses the processor's instructions.
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        named = any(bool(value) for name, value in capabilities.items() if name.endswith("bf16"))
        return named and torch.backends.mkldnn.is_available()
    return False


def resolve_precision(name: str, device: torch.device | str) -> torch.dtype:
    """The number format that `--precision` NAME means on this device: torch.float32 or torch.bfloat16.

    `auto` is bf16 where the hardware has it and float32 elsewhere. Raises RCDMError for any other name.
    """
    if name == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    if name not in PRECISIONS:
        raise RCDMError(f"--precision {name} is not known; expected one of {', '.join(PRECISIONS)}.")
    return torch.bfloat16 if name == "bf16" else torch.float32


@contextlib.contextmanager
def computing_in(dtype: torch.dtype, device: torch.device | str) -> Iterator[None]:
    """Autocast for bfloat16, nothing for float32. The weights stay float32 in both."""
    if dtype == torch.float32:
        yield
    else:
        with torch.autocast(torch.device(device).type, dtype=dtype):
            yield


def resolve_device(name: str) -> torch.device:
    """The torch device that `--device` NAME means; `auto` takes a GPU if there is one.

    Raises RCDMError when the name is unknown or the device is absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RCDMError(f"--device {name} is not known; expected auto, cpu, cuda, cuda:N or mps.") from error
    if device.type not in _DEVICES:  # torch knows many more, which nothing in here was made for
        raise RCDMError(f"--device {name} is not supported; expected auto, cpu, cuda, cuda:N or mps.")
    absent = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if absent:
        raise RCDMError(f"--device {name} is not on this machine; use --device cpu, or auto for what there is.")
    return device
