"""Which optimizer trains which weights of a network, and at what share of the learning rate."""

from __future__ import annotations

from typing import Any

import torch

from rcdm_core.training.config import Recipe
from rcdm_core.training.muon import Muon
from rcdm_core.unet import UNet


def make_optimizers(network: UNet, recipe: Recipe, device: torch.device) -> list[torch.optim.Optimizer]:
    """AdamW, after Muon for the matrices of the blocks if the recipe says so.

    Every group of weights has the `share` of the learning rate that it gets.
    """
    reading_h = {id(parameter) for parameter in network.parameters_reading_h()}
    matrices = network.matrices_of_blocks() if recipe.optimizer == "muon" else []
    of_muon = {id(parameter) for parameter in matrices}
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in network.parameters() if id(p) not in of_muon and (id(p) in reading_h) == reads],
            "share": share,
        }
        for reads, share in ((False, 1.0), (True, recipe.h_lr))
    ]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    if not matrices:
        return [adamw]
    group = {"params": matrices, "share": 1.0}
    return [Muon([group], recipe.lr, weight_decay=recipe.weight_decay), adamw]
