"""Named architectures with the training settings that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rcdm_core.diffusion import DiffusionConfig
from rcdm_core.unet import UNetConfig


@dataclass(frozen=True)
class Preset:
    """An architecture, its diffusion and how it is trained by default.

    Attributes:
        unet: UNetConfig's arguments without the conditioning's.
        batch_size: pictures a step; steps: how many there are when nobody says otherwise (Dhariwal & Nichol's own for
            their models).
        optimizer: adamw, or muon: Muon for the matrices of the blocks and AdamW for the other weights.
        lr: the peak learning rate; warmup: steps until it is reached; lr_schedule: constant after that, or cosine.
        h_lr: the learning rate of the layers that read h, as a share of lr.
        betas, weight_decay, clip: AdamW's betas and decay, the gradient norm's bound (0: none).
        ema_decay: of the weights that are kept.
        standardise: whether the network standardises h.
    """

    name: str
    summary: str
    unet: Mapping[str, Any]
    diffusion: DiffusionConfig
    batch_size: int
    steps: int
    lr: float
    optimizer: str = "adamw"
    warmup: int = 100
    lr_schedule: str = "constant"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 1.0
    ema_decay: float = 0.9999
    standardise: bool = field(default=True)
    h_lr: float = 1.0

    def unet_config(self, conditioning: str, h_dim: int = 0) -> UNetConfig:
        """The architecture with a conditioning for representations of size `h_dim`."""
        return UNetConfig(
            **self.unet,
            learned_variance=self.diffusion.variance == "learned_range",
            conditioning=conditioning,
            h_dim=h_dim if conditioning in ("batchnorm", "embedding") else 0,
        )


_V_COSINE = DiffusionConfig(schedule="cosine", prediction="v", variance="fixed_small")
_ADM_LINEAR = DiffusionConfig(schedule="linear", prediction="epsilon", variance="learned_range")
_ADM_COSINE = DiffusionConfig(schedule="cosine", prediction="epsilon", variance="learned_range")

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "tiny-32",
            "32 x 32 in minutes on a laptop's CPU",
            {
                "image_size": 32,
                "model_channels": 32,
                "num_res_blocks": 1,
                "channel_mult": (1, 2, 2),
                "attention_resolutions": (8,),
                "num_heads": 4,
                "norm_groups": 16,
                "emb_channels": 768,
                # A residual block that doubles the resolution convolves all of its channels at the higher one: a fifth
                # of the network's work, for pictures that are no better.
                "resblock_updown": False,
            },
            _V_COSINE,
            batch_size=16,
            steps=12_000,
            lr=3e-3,
            optimizer="muon",
            lr_schedule="cosine",
            betas=(0.9, 0.99),
            ema_decay=0.998,
            # An Adam step moves the output of a layer by about lr times the number of its inputs, and h has over a
            # thousand: at the others' rate its layers wander, above all in batch norms' gains.
            h_lr=0.1,
        ),
        Preset(
            "small-64",
            "64 x 64 in hours on a GPU",
            {
                "image_size": 64,
                "model_channels": 64,
                "num_res_blocks": 2,
                "channel_mult": (1, 2, 3, 4),
                "attention_resolutions": (16, 8),
                "num_heads": 4,
            },
            _V_COSINE,
            batch_size=128,
            steps=300_000,
            lr=3e-4,
            lr_schedule="cosine",
            warmup=1000,
            ema_decay=0.9995,
        ),
        Preset(
            "adm-64",
            "Dhariwal & Nichol's 64 x 64 ImageNet model",
            {
                "image_size": 64,
                "model_channels": 192,
                "num_res_blocks": 3,
                "channel_mult": (1, 2, 3, 4),
                "attention_resolutions": (32, 16, 8),
                "num_head_channels": 64,
                "new_attention_order": True,
                "dropout": 0.1,
            },
            _ADM_COSINE,
            batch_size=2048,
            steps=540_000,
            lr=3e-4,
            warmup=0,
            clip=0.0,
        ),
        Preset(
            "adm-128",
            "Dhariwal & Nichol's 128 x 128 ImageNet model, the released RCDMs' architecture",
            {
                "image_size": 128,
                "model_channels": 256,
                "num_res_blocks": 2,
                "channel_mult": (1, 1, 2, 3, 4),
                "attention_resolutions": (32, 16, 8),
                "num_heads": 4,
            },
            _ADM_LINEAR,
            batch_size=256,
            steps=4_360_000,
            lr=1e-4,
            warmup=0,
            clip=0.0,
        ),
        Preset(
            "adm-256",
            "Dhariwal & Nichol's 256 x 256 ImageNet model",
            {
                "image_size": 256,
                "model_channels": 256,
                "num_res_blocks": 2,
                "channel_mult": (1, 1, 2, 2, 4, 4),
                "attention_resolutions": (32, 16, 8),
                "num_head_channels": 64,
            },
            _ADM_LINEAR,
            batch_size=256,
            steps=1_980_000,
            lr=1e-4,
            warmup=0,
            clip=0.0,
        ),
    )
}
