"""Projector heads: the embeddings on which the self-supervised losses are applied (paper, figures 2 and 25).

A head is put on the backbone that the public API gives for its name; one full checkpoint fills both. h is the output
of the last linear layer, not normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rcdm_core import IMAGENET_MEAN, IMAGENET_STD, LAYER, Option, Provider, WeightsInfo, hookimpl

if TYPE_CHECKING:
    from torch import nn

_FILES = "https://dl.fbaipublicfiles.com"
_DINO = {
    "licence": "Apache-2.0; trained on ImageNet",
    "citation": "Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021",
}


@dataclass(frozen=True)
class Layer:
    """One linear layer of a projector and what follows it.

    name        of its tensors in the checkpoint, below the head's prefix
    size        of its output
    bias        whether it has one
    norm        name of the batch norm behind it; None: there is none
    activation  behind that: "relu", "gelu" or None
    """

    name: str
    size: int
    bias: bool = True
    norm: str | None = None
    activation: str | None = None


@dataclass(frozen=True)
class Head:
    """A projector: of which backbone and method, where the full checkpoint is, and its layers."""

    backbone: str
    method: str
    title: str
    weights: WeightsInfo
    layers: tuple[Layer, ...]
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def name(self) -> str:
        return f"{self.backbone}-head"


HEADS = (
    Head(
        "dino-resnet50", "DINO", "ResNet-50",
        WeightsInfo(
            url=f"{_FILES}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain_full_checkpoint.pth",
            own_name=True, **_DINO,
        ),
        (Layer("mlp.0", 4096, norm="mlp.1", activation="gelu"), Layer("mlp.3", 256)),
    ),
    Head(
        "simclr-resnet50", "SimCLR", "ResNet-50",
        WeightsInfo(
            url=f"{_FILES}/vissl/model_zoo/simclr_rn50_1000ep_simclr_8node_resnet_16_07_20.afe428c7/"
            "model_final_checkpoint_phase999.torch",
            licence="MIT (VISSL); trained on ImageNet",
            citation="Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020",
        ),
        (Layer("0.clf.0", 2048, activation="relu"), Layer("1.clf.0", 128)),
    ),
    Head(
        "barlow-resnet50", "Barlow Twins", "ResNet-50",
        WeightsInfo(
            url=f"{_FILES}/vissl/model_zoo/barlow_twins/barlow_twins_32gpus_4node_imagenet1k_1000ep_resnet50.torch",
            licence="MIT (VISSL); trained on ImageNet",
            citation="Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, ICML 2021",
        ),
        (
            Layer("0.clf.0", 8192, bias=False, norm="0.clf.1", activation="relu"),
            Layer("1.clf.0", 8192, bias=False, norm="1.clf.1", activation="relu"),
            Layer("2.clf.0", 8192, bias=False),
        ),
    ),
    Head(
        "vicreg-resnet50", "VICReg", "ResNet-50",
        WeightsInfo(
            url=f"{_FILES}/vicreg/resnet50_fullckpt.pth",
            licence="CC-BY-NC-4.0; trained on ImageNet",
            citation="Bardes et al., VICReg: Variance-Invariance-Covariance Regularization, ICLR 2022",
        ),
        (
            Layer("0", 8192, norm="1", activation="relu"),
            Layer("3", 8192, norm="4", activation="relu"),
            Layer("6", 8192, bias=False),
        ),
    ),
    Head(
        "swav-resnet50", "SwAV", "ResNet-50",
        WeightsInfo(
            url=f"{_FILES}/deepcluster/swav_800ep_pretrain.pth.tar",
            licence="CC-BY-NC-4.0; trained on ImageNet",
            citation="Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, "
            "NeurIPS 2020",
        ),
        (Layer("0", 2048, norm="1", activation="relu"), Layer("3", 128)),
        std=(0.228, 0.224, 0.225),
    ),
    Head(
        "dino-vitb16", "DINO", "ViT-B/16",
        WeightsInfo(
            url=f"{_FILES}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain_full_checkpoint.pth",
            own_name=True, **_DINO,
        ),
        (Layer("mlp.0", 2048, activation="gelu"), Layer("mlp.2", 2048, activation="gelu"), Layer("mlp.4", 256)),
    ),
)  # fmt: skip


@hookimpl
def rcdm_providers() -> list[Provider]:
    """All projectors."""
    return [
        Provider(
            name=head.name,
            summary=f"{head.title} and projector trained by {head.method}: the embedding that its loss sees",
            load=partial(load, head),
            dim=head.layers[-1].size,
            kind="projector",
            weights=head.weights,
            options={
                "mean": Option("floats", IMAGENET_MEAN, "per channel, for pictures in [0, 1]"),
                "std": Option("floats", head.std, "per channel, for pictures in [0, 1]"),
                "layer": LAYER,
            },
        )
        for head in HEADS
    ]


def load(
    head: Head, *, weights: str | None = None, mean: Sequence[float], std: Sequence[float], layer: str | None
) -> nn.Module:
    """Backbone and projector out of one full checkpoint.

    Raises RCDMError for a file that is missing, has no projector, does not fit, or is another method's.
    """
    from ._network import projected

    return projected(head, weights, mean, std, layer)
