"""torchvision's ResNet-50 without its classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import nn

from rcdm_core import Encoder, WeightsInfo, load_into, read_state_dict, resolve_weights


def encoder(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """The network with its normalisation, for pictures of 224 x 224."""
    return Encoder(network, image_size=224, mean=mean, std=std, dim=2048)


def random_resnet50(seed: int) -> nn.Module:
    """The initialisation that torchvision draws for `seed`. The caller's random state is left as it was."""
    # The CPU's generator alone: torch.manual_seed would reseed every accelerator, which fork_rng does not put back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        network = torchvision.models.resnet50(weights=None)
    network.fc = nn.Identity()
    return network


def resnet50_from_file(weights: str | None, info: WeightsInfo, provider: str) -> nn.Module:
    """A ResNet-50 whose every tensor comes from a flat state dict; a classifier in the file is left out."""
    path = resolve_weights(weights, info, provider=provider)
    state = read_state_dict(path)
    network = random_resnet50(0)
    load_into(network, state, provider=provider, path=path, ignore=("fc.",))
    return network
