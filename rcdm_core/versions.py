"""Which versions a result was made with."""

from __future__ import annotations

import platform
from importlib import metadata

import rcdm_core

PACKAGES = (
    *("torch", "numpy", "scipy", "scikit-learn", "pillow", "safetensors"),
    *("timm", "torchvision", "torch-fidelity"),
)


def versions() -> dict[str, str]:
    """Of everything that a number can depend on; packages that are not installed are left out."""
    found = {"rcdm": rcdm_core.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
