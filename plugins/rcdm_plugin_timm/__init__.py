"""timm:MODEL, any model of timm by its name there (timm:vit_base_patch14_dinov2.lvd142m).

Pictures are brought to the size of the model's own pretrained configuration with its interpolation, mean and std; h is
what timm gives before its classifier.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rcdm_core import LAYER, Option, Provider, RCDMError, hookimpl

if TYPE_CHECKING:
    from rcdm_core import Encoder, WeightsInfo

PREFIX = "timm:"
OPTIONS = {
    "pool": Option(str, None, "timm's global_pool: avg, max, token, map, ...; nothing: the model's own"),
    "layer": LAYER,
}


@hookimpl
def rcdm_resolve(name: str) -> Provider | None:
    """The provider of a model of timm's. Whether timm has it is seen when it is loaded."""
    if not name.startswith(PREFIX):
        return None
    model = name[len(PREFIX) :]
    if not model:
        raise RCDMError(f"{name!r} should be timm:MODEL, such as timm:vit_base_patch14_dinov2.lvd142m")
    return Provider(
        name=name,
        summary=f"timm's {model}, without its classifier",
        load=partial(load, name, model),
        image_size=None,
        weights=partial(weights_info, name, model),
        options=OPTIONS,
    )


def weights_info(name: str, model: str, **_: object) -> WeightsInfo | None:
    """What timm knows of its weights for this model; None where it has none. Raises RCDMError for an unknown model."""
    from ._network import weights_info as found

    return found(name, model)


def load(name: str, model: str, *, weights: str | None = None, pool: str | None, layer: str | None) -> Encoder:
    """timm's pretrained weights, or a checkpoint with timm's names.

    Raises RCDMError for a model that timm does not have (the nearest ones are named), weights that cannot be had or do
    not fit, and a pooling or a layer that the model does not know.
    """
    from ._network import encoder

    return encoder(name, model, weights, pool, layer)
