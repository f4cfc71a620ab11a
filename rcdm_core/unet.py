"""The ADM U-Net (Dhariwal & Nichol 2021), with the representation conditioning of the paper's section 3.

Parameter names are those of the released checkpoints (`input_blocks.3.0.in_layers.2.weight`, `ssl_emb.weight`, ...),
so a released state dict loads without renaming.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcdm_core.conditioning import REDUCED_DIM, ConditionalBatchNorm
from rcdm_core.group_norm import GroupNorm

CONDITIONINGS = ("batchnorm", "embedding", "class", "none")
_SHORT = 256  # tokens; longer sequences gain from bfloat16 also on a CPU


@dataclass(frozen=True)
class UNetConfig:
    """The architecture of a U-Net; stored in a bundle.

    Attributes:
        image_size: S, height and width of the pictures in pixels.
        model_channels: width of the first level at multiplier 1; a multiple of `norm_groups`.
        num_res_blocks: residual blocks a level.
        channel_mult: a multiplier of `model_channels` for each level; each further level halves the resolution.
        attention_resolutions: resolutions in pixels (not downsampling factors) whose blocks are followed by attention.
        in_channels: channels of x_t.
        learned_variance: whether the output carries `in_channels` more channels, for the variance.
        dropout: probability, inside the residual blocks.
        num_heads: attention heads; ignored where `num_head_channels` is given (-1: not given).
        norm_groups: groups of the group norms; every released network has 32. In a narrow network that is one channel a
            group, and a block no longer sees how bright its picture is.
        emb_channels: width of the embedding of time and h, through which h reaches every block with `embedding`; 0:
            four times `model_channels`, as in every released network. In a narrow one that leaves few numbers for h.
        use_scale_shift_norm: the time embedding scales and shifts the second normalisation, instead of being added.
        resblock_updown: residual blocks change the resolution, instead of plain convolutions.
        new_attention_order: split q, k, v before heads (one released ADM model); otherwise heads first.
        conditioning: "batchnorm", "embedding", "class" (a label table) or "none".
        h_dim: size of h, for "batchnorm" and "embedding".
        num_classes: number of labels, for "class".
        low_res: an upsampler: the network also sees a low-resolution picture.

    Raises:
        ValueError: for a combination that cannot be built.
    """

    image_size: int
    model_channels: int
    num_res_blocks: int
    channel_mult: tuple[float, ...]
    attention_resolutions: tuple[int, ...]
    in_channels: int = 3
    learned_variance: bool = False
    dropout: float = 0.0
    num_heads: int = 4
    num_head_channels: int = -1
    norm_groups: int = 32
    emb_channels: int = 0
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    new_attention_order: bool = False
    conditioning: str = "batchnorm"
    h_dim: int = 0
    num_classes: int = 0
    low_res: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        object.__setattr__(self, "attention_resolutions", tuple(self.attention_resolutions))
        if self.conditioning not in CONDITIONINGS:
            raise ValueError(f"conditioning {self.conditioning!r} is none of {', '.join(CONDITIONINGS)}")
        if self.conditioning in ("batchnorm", "embedding") and self.h_dim < 1:
            raise ValueError(f"conditioning {self.conditioning!r} needs h_dim, the size of the representation")
        if self.conditioning == "class" and self.num_classes < 1:
            raise ValueError("conditioning 'class' needs num_classes")
        for mult in self.channel_mult:
            if int(mult * self.model_channels) % self.norm_groups:
                raise ValueError(
                    f"{mult} x {self.model_channels} channels is no multiple of the {self.norm_groups} norm groups"
                )
        if self.image_size % 2 ** (len(self.channel_mult) - 1):
            raise ValueError(f"image size {self.image_size} cannot be halved {len(self.channel_mult) - 1} times")

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learned_variance else 1)

    @property
    def emb_dim(self) -> int:
        """Width of the embedding that every block sees."""
        return self.emb_channels or 4 * self.model_channels

    def heads(self, channels: int) -> int:
        """Number of attention heads at a width of `channels`."""
        return self.num_heads if self.num_head_channels == -1 else channels // self.num_head_channels

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNetConfig:
        """The inverse of `to_dict`. Raises ValueError for a name that this version does not know."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown architecture setting {', '.join(sorted(unknown))}")
        return cls(**values)


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000) -> Tensor:
    """Sinusoids of the timestep: [B] -> [B, dim] float32, cosines first, frequencies from 1 down to 1/max_period."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _silu(x: Tensor) -> Tensor:
    """SiLU, in place where no gradient wants x: autograd would copy it first."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _zeroed(module: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
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
            _zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, kernel_size=1)
        )

    def forward(self, x: Tensor, emb: Tensor, condition: Tensor | None) -> Tensor:
        """Args: x [B, C, H, W]; emb [B, emb_dim]; condition [B, 512] with `batchnorm`, else None."""
        conditions = () if condition is None else (condition,)
        y = _silu(self.in_layers[0](x, *conditions))
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
        y = self.out_layers[3](self.out_layers[2](_silu(y)))
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
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

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


