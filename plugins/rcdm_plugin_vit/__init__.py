"""Vision transformers trained by DINO, in timm's architecture. h is the class token after the final norm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rcdm_core import IMAGENET_MEAN, IMAGENET_STD, LAYER, Option, Provider, WeightsInfo, hookimpl

if TYPE_CHECKING:
    from rcdm_core import Encoder

# provider, what it is, timm's architecture, name of the released files, dim
MODELS = (
    ("dino-vitb16", "ViT-B/16", "vit_base_patch16_224.dino", "dino_vitbase16_pretrain", 768),
    ("dino-vits16", "ViT-S/16", "vit_small_patch16_224.dino", "dino_deitsmall16_pretrain", 384),
    ("dino-vitb8", "ViT-B/8", "vit_base_patch8_224.dino", "dino_vitbase8_pretrain", 768),
    ("dino-vits8", "ViT-S/8", "vit_small_patch8_224.dino", "dino_deitsmall8_pretrain", 384),
)


def weights_of(file: str) -> WeightsInfo:
    """DINO's backbone file of that name."""
    return WeightsInfo(
        url=f"https://dl.fbaipublicfiles.com/dino/{file}/{file}.pth",
        licence="Apache-2.0; trained on ImageNet",
        citation="Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021",
        own_name=True,
    )


@hookimpl
def rcdm_providers() -> list[Provider]:
    """The DINO transformers."""
    return [
        Provider(
            name=name,
            summary=f"{title} trained by DINO on ImageNet without labels: the class token",
            load=partial(load, name, architecture, weights_of(file)),
            dim=dim,
            weights=weights_of(file),
            options={
                "mean": Option("floats", IMAGENET_MEAN, "per channel, for pictures in [0, 1]"),
                "std": Option("floats", IMAGENET_STD, "per channel, for pictures in [0, 1]"),
                "layer": LAYER,
            },
        )
        for name, title, architecture, file, dim in MODELS
    ]


def load(
    name: str,
    architecture: str,
    info: WeightsInfo,
    *,
    weights: str | None = None,
    mean: Sequence[float],
    std: Sequence[float],
    layer: str | None,
) -> Encoder:
    """DINO's backbone file, or its full checkpoint, in timm's transformer.

    Raises RCDMError for weights that are missing, do not fit, or are another method's.
    """
    from ._network import vit_from_file

    return vit_from_file(architecture, weights, info, name, mean, std, layer)
