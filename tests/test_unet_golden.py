"""The engine against numbers of the reference implementation (tests/golden), in float32 on the CPU."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rcdm_core.conditioning import ConditionalBatchNorm
from rcdm_core.unet import UNet, UNetConfig

GOLDEN = Path(__file__).parent / "golden"


def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    path = GOLDEN / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    return load_file(path), config


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    worst = (actual.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert worst <= tolerance, f"differs by {worst:.2e} of the largest value"


def golden_weights(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    state = {}
    for key, shape in dict(config["keys"]).items():
        random = np.random.RandomState(zlib.crc32(f"{config['seed']}/{key}".encode()))
        w = random.standard_normal(shape)
        w *= 0.5 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.2
        state[key] = torch.from_numpy(w.astype(np.float32))
    return state


def our_config(golden: dict[str, Any]) -> UNetConfig:
    image_size = golden.get("image_size", golden.get("large_size"))
    if golden.get("instance_cond"):
        conditioning = "embedding"
    else:
        conditioning = "class" if "num_classes" in golden else "none"
    return UNetConfig(
        image_size=image_size,
        model_channels=golden["model_channels"],
        num_res_blocks=golden["num_res_blocks"],
        channel_mult=tuple(golden["channel_mult"]),
        attention_resolutions=tuple(image_size // factor for factor in golden["attention_resolutions"]),
        learned_variance=golden["out_channels"] == 6,
        num_heads=golden["num_heads"],
        num_head_channels=golden.get("num_head_channels", -1),
        use_scale_shift_norm=golden["use_scale_shift_norm"],
        resblock_updown=golden["resblock_updown"],
        new_attention_order=golden.get("use_new_attention_order", False),
        conditioning=conditioning,
        h_dim=golden.get("ssl_dim", 0),
        num_classes=golden.get("num_classes", 0),
        low_res="large_size" in golden,
    )


@pytest.mark.parametrize("name", ["unet_released", "unet_additive", "unet_uncond", "unet_class", "superres_class"])
def test_unet_computes_what_the_reference_computes(name: str) -> None:
    tensors, golden = read(name)
    config = our_config(golden)
    unet = UNet(config).eval()
    state = golden_weights(golden)
    assert {k: list(v.shape) for k, v in unet.state_dict().items()} == {k: list(v.shape) for k, v in state.items()}
    assert list(unet.state_dict()) == list(state)  # the order too: the names map one to one
    unet.load_state_dict(state)
    h = tensors.get("in_feat", tensors.get("in_y"))
    with torch.no_grad():
        close(unet(tensors["x"], tensors["t"], h, tensors.get("low_res")), tensors["y"])
    assert UNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_conditional_batch_norm_in_training_and_evaluation() -> None:
    tensors, golden = read("conditional_batchnorm")
    norm = ConditionalBatchNorm(golden["channels"], golden["cond_dim"], golden["eps"], golden["momentum"])
    norm.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("weights/")})
    x, h = tensors["x"], tensors["h"]
    close(norm.eval()(x, h), tensors["y_eval"])
    close(norm.train()(x, h), tensors["y_train"])
    for name, value in norm.state_dict().items():
        close(value, tensors[f"after/{name}"])


def test_conditional_batch_norm_merges_the_scale_and_shift_of_the_time_embedding() -> None:
    torch.manual_seed(0)
    norm = ConditionalBatchNorm(8, 5).eval()
    x, h = torch.randn(3, 8, 4, 4), torch.randn(3, 5)
    scale, shift = torch.randn(3, 8), torch.randn(3, 8)
    expected = norm(x, h) * (1 + scale)[:, :, None, None] + shift[:, :, None, None]
    close(norm(x, h, scale, shift), expected, 1e-6)


def test_statistics_that_start_anew_are_the_plain_average_over_batches() -> None:
    torch.manual_seed(0)
    norm = ConditionalBatchNorm(4, 2).train()
    norm(torch.randn(8, 4, 3, 3) + 7, torch.randn(8, 2))
    norm.reset_statistics()
    batches = [torch.randn(8, 4, 3, 3) * (i + 1) + i for i in range(3)]
    for batch in batches:
        norm(batch, torch.randn(8, 2))
    close(norm.stored_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0), 1e-5)
    close(norm.stored_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0), 1e-5)


TINY = {
    "image_size": 16,
    "model_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": (1, 2),
    "attention_resolutions": (8,),
}


@pytest.mark.parametrize("conditioning", ["batchnorm", "embedding"])
def test_the_output_depends_on_h_and_h_is_standardised_inside(conditioning: str) -> None:
    torch.manual_seed(0)
    unet = UNet(UNetConfig(**TINY, conditioning=conditioning, h_dim=10)).eval()
    for parameter in unet.parameters():  # a fresh network ends its residual branches in zeros, whatever h is
        torch.nn.init.normal_(parameter, std=0.1)
    x_t, t, h = torch.randn(2, 3, 16, 16), torch.tensor([10, 500]), torch.randn(2, 10)
    plain = unet(x_t, t, h)
    assert (unet(x_t, t, h + 1) - plain).abs().max() > 1e-4
    unet.set_h_statistics(torch.full((10,), 5.0), torch.full((10,), 100.0))
    close(unet(x_t, t, h * 100 + 5), plain, 1e-4)
    assert not any("h_mean" in key or "h_std" in key for key in unet.state_dict())


@pytest.mark.parametrize(
    ("config", "h", "low_res", "message"),
    [
        ({"conditioning": "embedding", "h_dim": 4}, None, False, "needs h"),
        ({"conditioning": "batchnorm", "h_dim": 4}, torch.zeros(2, 5), False, "shape"),
        ({"conditioning": "none"}, torch.zeros(2, 5), False, "takes no h"),
        ({"conditioning": "none"}, None, True, "takes no low_res"),
        ({"conditioning": "none", "low_res": True}, None, False, "needs low_res"),
    ],
)
def test_a_wrong_condition_is_refused(
    config: dict[str, Any], h: torch.Tensor | None, low_res: bool, message: str
) -> None:
    unet = UNet(UNetConfig(**TINY, **config))
    small = torch.zeros(2, 3, 8, 8) if low_res else None
    with pytest.raises(ValueError, match=message):
        unet(torch.zeros(2, 3, 16, 16), torch.zeros(2), h, small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditioning": "telepathy"}, "none of"),
        ({"conditioning": "batchnorm"}, "h_dim"),
        ({"conditioning": "class"}, "num_classes"),
        ({"model_channels": 40, "conditioning": "none"}, "32 norm groups"),
        ({"image_size": 15, "conditioning": "none"}, "halved"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNetConfig(**{**TINY, **change})


def test_released_128_and_small_64_have_the_published_sizes() -> None:
    from rcdm_core.presets import PRESETS

    def parameters(preset: str, **conditioning: Any) -> float:
        with torch.device("meta"):
            unet = UNet(PRESETS[preset].unet_config(**conditioning))
        return round(sum(p.numel() for p in unet.parameters()) / 1e6, 1)

    assert parameters("adm-128", conditioning="embedding", h_dim=2048) == 422.6  # the released RCDMs
    assert parameters("adm-128", conditioning="embedding", h_dim=128) == 420.6  # SimCLR's head
    assert parameters("adm-128", conditioning="embedding", h_dim=8192) == 428.9  # Barlow Twins' head
    assert parameters("small-64", conditioning="embedding", h_dim=2048) == 25.6
