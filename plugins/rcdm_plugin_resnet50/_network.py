"""torchvision's ResNet-50 without its classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import nn

from rcdm_core import Encoder, WeightsInfo, at_layer, load_into, read_checkpoint, resolve_weights


def encoder(
    network: nn.Module, mean: Sequence[float], std: Sequence[float], layer: str | None, provider: str
) -> Encoder:
    """The network, or it up to a layer, with its normalisation, for pictures of 224 x 224."""
    return Encoder(at_layer(network, layer, provider=provider), image_size=224, mean=mean, std=std)


def random_resnet50(seed: int) -> nn.Module:
    """The initialisation that torchvision draws for `seed`. The caller's random state is left as it was."""
    # The CPU's generator alone: torch.manual_seed would reseed every accelerator, which fork_rng does not put back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        network = torchvision.models.resnet50(weights=None)
    network.fc = nn.Identity()
    return network


def resnet50_from_file(weights: str | None, info: WeightsInfo | None, method: str | None, provider: str) -> nn.Module:
    """A ResNet-50 whose every tensor comes from a checkpoint in one of the layouts in which they are released."""
    path = resolve_weights(weights, info, provider=provider)
    checkpoint = read_checkpoint(path)
    if method is not None:
        checkpoint.expect(method, provider=provider)
    network = random_resnet50(0)
    load_into(network, checkpoint.backbone, provider=provider, path=path)
    return network
