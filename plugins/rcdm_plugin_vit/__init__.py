"""Vision transformers trained by DINO, in timm's architecture. h is the class token after the final norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rcdm_core import IMAGENET_MEAN, IMAGENET_STD, Option, Provider, WeightsInfo, hookimpl

if TYPE_CHECKING:
    from rcdm_core import Encoder

DINO_VITB16 = WeightsInfo(
    url="https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    licence="Apache-2.0; trained on ImageNet",
    citation="Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021",
    own_name=True,
)


@hookimpl
def rcdm_providers() -> list[Provider]:
    """The DINO transformers."""
    return [
        Provider(
            name="dino-vitb16",
            summary="ViT-B/16 trained by DINO on ImageNet without labels: the class token",
            load=load_dino_vitb16,
            dim=768,
            weights=DINO_VITB16,
            options={
                "mean": Option("floats", IMAGENET_MEAN, "per channel, for pictures in [0, 1]"),
                "std": Option("floats", IMAGENET_STD, "per channel, for pictures in [0, 1]"),
            },
        )
    ]


def load_dino_vitb16(*, weights: str | None = None, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """DINO's backbone file in timm's ViT-B/16. Raises RCDMError for weights that are missing or do not fit."""
    from ._network import vit_from_file

    return vit_from_file("vit_base_patch16_224.dino", weights, DINO_VITB16, "dino-vitb16", 768, mean, std)
