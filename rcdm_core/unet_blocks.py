"""What the U-Net is built of: residual blocks, self-attention and changes of the resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcdm_core.conditioning import ConditionalBatchNorm
from rcdm_core.group_norm import GroupNorm

if TYPE_CHECKING:
    from rcdm_core.unet import UNetConfig

_SHORT = 256  # tokens; longer sequences gain from bfloat16 also on a CPU


def silu(x: Tensor) -> Tensor:
    """SiLU, in place where no gradient wants x: autograd would copy it first."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def zeroed(module: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """Start a residual branch at zero, so that a fresh network is close to the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Resample(nn.Module):
    """Nearest-neighbour doubling ("up") or 2 x 2 averaging ("down"), without parameters."""

    taps: Tensor

    def __init__(self, direction: str) -> None:
        super().__init__()
        self.direction = direction
        # Which of a 3-tap kernel's weights meet in each of the 4 taps of "double, then convolve".
        taps = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float32)
        self.register_buffer("taps", taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.direction == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2)

    def then_convolve(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """`conv(self(x))` for a 3 x 3 convolution with padding 1.

        After a doubling each output sees 2 x 2 different inputs, not 3 x 3: the two together are one transposed
        convolution with a 4 x 4 kernel and stride 2, and cost 4/9 of the multiplications.
        """
        if self.direction == "down":
            return conv(self(x))
        kernel = torch.einsum("mk,oikl,nl->iomn", self.taps, conv.weight, self.taps).contiguous()
        return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


class Upsample(nn.Module):
    """Doubling followed by a convolution, for networks without residual up blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.resample = Resample("up")

    def forward(self, x: Tensor) -> Tensor:
        return self.resample.then_convolve(x, self.conv)


class Downsample(nn.Module):
    """A strided convolution, for networks without residual down blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(nn.Module):
    """A residual block that sees the timestep and, with `batchnorm` conditioning, the reduced representation.

    Args:
        resample: "up" or "down" to change the resolution between the first normalisation and convolution, or None.
    """

    def __init__(self, config: UNetConfig, channels: int, out_channels: int, resample: str | None = None) -> None:
        super().__init__()
        emb_dim = config.emb_dim
        self.scale_shift = config.use_scale_shift_norm

        def norm(channels: int) -> nn.Module:
            if config.conditioning == "batchnorm":
                return ConditionalBatchNorm(channels)
            return GroupNorm(channels, config.norm_groups)

        self.in_layers = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.resample = Resample(resample) if resample else None
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_dim, 2 * out_channels if self.scale_shift else out_channels)
        )
        self.out_layers = nn.Sequential(
            norm(out_channels),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, kernel_size=1)
        )

    def forward(self, x: Tensor, emb: Tensor, condition: Tensor | None) -> Tensor:
        """Args: x [B, C, H, W]; emb [B, emb_dim]; condition [B, 512] with `batchnorm`, else None."""
        conditions = () if condition is None else (condition,)
        y = silu(self.in_layers[0](x, *conditions))
        if self.resample is None:
            y = self.in_layers[2](y)
        else:
            conv = cast(nn.Conv2d, self.in_layers[2])
            x, y = self.resample(x), self.resample.then_convolve(y, conv)
        time = self.emb_layers(emb)
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            y = self.out_layers[0](y, *conditions, scale, shift)
        else:
            y = self.out_layers[0](y + time[:, :, None, None].to(y.dtype), *conditions)
        y = self.out_layers[3](self.out_layers[2](silu(y)))
        return self.skip_connection(x) + y


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of [B, heads, tokens, width].

    On a CPU torch's backward pass for short sequences is several times slower in bfloat16 than in float32.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= _SHORT:
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    return F.scaled_dot_product_attention(q, k, v)


class AttentionBlock(nn.Module):
    """Self-attention over all positions of a picture, with a residual connection."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.heads = config.heads(channels)
        self.new_order = config.new_attention_order
        if self.heads < 1 or channels % self.heads:
            raise ValueError(f"{channels} channels cannot be split into {self.heads} attention heads")
        self.norm = GroupNorm(channels, config.norm_groups)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        # Both 1 x 1 convolutions are matrix products over the channels, the innermost axis of a channels-last tensor.
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(B, H * W, C)
        qkv = F.linear(tokens, self.qkv.weight[:, :, 0], self.qkv.bias)
        if self.new_order:
            q, k, v = qkv.view(B, H * W, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = qkv.view(B, H * W, self.heads, 3, C // self.heads).permute(3, 0, 2, 1, 4)
        attended = _attend(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        out = F.linear(attended, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        return x + out.view(B, H, W, C).permute(0, 3, 1, 2)


class Stage(nn.Sequential):
    """Layers in sequence; each residual block among them also gets the embedding and the condition."""

    def forward(self, x: Tensor, emb: Tensor, condition: Tensor | None) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb, condition) if isinstance(layer, ResBlock) else layer(x)
        return x
