"""ADM's group normalisation, with a kernel of our own for channels-last pictures on a CPU.

Convolutions are much faster there in that format, in bfloat16 above all, but torch's gradient of a group norm is up to
three times slower in it, and knows gains of channels alone, not of each picture's. `_Normalise` has both: torch's
kernel gives the statistics, the gradients are sums over each channel, and everything else is `x * a + b` with one a and
one b for each picture and channel. `benchmarks/speed.py` measures what it gives.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`x * scale + shift` with one scale and one shift for each picture and channel.

    Args:
        x: [B, C, H, W].
        scale, shift: [B, C].
    """
    return torch.addcmul(shift[:, :, None, None].to(x.dtype), x, scale[:, :, None, None].to(x.dtype))


class GroupNorm(nn.GroupNorm):
    """ADM's group normalisation, with room for a time-dependent scale and shift.

    `forward(x, scale, shift)` is `GroupNorm(x) * (1 + scale) + shift`, as in Dhariwal & Nichol's adaptive group
    normalisation. The affine parameters and the scale and shift are merged, so the picture is passed over once.
    """

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__(groups, channels)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Args: x [B, C, H, W]; scale, shift [B, C]."""
        own_kernel = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
        gain: Tensor = self.weight
        bias: Tensor = self.bias
        if scale is not None and shift is not None:
            gain, bias = gain * (1 + scale), bias * (1 + scale) + shift
        elif not own_kernel:
            return super().forward(x)
        if own_kernel:
            return _Normalise.apply(x, gain.expand(x.shape[:2]), bias.expand(x.shape[:2]), self.num_groups, self.eps)
        return modulate(F.group_norm(x, self.num_groups, eps=self.eps), gain, bias)


def _sums(x: Tensor) -> Tensor:
    """Sums over height and width, [B, C, H, W] channels-last -> float32 [B, C].

    In bfloat16 short partial sums are rounded, whose errors average out; converting the picture first costs four times
    as much.
    """
    B, C, H, W = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(B, -1, math.gcd(H * W, 8), C)
    return rows.sum(2).float().sum(1)


_LARGE, _MANY = 1024, 16  # pixels, channels of a group


class _Normalise(torch.autograd.Function):
    """Group normalisation, then `* gain + shift` for each picture and channel, in few passes over the picture."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, groups: int, eps: float) -> Tensor:
        B, C, H, W = x.shape
        centred, mean, rstd = _statistics(x, groups, eps)
        a = gain.float().view(B, groups, -1) * rstd
        b = shift.float() - (a * mean).view(B, C)
        ctx.save_for_backward(centred, gain, mean, rstd)
        ctx.groups, ctx.count = groups, H * W * (C // groups)
        return modulate(centred, a.view(B, C), b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, mean, rstd = ctx.saved_tensors  # x and mean less the rough mean
        B, C = x.shape[:2]
        dy = dy.contiguous(memory_format=torch.channels_last)
        d_shift = _sums(dy)
        by_group = d_shift.view(B, ctx.groups, -1)
        d_gain = (_sums(dy * x).view(B, ctx.groups, -1) - mean * by_group) * rstd  # of the normalised picture
        g = gain.float().view(B, ctx.groups, -1)
        mean_d = (g * by_group).sum(2, keepdim=True) / ctx.count
        mean_dx = (g * d_gain).sum(2, keepdim=True) / ctx.count
        # dx = rstd (g dy - mean_d - mean_dx * normalised x), gathered by what multiplies dy, x and 1.
        of_x = (-(rstd**2) * mean_dx).expand_as(g).reshape(B, C)
        constant = (rstd * (rstd * mean * mean_dx - mean_d)).expand_as(g).reshape(B, C)
        dx = modulate(x, of_x, constant).addcmul_(dy, (rstd * g).view(B, C, 1, 1).to(dy.dtype))
        return dx, d_gain.view(B, C).to(gain.dtype), d_shift.to(gain.dtype), None, None


def _statistics(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, C, H, W] less a rough mean of each group; mean and 1 / deviation of that, [B, groups, 1], float32."""
    B, C, H, W = x.shape
    # Centred roughly first, by some 8 x 8 of the pixels: of values far from zero, sums of squares, which torch's kernel
    # takes, would lose the digits that matter, and in bfloat16 the shift would too.
    some = x[:, :, :: max(1, H // 8), :: max(1, W // 8)]
    rough = _sums(some).view(B, groups, -1).sum(2, keepdim=True) / (some[0, 0].numel() * (C // groups))
    centred = x - rough.expand(B, groups, C // groups).reshape(B, C, 1, 1).to(x.dtype)
    # Of small pictures and few channels a group that kernel is slower in bfloat16 than with a conversion to float32.
    slow = x.dtype == torch.bfloat16 and H * W < _LARGE and C // groups < _MANY
    # At least float32: without them mean and rstd would be rounded as x is.
    ones = torch.ones(C, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    _, mean, rstd = torch.native_group_norm(
        centred.float() if slow else centred, ones, torch.zeros_like(ones), B, C, H * W, groups, eps
    )
    return centred, mean[:, :, None], rstd[:, :, None]
