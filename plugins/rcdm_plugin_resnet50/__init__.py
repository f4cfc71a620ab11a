"""ResNet-50 encoders: with torchvision's supervised weights, and with none (the paper's random baseline).

h is the global average pool after layer4, 2048 numbers; the classifier is left out (paper, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rcdm_core import IMAGENET_MEAN, IMAGENET_STD, Option, Provider, RCDMError, WeightsInfo, hookimpl

if TYPE_CHECKING:
    from rcdm_core import Encoder

# torchvision's ResNet50_Weights.IMAGENET1K_V1, written out because listing must not import torchvision.
SUPERVISED = WeightsInfo(
    url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
    sha256="0676ba61",
    licence="BSD-3-Clause (torchvision); trained on ImageNet",
    citation="He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
)

NORMALISATION = {
    "mean": Option("floats", IMAGENET_MEAN, "per channel, for pictures in [0, 1]"),
    "std": Option("floats", IMAGENET_STD, "per channel, for pictures in [0, 1]"),
}


@hookimpl
def rcdm_providers() -> list[Provider]:
    """The two ResNet-50s."""
    return [
        Provider(
            name="random-resnet50",
            summary="ResNet-50 with random weights: what the architecture alone keeps",
            load=load_random,
            dim=2048,
            options={"seed": Option(int, 0, "of the random weights"), **NORMALISATION},
        ),
        Provider(
            name="supervised-resnet50",
            summary="ResNet-50 trained to classify ImageNet (torchvision, IMAGENET1K_V1)",
            load=load_supervised,
            dim=2048,
            weights=SUPERVISED,
            options=NORMALISATION,
        ),
    ]


def load_random(*, weights: str | None = None, seed: int, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """A ResNet-50 initialised from `seed` alone. Raises RCDMError when it is given weights or a negative seed."""
    if weights is not None:
        raise RCDMError(f"provider random-resnet50 has random weights: leave out --weights {weights}")
    if not 0 <= seed < 2**63:
        raise RCDMError(f"option seed of provider random-resnet50 is {seed}, but expected at least 0 and below 2^63")
    from ._network import encoder, random_resnet50

    return encoder(random_resnet50(seed), mean, std)


def load_supervised(*, weights: str | None = None, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """A ResNet-50 from a torchvision state dict. Raises RCDMError for weights that are missing or do not fit."""
    from ._network import encoder, resnet50_from_file

    return encoder(resnet50_from_file(weights, SUPERVISED, "supervised-resnet50"), mean, std)
