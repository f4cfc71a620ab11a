"""timm's vision transformers, filled from a file."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch

from rcdm_core import Encoder, WeightsInfo, load_into, read_checkpoint, resolve_weights


def vit_from_file(
    architecture: str,
    weights: str | None,
    info: WeightsInfo,
    provider: str,
    dim: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Encoder:
    """The class token of a timm vision transformer whose every tensor comes from a checkpoint of DINO's."""
    path = resolve_weights(weights, info, provider=provider)
    state = read_checkpoint(path).expect("DINO", provider=provider).backbone
    # Without storage until the file fills it: drawing 86 million initial weights takes longer than reading them.
    with torch.device("meta"):
        network = timm.create_model(architecture, pretrained=False, num_classes=0)
    load_into(network.to_empty(device="cpu"), state, provider=provider, path=path)
    return Encoder(network, image_size=224, mean=mean, std=std, dim=dim)
