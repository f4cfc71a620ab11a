"""ADM's group normalisation, with a backward pass of our own for channels-last pictures on a CPU.

Convolutions are much faster there in that format, in bfloat16 above all, but torch's gradient of a group norm is up to
three times slower in it, and knows gains of channels alone, not of each picture's. `_Normalise` has both: the gradients
of gain and shift are sums over each channel, and that of the picture is `dy * a + x * b + c` with one a, b and c for
each picture and channel. `benchmarks/speed.py` measures what it gives.
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
        on_cpu_channels_last = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
        gain: Tensor = self.weight
        bias: Tensor = self.bias
        if scale is not None and shift is not None:
            gain, bias = gain * (1 + scale), bias * (1 + scale) + shift
        elif not on_cpu_channels_last:
            return super().forward(x)
        if on_cpu_channels_last:
            gain, bias = gain.expand(x.shape[:2]), bias.expand(x.shape[:2])
            return _Normalise.apply(x, gain, bias, self.num_groups, self.eps)
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
        normalised, rstd = _normalised(x, groups, eps)
        ctx.save_for_backward(normalised, gain, rstd)
        return modulate(normalised, gain, shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        normalised, gain, rstd = ctx.saved_tensors
        (B, C, H, W), groups = normalised.shape, rstd.shape[1]
        count = H * W * (C // groups)
        dy = dy.contiguous(memory_format=torch.channels_last)
        d_shift, d_gain = _sums(dy), _sums(dy * normalised)
        # dx = rstd (g dy - mean of g dy - normalised * mean of g dy normalised), the means over each group.
        g = gain.float()
        of_dy, share = g * _spread(rstd, C), rstd / -count
        of_normalised, constant = (
            _spread((g * sums).view(B, groups, -1).sum(2) * share, C) for sums in (d_gain, d_shift)
        )
        dx = modulate(normalised, of_normalised, constant).addcmul_(dy, of_dy.to(dy.dtype)[:, :, None, None])
        return dx, d_gain.to(gain.dtype), d_shift.to(gain.dtype), None, None


def _spread(values: Tensor, channels: int) -> Tensor:
    """[B, groups] -> [B, channels], each group's for all of its channels."""
    B, groups = values.shape
    return values[:, :, None].expand(B, groups, channels // groups).reshape(B, channels)


def _normalised(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Of [B, C, H, W]: (x - mean) / deviation of each group, channels-last, and 1 / deviation, [B, groups]."""
    B, C, H, W = x.shape
    # Centred roughly first, by one pixel: torch's kernel takes sums of squares, which of values far from zero lose the
    # digits that matter. The pixels of flat pictures are as far as that in most channels.
    rough = x[:, :, 0, 0].reshape(B, groups, C // groups).float().mean(2)
    x = x - _spread(rough, C)[:, :, None, None].to(x.dtype)
    # Of small pictures and few channels a group that kernel is slower in bfloat16 than with a conversion to float32.
    slow = x.dtype == torch.bfloat16 and H * W < _LARGE and C // groups < _MANY
    # At least float32: without them rstd would be rounded as x is.
    precise = torch.promote_types(x.dtype, torch.float32)
    ones = torch.ones(C, dtype=precise, device=x.device)
    y, _, rstd = torch.native_group_norm(
        x.float() if slow else x, ones, torch.zeros_like(ones), B, C, H * W, groups, eps
    )
    return y.to(x.dtype), rstd
