"""The ADM U-Net (Dhariwal & Nichol 2021), with the representation conditioning of the paper's section 3.

Parameter names are those of the released checkpoints (`input_blocks.3.0.in_layers.2.weight`, `ssl_emb.weight`, ...),
so a released state dict loads without renaming.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcdm_core.conditioning import REDUCED_DIM, ConditionalBatchNorm
from rcdm_core.group_norm import GroupNorm
from rcdm_core.unet_blocks import AttentionBlock, Downsample, ResBlock, Stage, Upsample, silu, zeroed

CONDITIONINGS = ("batchnorm", "embedding", "class", "none")


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
            zeroed(nn.Conv2d(channels, config.out_channels, 3, padding=1)),
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
        x = silu(self.out[0](x))
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
