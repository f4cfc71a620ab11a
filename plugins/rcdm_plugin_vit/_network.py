"""timm's vision transformers, filled from a file."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch

from rcdm_core import Encoder, WeightsInfo, at_layer, load_into, read_checkpoint, resolve_weights


def vit_from_file(
    architecture: str,
    weights: str | None,
    info: WeightsInfo,
    provider: str,
    mean: Sequence[float],
    std: Sequence[float],
    layer: str | None,
) -> Encoder:
    """A timm vision transformer filled from a checkpoint of DINO's: its class token, or an inner layer."""
    path = resolve_weights(weights, info, provider=provider)
    state = read_checkpoint(path).expect("DINO", provider=provider).backbone
    # Without storage until the file fills it: drawing 86 million initial weights takes longer than reading them.
    with torch.device("meta"):
        network = timm.create_model(architecture, pretrained=False, num_classes=0)
    load_into(network.to_empty(device="cpu"), state, provider=provider, path=path)
    return Encoder(at_layer(network, layer, provider=provider), image_size=224, mean=mean, std=std)
