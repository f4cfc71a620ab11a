"""A projector's network, filled from a checkpoint and put on its backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rcdm_core import at_layer, find_provider, load_into, read_checkpoint, resolve_weights

from . import Head

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class Projected(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> the projector's output [B, dim]."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        return self.projector(self.backbone(images))


def projector(head: Head, inputs: int) -> tuple[nn.Sequential, dict[str, str]]:
    """The layers without values, and for each name of theirs in a checkpoint the name in the network."""
    layers: list[nn.Module] = []
    names: dict[str, str] = {}
    for layer in head.layers:
        names[layer.name] = str(len(layers))
        layers.append(nn.Linear(inputs, layer.size, bias=layer.bias))
        if layer.norm is not None:
            names[layer.norm] = str(len(layers))
            layers.append(nn.BatchNorm1d(layer.size))
        if layer.activation is not None:
            layers.append(_ACTIVATIONS[layer.activation]())
        inputs = layer.size
    return nn.Sequential(*layers), names


def projected(
    head: Head, weights: str | None, mean: Sequence[float], std: Sequence[float], layer: str | None
) -> nn.Module:
    """Both networks out of one file, or what is at a layer of them (projector.1, backbone.network.layer3)."""
    path = resolve_weights(weights, head.weights, provider=head.name)
    checkpoint = read_checkpoint(path).expect(head.method, provider=head.name, head=True)
    backbone = find_provider(head.backbone)
    options = backbone.complete_options({"mean": tuple(mean), "std": tuple(std)})
    encoder = backbone.load(weights=str(path), **options)
    assert backbone.dim is not None
    with torch.device("meta"):  # without storage until the file fills it
        network, names = projector(head, backbone.dim)
    network.to_empty(device="cpu")
    state = {_renamed(name, names): value for name, value in checkpoint.head.items()}
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.zeros_like(buffer))  # old files lack it, and its memory is anything
    load_into(network, state, provider=head.name, path=path)
    module = at_layer(Projected(encoder, network), layer, provider=head.name)
    module.image_size = backbone.image_size  # type: ignore[assignment]
    return module.requires_grad_(False).eval()


def _renamed(name: str, names: dict[str, str]) -> str:
    layer, _, tensor = name.rpartition(".")
    return f"{names[layer]}.{tensor}" if layer in names else name
