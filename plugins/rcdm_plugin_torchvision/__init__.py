"""torchvision:MODEL, any classifier of torchvision by its name there (torchvision:convnext_tiny).

Pictures are brought to the size of the model's own pretrained weights with their interpolation, mean and std; h is what
the last linear layer reads.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rcdm_core import LAYER, Option, Provider, RCDMError, hookimpl

if TYPE_CHECKING:
    from rcdm_core import Encoder, WeightsInfo

PREFIX = "torchvision:"
OPTIONS = {
    "version": Option(str, "DEFAULT", "which of torchvision's pretrained weights: IMAGENET1K_V1, IMAGENET1K_V2, ..."),
    "layer": replace(LAYER, help=f"{LAYER.help}; stands in for a pool, as of timm:"),
}


@hookimpl
def rcdm_resolve(name: str) -> Provider | None:
    """The provider of a model of torchvision's. Whether torchvision has it is seen when it is loaded."""
    if not name.startswith(PREFIX):
        return None
    model = name[len(PREFIX) :]
    if not model:
        raise RCDMError(f"{name!r} should be torchvision:MODEL, such as torchvision:convnext_tiny")
    return Provider(
        name=name,
        summary=f"torchvision's {model}, without its classifier",
        load=partial(load, name, model),
        image_size=None,
        weights=partial(weights_info, name, model),
        options=OPTIONS,
    )


def weights_info(name: str, model: str, *, version: str, **_: object) -> WeightsInfo:
    """What torchvision knows of that version of the weights. Raises RCDMError for an unknown model or version."""
    from ._network import weights_info as found

    return found(name, model, version)


def load(name: str, model: str, *, weights: str | None = None, version: str, layer: str | None) -> Encoder:
    """torchvision's pretrained weights, or a checkpoint with torchvision's names and the classifier that it has there.

    Raises RCDMError for a classifier that torchvision does not have (the nearest ones are named), a version or a layer
    that the model does not have, and weights that cannot be had or do not fit.
    """
    from ._network import encoder

    return encoder(name, model, weights, version, layer)
