"""The presets are the architectures that they are named after."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rcdm_core.conditioning import ConditionalBatchNorm
from rcdm_core.group_norm import GroupNorm
from rcdm_core.presets import PRESETS
from rcdm_core.unet import UNet, UNetConfig
from rcdm_core.unet_blocks import AttentionBlock, ResBlock


def parameters(config: UNetConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UNet(config).parameters())


@pytest.mark.parametrize(("name", "millions"), [("adm-64", 295.9), ("adm-128", 421.5), ("adm-256", 553.8)])
def test_the_sizes_that_dhariwal_and_nichol_published(name: str, millions: float) -> None:
    """Of the class-conditional models for ImageNet's 1000 classes, as in their released checkpoints."""
    config = replace(PRESETS[name].unet_config("none"), conditioning="class", num_classes=1000)
    assert parameters(config) / 1e6 == pytest.approx(millions, abs=0.051)


@pytest.mark.parametrize(("h_dim", "millions"), [(2048, 422.6), (128, 420.6), (256, 420.8), (8192, 428.9)])
def test_the_sizes_of_the_released_rcdms(h_dim: int, millions: float) -> None:
    """Trunks of 2048 numbers, and the heads of SimCLR, DINO, Barlow Twins and VICReg."""
    config = PRESETS["adm-128"].unet_config("embedding", h_dim=h_dim)
    assert parameters(config) / 1e6 == pytest.approx(millions, abs=0.051)


def test_the_papers_conditioning_is_in_both_norms_of_every_residual_block_and_nowhere_else() -> None:
    """Section 3: h reduced to 512 numbers, from which gain and bias of conditional batch norms are linear."""
    with torch.device("meta"):
        network = UNet(PRESETS["small-64"].unet_config("batchnorm", h_dim=2048))
    assert network.h_reduce.in_features == 2048 and network.h_reduce.out_features == 512
    blocks = [module for module in network.modules() if isinstance(module, ResBlock)]
    conditional = [module for module in network.modules() if isinstance(module, ConditionalBatchNorm)]
    assert [norm for block in blocks for norm in (block.in_layers[0], block.out_layers[0])] == conditional
    for norm in conditional:
        assert norm.gain.in_features == norm.bias.in_features == 512 and norm.eps == 1e-5
    attention = [module for module in network.modules() if isinstance(module, AttentionBlock)]
    assert attention and all(isinstance(norm, GroupNorm) for norm in (network.out[0], *(one.norm for one in attention)))


@pytest.mark.parametrize(
    ("name", "schedule", "prediction", "variance", "channels", "mult", "blocks", "attention"),
    [
        ("tiny-32", "cosine", "v", "fixed_small", 32, (1, 2, 2), 1, (8,)),
        ("small-64", "cosine", "v", "fixed_small", 64, (1, 2, 3, 4), 2, (16, 8)),
        ("adm-64", "cosine", "epsilon", "learned_range", 192, (1, 2, 3, 4), 3, (32, 16, 8)),
        ("adm-128", "linear", "epsilon", "learned_range", 256, (1, 1, 2, 3, 4), 2, (32, 16, 8)),
        ("adm-256", "linear", "epsilon", "learned_range", 256, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8)),
    ],
)
def test_architecture_and_diffusion(
    name: str,
    schedule: str,
    prediction: str,
    variance: str,
    channels: int,
    mult: tuple[int, ...],
    blocks: int,
    attention: tuple[int, ...],
) -> None:
    preset, unet = PRESETS[name], PRESETS[name].unet_config("none")
    assert (preset.diffusion.schedule, preset.diffusion.prediction) == (schedule, prediction)
    assert preset.diffusion.variance == variance and preset.diffusion.steps == 1000
    assert (unet.image_size, unet.model_channels, unet.channel_mult) == (int(name.split("-")[1]), channels, mult)
    assert (unet.num_res_blocks, unet.attention_resolutions) == (blocks, attention)
    # Departures of the smallest one from ADM, which measurements on pictures speak for.
    own = {"optimizer": "muon", "h_lr": 0.1, "norm_groups": 16, "emb_channels": 768, "resblock_updown": False}
    plain = {"optimizer": "adamw", "h_lr": 1.0, "norm_groups": 32, "emb_channels": 0, "resblock_updown": True}
    found = {key: getattr(preset if hasattr(preset, key) else unet, key) for key in own}
    assert found == (own if name == "tiny-32" else plain)
    heads_of_64_channels = name in ("adm-64", "adm-256")
    assert (unet.num_head_channels == 64) == heads_of_64_channels and (heads_of_64_channels or unet.num_heads == 4)
    assert unet.new_attention_order == (name == "adm-64") and unet.dropout == (0.1 if name == "adm-64" else 0.0)
