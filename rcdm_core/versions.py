"""Which versions a result was made with."""

from __future__ import annotations

import functools
import platform
from importlib import metadata

import rcdm_core

PACKAGES = (
    *("torch", "numpy", "scipy", "scikit-learn", "pillow", "safetensors"),
    *("timm", "torchvision", "torch-fidelity"),
)


def versions() -> dict[str, str]:
    """Of everything that a number can depend on; packages that are not installed are left out."""
    return dict(_versions())


@functools.cache  # what a process has loaded does not change, and to look takes milliseconds
def _versions() -> dict[str, str]:
    found = {"rcdm": rcdm_core.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
