"""Two ways to a picture with a given h that take no generative model: what RCDM is held against in section 2.

Gradient-based representation matching moves pixels, from noise, until their h is the wanted one. Deep Image Prior
(Ulyanov et al., 2018; Zhao et al., 2021) moves the weights of an untrained convolutional network instead, whose output
cannot be any picture. Both minimise ‖f(x) − h‖² / unit + tv · TV(x).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcdm_core.encoder import full_precision, resize_for_encoder
from rcdm_core.randomness import generator, normal, torch_seed

if TYPE_CHECKING:
    from rcdm_core.encoder import Encoder

_NOISE_CHANNELS, _NOISE = 16, 0.1  # of the network's fixed input
_WIDTH, _SMALLEST = 48, 4  # channels; pixels of the innermost level


@dataclass(frozen=True)
class Descent:
    """size: of the picture, in pixels. rate: the learning rate of the first iteration. tv: weight of total variation.

    unit: of the squared distance. seed, stream: of the noise. step: called after each iteration.
    """

    size: int
    iterations: int
    rate: float
    tv: float
    unit: float
    seed: int
    stream: str
    step: Callable[[], object]


def total_variation(images: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels of images [B, 3, H, W]: [B]."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    right = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
    return down + right


def match_pixels(encoder: Encoder, h: Tensor, descent: Descent) -> Tensor:
    """Pixels [3, size, size] in [0, 1] moved from noise towards h [dim]."""
    noise = normal(generator(descent.seed, "pixels", descent.stream), (1, 3, descent.size, descent.size)).to(h.device)
    pixels = noise.requires_grad_()
    return _descend(encoder, h, descent, lambda: torch.sigmoid(pixels), [pixels])


def deep_image_prior(encoder: Encoder, h: Tensor, descent: Descent) -> Tensor:
    """What an untrained network draws, [3, size, size] in [0, 1], once its weights are moved towards h [dim]."""
    size, named = descent.size, (descent.seed, "deep image prior", descent.stream)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(*named))
        network = Prior(size).to(h.device)
    z = _NOISE * normal(generator(*named), (1, _NOISE_CHANNELS, size, size)).to(h.device)
    return _descend(encoder, h, descent, lambda: network(z), network.parameters())


def _descend(
    encoder: Encoder, h: Tensor, descent: Descent, draw: Callable[[], Tensor], parameters: Iterable[Tensor]
) -> Tensor:
    """Adam, its rate falling to 0 along a cosine, so that it ends at rest."""
    optimizer = torch.optim.Adam(parameters, lr=descent.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, descent.iterations)
    with torch.enable_grad(), full_precision(h.device.type):
        for _ in range(descent.iterations):
            optimizer.zero_grad(set_to_none=True)
            x = draw()
            apart = (encoder(resize_for_encoder(x, encoder.image_size)) - h).square().sum() / descent.unit
            (apart + descent.tv * total_variation(x).sum()).backward()
            optimizer.step()
            schedule.step()
            descent.step()
    with torch.no_grad():
        return draw()[0].clamp(0, 1).float().cpu()


class Prior(nn.Module):
    """An hourglass with skip connections: noise [1, 16, size, size] -> picture [1, 3, size, size] in [0, 1]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        levels = 0
        while levels < 5 and size >> (levels + 1) >= _SMALLEST:
            levels += 1
        self.down = nn.ModuleList(_block(_NOISE_CHANNELS if i == 0 else _WIDTH, stride=2) for i in range(levels))
        self.skip = nn.ModuleList(nn.Conv2d(_NOISE_CHANNELS if i == 0 else _WIDTH, 4, 1) for i in range(levels))
        self.up = nn.ModuleList(_block(_WIDTH + 4) for _ in range(levels))
        self.inside = _block(_WIDTH if levels else _NOISE_CHANNELS)
        self.out = nn.Conv2d(_WIDTH, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        beside = []
        for down, skip in zip(self.down, self.skip, strict=True):
            beside.append(skip(x))
            x = down(x)
        x = self.inside(x)
        for up in reversed(self.up):
            side = beside.pop()
            x = up(torch.cat([F.interpolate(x, size=side.shape[-2:], mode="bilinear"), side], dim=1))
        return torch.sigmoid(self.out(x))


def _block(channels: int, *, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, _WIDTH, 3, stride=stride, padding=1, padding_mode="reflect"),
        nn.GroupNorm(8, _WIDTH),  # one picture at a time: a batch has no statistics
        nn.LeakyReLU(0.2),
    )