class UNet(nn.Module):
    """The network that predicts epsilon or v from x_t, the timestep and the representation.

    h is standardised per dimension inside the network with the statistics given to `set_h_statistics` (the identity
    until then), so every caller passes the representation as its encoder gives it.
    """

    h_mean: Tensor
    h_std: Tensor

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        emb_dim = config.emb_dim
        self.time_embed = nn.Sequential(
            nn.Linear(config.model_channels, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim)
        )
        if config.conditioning == "batchnorm":
            self.h_reduce = nn.Linear(config.h_dim, REDUCED_DIM)
        elif config.conditioning == "embedding":
            self.ssl_emb = nn.Linear(config.h_dim, emb_dim)
        elif config.conditioning == "class":
            self.label_emb = nn.Embedding(config.num_classes, emb_dim)
        # Not persistent: the state dict keeps the released names; a bundle stores the statistics beside it.
        self.register_buffer("h_mean", torch.zeros(config.h_dim), persistent=False)
        self.register_buffer("h_std", torch.ones(config.h_dim), persistent=False)
        self._build()

    def _build(self) -> None:
        config = self.config
        widths = [int(mult * config.model_channels) for mult in config.channel_mult]
        resolution, channels = config.image_size, widths[0]
        in_channels = config.in_channels * (2 if config.low_res else 1)
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(in_channels, channels, 3, padding=1))])
        skips = [channels]
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(self._stage(channels, width, resolution))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                down = ResBlock(config, channels, channels, "down") if config.resblock_updown else Downsample(channels)
                self.input_blocks.append(Stage(down))
                resolution //= 2
                skips.append(channels)
        self.middle_block = Stage(
            ResBlock(config, channels, channels), AttentionBlock(config, channels), ResBlock(config, channels, channels)
        )
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for block in range(config.num_res_blocks + 1):
                stage = self._stage(channels + skips.pop(), width, resolution)
                channels = width
                if level and block == config.num_res_blocks:
                    up = ResBlock(config, channels, channels, "up") if config.resblock_updown else Upsample(channels)
                    stage.append(up)
                    resolution *= 2
                self.output_blocks.append(stage)
        self.out = nn.Sequential(
            GroupNorm(channels, config.norm_groups),
            nn.SiLU(),
            _zeroed(nn.Conv2d(channels, config.out_channels, 3, padding=1)),
        )

    def _stage(self, channels: int, width: int, resolution: int) -> Stage:
        stage = Stage(ResBlock(self.config, channels, width))
        if resolution in self.config.attention_resolutions:
            stage.append(AttentionBlock(self.config, width))
        return stage

    def set_h_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Standardise h with the training set's `mean` and `std`, both [h_dim], from now on."""
        self.h_mean.copy_(mean)
        self.h_std.copy_(std)

    def parameters_reading_h(self) -> list[nn.Parameter]:
        """Those of the layers whose input is h, or what h was reduced to."""
        layers: list[nn.Module] = [getattr(self, name) for name in ("h_reduce", "ssl_emb") if hasattr(self, name)]
        for module in self.modules():
            if isinstance(module, ConditionalBatchNorm):
                layers += [module.gain, module.bias]
        return [parameter for layer in layers for parameter in layer.parameters()]

    def matrices_of_blocks(self) -> list[nn.Parameter]:
        """Weights of at least two axes that neither see the picture, t or h nor make the output: what Muon is for."""
        reading_h = {id(parameter) for parameter in self.parameters_reading_h()}
        blocks = (*self.input_blocks[1:], self.middle_block, *self.output_blocks)
        return [p for block in blocks for p in block.parameters() if p.ndim > 1 and id(p) not in reading_h]

    def forward(self, x_t: Tensor, t: Tensor, h: Tensor | None = None, low_res: Tensor | None = None) -> Tensor:
        """Predict from a noised picture.

        Args:
            x_t: [B, in_channels, S, S], about [-1, 1] plus noise.
            t: [B], original timesteps in [0, diffusion steps).
            h: representation [B, h_dim] float; int64 labels [B] with `class` conditioning; None with `none`.
            low_res: for an upsampler, the small picture [B, in_channels, s, s] in [-1, 1].

        Returns:
            [B, out_channels, S, S] float32: the prediction, then the variance channels if they are learned.

        Raises:
            ValueError: where h or low_res is missing, superfluous or of another size than the architecture's.
        """
        emb, condition = self._embed(t, h)
        if (low_res is not None) != self.config.low_res:
            raise ValueError("this network needs low_res" if self.config.low_res else "this network takes no low_res")
        if low_res is not None:
            x_t = torch.cat([x_t, F.interpolate(low_res, x_t.shape[-2:], mode="bilinear")], dim=1)
        x = x_t.contiguous(memory_format=torch.channels_last)
        skips = []
        for stage in self.input_blocks:
            x = stage(x, emb, condition)
            skips.append(x)
        x = self.middle_block(x, emb, condition)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), emb, condition)
        x = _silu(self.out[0](x))
        return self.out[2](x).float()

    def _embed(self, t: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The embedding that every block sees, and the condition that the conditional batch norms read."""
        config = self.config
        # The time embedding stays in float32 under autocast: its sinusoids of t up to 1000 need the precision.
        with torch.autocast(t.device.type, enabled=False):
            emb = self.time_embed(timestep_embedding(t, config.model_channels))
            if config.conditioning == "none":
                if h is not None and h.numel():
                    raise ValueError("this network is unconditional and takes no h")
                return emb, None
            if h is None:
                raise ValueError(f"this network needs h (conditioning {config.conditioning!r})")
            if config.conditioning == "class":
                return emb + self.label_emb(h), None
            if h.shape != (len(t), config.h_dim):
                raise ValueError(f"h has shape {tuple(h.shape)}, but this network takes {(len(t), config.h_dim)}")
            standardised = (h.float() - self.h_mean) / self.h_std
            if config.conditioning == "embedding":
                return emb + self.ssl_emb(standardised), None
            return emb, self.h_reduce(standardised)
