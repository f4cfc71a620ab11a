"""ResNet-50 encoders: the paper's self-supervised ones, torchvision's supervised one, and one with random weights.

h is the global average pool after layer4, 2048 numbers; the classifier is left out (paper, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rcdm_core import IMAGENET_MEAN, IMAGENET_STD, LAYER, Option, Provider, RCDMError, WeightsInfo, hookimpl

if TYPE_CHECKING:
    from rcdm_core import Encoder

# torchvision's ResNet50_Weights.IMAGENET1K_V1, written out because listing must not import torchvision.
SUPERVISED = WeightsInfo(
    url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
    sha256="0676ba61",
    licence="BSD-3-Clause (torchvision); trained on ImageNet",
    citation="He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
)
LABELS = "supervised training"  # the method, in messages
_FILES = "https://dl.fbaipublicfiles.com"
DINO = WeightsInfo(
    url=f"{_FILES}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
    licence="Apache-2.0; trained on ImageNet",
    citation="Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021",
    own_name=True,
)
SIMCLR = WeightsInfo(
    url=f"{_FILES}/vissl/model_zoo/simclr_rn50_1000ep_simclr_8node_resnet_16_07_20.afe428c7/"
    "model_final_checkpoint_phase999.torch",
    licence="MIT (VISSL); trained on ImageNet",
    citation="Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020",
)
BARLOW = WeightsInfo(
    url=f"{_FILES}/vissl/model_zoo/barlow_twins/barlow_twins_32gpus_4node_imagenet1k_1000ep_resnet50.torch",
    licence="MIT (VISSL); trained on ImageNet",
    citation="Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, ICML 2021",
)
VICREG = WeightsInfo(
    url=f"{_FILES}/vicreg/resnet50.pth",
    licence="CC-BY-NC-4.0; trained on ImageNet",
    citation="Bardes et al., VICReg: Variance-Invariance-Covariance Regularization, ICLR 2022",
)
SWAV = WeightsInfo(
    url=f"{_FILES}/deepcluster/swav_800ep_pretrain.pth.tar",
    licence="CC-BY-NC-4.0; trained on ImageNet",
    citation="Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, NeurIPS 2020",
)
# SwAV was trained with a std of its own.
SWAV_STD = (0.228, 0.224, 0.225)


def normalisation(std: Sequence[float] = IMAGENET_STD) -> dict[str, Option]:
    """The options mean, std and layer."""
    return {
        "mean": Option("floats", IMAGENET_MEAN, "per channel, for pictures in [0, 1]"),
        "std": Option("floats", tuple(std), "per channel, for pictures in [0, 1]"),
        "layer": LAYER,
    }


@hookimpl
def rcdm_providers() -> list[Provider]:
    """All ResNet-50s."""
    classified = "trained to classify ImageNet"
    ssl = "on ImageNet without labels"
    return [
        Provider(
            name="random-resnet50",
            summary="ResNet-50 with random weights: what the architecture alone keeps",
            load=load_random,
            dim=2048,
            options={"seed": Option(int, 0, "of the random weights"), **normalisation()},
        ),
        _trained("supervised-resnet50", f"{classified} (torchvision, IMAGENET1K_V1)", SUPERVISED, LABELS),
        _trained("dino-resnet50", f"trained by DINO {ssl}", DINO, "DINO"),
        _trained("simclr-resnet50", f"trained by SimCLR {ssl} (VISSL)", SIMCLR, "SimCLR"),
        _trained("barlow-resnet50", f"trained by Barlow Twins {ssl} (VISSL)", BARLOW, "Barlow Twins"),
        _trained("vicreg-resnet50", f"trained by VICReg {ssl}", VICREG, "VICReg"),
        _trained("swav-resnet50", f"trained by SwAV {ssl}", SWAV, "SwAV", SWAV_STD),
        _trained("vissl-resnet50", "out of any other checkpoint of VISSL (MoCo-v2, PIRL, NPID, ...)", None, None),
    ]


def _trained(
    name: str, summary: str, weights: WeightsInfo | None, method: str | None, std: Sequence[float] = IMAGENET_STD
) -> Provider:
    return Provider(
        name=name,
        summary=f"ResNet-50 {summary}",
        load=partial(load_trained, name, weights, method),
        dim=2048,
        weights=weights,
        options=normalisation(std),
    )


def load_random(
    *, weights: str | None = None, seed: int, mean: Sequence[float], std: Sequence[float], layer: str | None
) -> Encoder:
    """A ResNet-50 initialised from `seed` alone. Raises RCDMError when it is given weights or a negative seed."""
    if weights is not None:
        raise RCDMError(f"provider random-resnet50 has random weights: leave out --weights {weights}")
    if not 0 <= seed < 2**63:
        raise RCDMError(f"option seed of provider random-resnet50 is {seed}, but expected at least 0 and below 2^63")
    from ._network import encoder, random_resnet50

    return encoder(random_resnet50(seed), mean, std, layer, "random-resnet50")


def load_trained(
    name: str,
    info: WeightsInfo | None,
    method: str | None,
    *,
    weights: str | None = None,
    mean: Sequence[float],
    std: Sequence[float],
    layer: str | None,
) -> Encoder:
    """A ResNet-50 out of a checkpoint as released, a backbone alone or a full one.

    method: whose checkpoints are taken; None: anyone's. Raises RCDMError for weights that are missing, do not fit, or
    are another method's.
    """
    from ._network import encoder, resnet50_from_file

    return encoder(resnet50_from_file(weights, info, method, name), mean, std, layer, name)
