"""custom:FILE.py:function and custom:package.module:function: an encoder out of the user's own code.

The function returns a torch.nn.Module that maps normalised images [B, 3, H, W] to h [B, dim]. If it has a parameter
`weights`, it gets the path that --weights gives.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core import IMAGENET_MEAN, IMAGENET_STD, Option, Provider, RCDMError, hookimpl

if TYPE_CHECKING:
    from rcdm_core import Encoder

PREFIX = "custom:"
OPTIONS = {
    "image_size": Option(int, 224, "side of the square pictures that the network takes, in pixels"),
    "mean": Option("floats", IMAGENET_MEAN, "per channel, subtracted from pictures in [0, 1]"),
    "std": Option("floats", IMAGENET_STD, "per channel, divided by after that"),
}


@hookimpl
def rcdm_resolve(name: str) -> Provider | None:
    """The provider of a user's function. The user's code is not run before it is loaded.

    Raises RCDMError for a name of another form, or a file that does not exist.
    """
    if not name.startswith(PREFIX):
        return None
    source, _, function = name[len(PREFIX) :].rpartition(":")
    if not source or not function.isidentifier():
        raise RCDMError(f"{name!r} should be custom:FILE.py:function or custom:package.module:function")
    if not is_file(source):
        if not all(part.isidentifier() for part in source.split(".")):
            raise RCDMError(f"{source} in {name!r} is neither a .py file nor the name of a module")
    elif not Path(source).expanduser().is_file():
        raise RCDMError(
            f"{source} in {name!r} does not exist in {Path.cwd()}: give the path of the file that defines {function}"
        )
    # The provider's own name holds in every working directory.
    place = os.path.abspath(Path(source).expanduser()) if is_file(source) else source
    return Provider(
        name=f"{PREFIX}{place}:{function}",
        summary=f"the torch.nn.Module that {function} in {source} returns",
        load=partial(load, name, source, function),
        options=OPTIONS,
    )


def is_file(source: str) -> bool:
    """Whether the middle of the name is a path rather than a dotted module."""
    return source.endswith(".py") or "/" in source or "\\" in source


def load(
    name: str,
    source: str,
    function: str,
    *,
    weights: str | None = None,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Encoder:
    """Run the user's function and wrap what it returns. Raises RCDMError that names the file and what went wrong."""
    if image_size < 1:
        raise RCDMError(f"option image_size of provider {name} is {image_size}, but expected at least 1")
    from ._loading import call

    module = call(name, source, function, weights)
    from rcdm_core import Encoder

    if not isinstance(module, Encoder):
        return Encoder(module, image_size=image_size, mean=mean, std=std)
    defaults = {key: option.default for key, option in OPTIONS.items()}
    if {"image_size": image_size, "mean": tuple(mean), "std": tuple(std)} != defaults:
        raise RCDMError(
            f"{function} in {source} returns an Encoder, which normalises by itself: leave out the options "
            "image_size, mean and std, or return the network alone"
        )
    return module
