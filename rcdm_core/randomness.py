"""Random numbers that depend on what they are for, never on what was drawn before them.

Each draw names its parts, such as (seed, stream, k) or (seed, "noise", step, index). A counter-based generator is keyed
with their hash, so neither batch size nor the number of processes, threads or earlier draws can change a value.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def key(*parts: str | int) -> int:
    """128-bit key of the parts. 1 and "1" differ, and so do ("a", "bc") and ("ab", "c")."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:16], "little")


def generator(*parts: str | int) -> np.random.Generator:
    """A fresh generator for the draw that `parts` names."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def torch_seed(*parts: str | int) -> int:
    """A seed for code that can only be seeded through torch (weight initialisation, dropout): 63 bits."""
    return key(*parts) >> 65


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers of `shape`, float32, on the CPU."""
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
