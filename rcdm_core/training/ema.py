"""The exponential moving average of the weights: what a bundle keeps and samples are drawn with."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from rcdm_core.unet import UNet


class EMA:
    """Averages a network's parameters, in float32, in a network of its own: `ema.network`, always in eval mode.

    Its batch-norm statistics are not averaged but recomputed for the averaged weights (`batchnorm.py`).
    """

    def __init__(self, network: UNet, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).float().eval().requires_grad_(False)
        self._averages: list[Tensor] = list(self.network.parameters())
        self._weights = list(network.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` finished steps; early on the average is shorter than `decay` says."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights: list[Tensor] = [weight.detach().float() for weight in self._weights]
        torch._foreach_lerp_(self._averages, weights, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return {name: value.detach() for name, value in self.network.named_parameters()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from `state()` of another run."""
        for name, value in self.network.named_parameters():
            value.copy_(state[name])
