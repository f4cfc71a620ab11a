"""A classifier of torchvision's with its own preprocessing and without its last linear layer."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from rcdm_core import Encoder, RCDMError, WeightsInfo, at_layer, load_into, read_checkpoint, resolve_weights

# What torchvision says where a weights' entry names no licence: it is for the user to find out.
_LICENCE_PAGE = "https://github.com/pytorch/vision#pre-trained-model-license"
# Classifiers beside the network, which only its training uses.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# Names in released files: DenseNet's are older than the ban on dots in the name of a module, and in vision transformers
# the two layers between attentions have become a sequence since then.
_OLD_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)"), r"\1"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)


def encoder(name: str, model: str, weights: str | None, version: str, layer: str | None) -> Encoder:
    """See the package's `load`."""
    entry = _entry(name, model, version)
    path = resolve_weights(weights, weights_info(name, model, version), provider=name)
    preset = entry.transforms()
    network = _build(model, preset.crop_size[0])
    head = _remove_classifier(network, name)
    state = _renamed(read_checkpoint(path).backbone)
    load_into(network, state, provider=name, path=path, ignore=(f"{head}.", *_AUXILIARY))
    return Encoder(
        at_layer(
            network, layer, provider=name, channels_last=isinstance(network, models.swin_transformer.SwinTransformer)
        ),
        image_size=preset.crop_size[0],
        mean=preset.mean,
        std=preset.std,
        interpolation=preset.interpolation.value,
    )


def weights_info(name: str, model: str, version: str) -> WeightsInfo:
    """See the package's."""
    entry = _entry(name, model, version)
    return WeightsInfo(url=entry.url, licence=entry.meta.get("license") or f"unknown: see {_LICENCE_PAGE}")


def _entry(name: str, model: str, version: str) -> Any:
    """torchvision's entry of that version of the weights."""
    enum = _versions(name, model)
    if version not in enum.__members__:
        raise RCDMError(f"option version of {name} is {version!r}, expected one of {', '.join(enum.__members__)}")
    return enum[version]


def _versions(name: str, model: str) -> Any:
    known = models.list_models(module=models)
    if model not in known:
        if model in models.list_models():
            raise RCDMError(
                f"{name} is no classifier of pictures, and torchvision: takes no other models (of detection, "
                "segmentation, video, quantised ones): name the classifier that it is built on, such as "
                "torchvision:resnet50, or give its inside by custom:FILE.py:function"
            )
        near = difflib.get_close_matches(model, known, n=3)
        raise RCDMError(
            f"torchvision has no classifier {model!r}" + (f"; the nearest are {', '.join(near)}" if near else "")
        )
    return models.get_model_weights(model)


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the names of today in the place of those of `_OLD_NAMES`."""
    names = {name: name for name in state}
    for old, new in _OLD_NAMES:
        names = {name: old.sub(new, now) for name, now in names.items()}
    return {now: state[name] for name, now in names.items()}


def _build(model: str, image_size: int) -> nn.Module:
    """The architecture with the values that its pretrained weights go with; image_size: the side of their pictures."""
    # Both renormalise inside the network where their weights were ported from TensorFlow, and both draw their initial
    # weights for minutes unless they are told not to.
    ported = model in ("googlenet", "inception_v3")
    arguments: dict[str, Any] = {"transform_input": True, "init_weights": False, "aux_logits": False} if ported else {}
    if model.startswith("vit_"):  # whose table of positions has the size of the picture
        arguments["image_size"] = image_size
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = models.get_model(model, weights=None, **arguments)
    return network


def _remove_classifier(network: nn.Module, name: str) -> str:
    """Put nothing in the last linear layer's place; returns its name.

    SqueezeNet classifies by a convolution with a pooling behind it: without the convolution and its activation the
    pooling gives h.
    """
    linear = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)]
    if isinstance(network, models.SqueezeNet):
        network.classifier[1], network.classifier[2] = nn.Identity(), nn.Identity()
        return "classifier.1"
    if not linear:
        raise RCDMError(f"{name} has no linear classifier to take away; use it through timm: or custom:")
    network.set_submodule(linear[-1], nn.Identity())
    return linear[-1]
