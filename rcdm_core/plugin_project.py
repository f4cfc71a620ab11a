"""A working third-party plugin to start from: an installable project with one provider and the test of its contract."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from . import __version__
from .atomic import explain_failures, refuse_dangling
from .errors import RCDMError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "rcdm-plugin-{name}"
version = "0.1.0"
description = "The representation {name} for rcdm"
readme = "README.md"
requires-python = ">=3.10"
dependencies = ["rcdm>={rcdm}"]

[project.optional-dependencies]
test = ["pytest>=8"]

# This is how rcdm finds the package, as soon as it is installed.
[project.entry-points.rcdm]
{name} = "{package}"

[tool.hatch.build]
dev-mode-dirs = ["src"]

[tool.hatch.build.targets.wheel]
packages = ["src/{package}"]

# Neither checkpoints nor runs that lie in the folder.
[tool.hatch.build.targets.sdist]
include = ["/src", "/tests"]
"""

_README = """\
# rcdm-plugin-{name}

The representation `{name}` for rcdm.

    pip install rcdm-plugin-{name}
    rcdm providers show {name}
    rcdm train --provider {name} --data DIR

To work on it:

    rcdm providers check {name} --plugin .  # whether it keeps the contract of a provider; it need not be installed
    pip install -e '.[test]'
    pytest

To make it yours: put your network into `src/{package}/_network.py`, and what is true of it (name, summary, dim, image
size, options, where its weights come from) into `src/{package}/__init__.py`. `docs/plugins.md` in rcdm's repository
goes through it, up to the upload.
"""

_INIT = '''\
"""The provider {name}. Nothing here imports torch: providers are listed before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rcdm_core import IMAGENET_MEAN, IMAGENET_STD, Option, Provider, hookimpl

if TYPE_CHECKING:
    from rcdm_core import Encoder


@hookimpl
def rcdm_providers() -> list[Provider]:
    """What this package brings along."""
    return [
        Provider(
            name="{name}",
            summary="a small convolutional network with random weights",
            load=load,
            dim=128,
            image_size=64,
            options={{
                "mean": Option("floats", IMAGENET_MEAN, "per channel, for pictures in [0, 1]"),
                "std": Option("floats", IMAGENET_STD, "per channel, for pictures in [0, 1]"),
            }},
        )
    ]


def load(*, weights: str | None = None, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """weights: a path or a URL from --weights, or None. The other arguments are the options above."""
    from ._network import encoder

    return encoder(weights, mean, std)
'''

_NETWORK = '''\
"""The network of the provider {name}."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rcdm_core import Encoder, load_into, read_checkpoint, resolve_weights


def encoder(weights: str | None, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """Pictures [B, 3, 64, 64] in [0, 1] -> h [B, 128]."""
    # The same weights each time: rcdm recognises a representation by what it computes.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    if weights is not None:
        path = resolve_weights(weights, None, provider="{name}")
        load_into(network, read_checkpoint(path).backbone, provider="{name}", path=path)
    return Encoder(network, image_size=64, mean=mean, std=std)
'''

_TEST = '''\
"""Whether the provider keeps rcdm's contract: what `rcdm providers check {name}` prints, as a test."""

from rcdm_core import check_provider


def test_the_provider_keeps_the_contract() -> None:
    failed = [result for result in check_provider("{name}") if result.passed is False]
    assert failed == []
'''

_FILES = {
    "pyproject.toml": _PYPROJECT,
    "README.md": _README,
    "src/{package}/__init__.py": _INIT,
    "src/{package}/_network.py": _NETWORK,
    "tests/test_contract.py": _TEST,
}


def write_project(name: str, folder: Path | None = None) -> Path:
    """Write the project into `folder`, by default ./rcdm-plugin-NAME; returns the folder.

    name: of the provider, lower-case words and digits with hyphens between them.

    Raises RCDMError for another name, one that a provider or a package has already, a folder that is not
    empty, and one that cannot be written.
    """
    from .registry import providers

    if not _NAME.fullmatch(name):
        raise RCDMError(
            f"{name!r} is no name for a plugin: expected lower-case letters and digits with hyphens between them, "
            "such as my-resnet50"
        )
    if name in providers():
        raise RCDMError(f"there is a provider {name} already; choose another name")
    package = f"rcdm_plugin_{name.replace('-', '_')}"
    if importlib.util.find_spec(package) is not None:
        raise RCDMError(f"there is a package {package} already, which the plugin's would replace; choose another name")
    folder = folder if folder is not None else Path(f"rcdm-plugin-{name}")
    refuse_dangling(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RCDMError(f"{folder} exists and is not an empty folder; choose another with --out")
    with explain_failures(folder):
        for path, text in _FILES.items():
            file = folder / path.format(package=package)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.format(name=name, package=package, rcdm=__version__), encoding="utf-8")
    return folder
