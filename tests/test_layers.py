"""h at an inner layer, against what the plain networks compute there."""

from __future__ import annotations

from typing import Any, cast

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from rcdm_core import LAYER, Encoder, Option, Provider, RCDMError, at_layer, check_provider, find_provider, load_encoder
from rcdm_core.layers import InnerLayer

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_map_is_averaged_over_its_positions_as_torchvisions_own_pooling_does() -> None:
    encoder = load_encoder("random-resnet50", seed=3, layer="layer4")
    pooled = load_encoder("random-resnet50", seed=3)
    h = encoder(IMAGES)
    assert encoder.dim == 2048 and (h - pooled(IMAGES)).abs().max() <= 1e-5 * h.abs().max()
    assert load_encoder("random-resnet50", seed=3, layer="layer2").dim == 512


@pytest.mark.parametrize("layer", ["layer1.0.bn1", "layer4.1.bn2", "layer2.0.conv1", "layer3"])
def test_what_follows_in_place_does_not_change_it(layer: str) -> None:
    """ReLU and the sums of residual blocks overwrite what they are given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.resnet18(weights=None).eval()
    seen: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    with torch.no_grad():
        h = at_layer(network, layer, provider="mine")(IMAGES)
    hook.remove()
    assert torch.equal(h, seen[0].mean((2, 3)))


def test_tokens_are_averaged_and_vectors_stay() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64).eval()
    inner = at_layer(network, "blocks.5", provider="mine")
    with torch.no_grad():
        expected = network.forward_intermediates(IMAGES, indices=[5], return_prefix_tokens=True, output_fmt="NLC")[1][0]
        tokens = torch.cat([expected[1], expected[0]], 1)
        assert torch.allclose(inner(IMAGES), tokens.mean(1), atol=1e-5)
        assert torch.equal(at_layer(network, "fc_norm", provider="mine")(IMAGES), network(IMAGES))
    assert at_layer(network, None, provider="mine") is network


def test_channels_come_last_where_the_network_says_so() -> None:
    network = torchvision.models.swin_t(weights=None).eval()
    inner = at_layer(network, "features.1", provider="mine", channels_last=True)
    with torch.no_grad():
        expected = network.features[:2](IMAGES).mean((1, 2))
        assert expected.shape == (2, 96) and torch.allclose(inner(IMAGES), expected, atol=1e-6)
        # its first convolution still gives [B, C, H, W], and its blocks say what they are by their sides
        convolved = network.features[0][0](IMAGES).mean((2, 3))
        first = at_layer(network, "features.0.0", provider="mine", channels_last=True)(IMAGES)
        assert torch.allclose(first, convolved, atol=1e-6)
        assert torch.equal(at_layer(network, "features.1", provider="mine")(IMAGES), inner(IMAGES))


class _Odd(nn.Module):
    """Modules that do not run, that run twice, and that give no vector a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.twice, self.whole, self.pair = nn.Identity(), nn.Identity(), nn.Flatten(0), _Pair()

    def forward(self, images: Tensor) -> Tensor:
        self.whole(images)
        self.pair(images)
        return self.twice(self.twice(images) + 1).mean((2, 3))


class _Pair(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return images, None


def test_what_a_layer_can_be() -> None:
    def h(layer: str) -> Tensor:
        return at_layer(_Odd(), layer, provider="mine")(IMAGES)

    assert torch.allclose(h("twice"), IMAGES.mean((2, 3)) + 1)
    assert torch.equal(h("pair"), IMAGES.mean((2, 3)))
    for layer, message in (
        ("twise", r"option layer of mine is 'twise', .* the nearest are twice"),
        ("", "no such module; at its top are idle, twice, whole, pair"),
        ("idle", "layer idle of mine does not run"),
        ("whole", r"layer whole of mine gives shape \[24576\] for 2 pictures"),
    ):
        with pytest.raises(RCDMError, match=message):
            h(layer)


def test_a_layer_keeps_the_contract_and_no_hook_stays_behind() -> None:
    def load(*, weights: str | None = None, layer: str | None) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = torchvision.models.resnet18(weights=None)
        network.fc = nn.Identity()
        return Encoder(at_layer(network, layer, provider="small"), image_size=32, mean=[0.5] * 3, std=[0.5] * 3)

    provider = Provider("small", "a ResNet-18", load, dim=512, options={"layer": LAYER})
    assert load_encoder(provider).dim == 512 and load_encoder(provider, layer="layer1").dim == 64
    encoder = load_encoder(provider, layer="layer2")
    encoder(IMAGES)
    inner = cast(InnerLayer, encoder.network)
    assert not inner.network.get_submodule("layer2")._forward_hooks
    # a size that is contradicted is still refused
    other = Option(str, None, "where")
    wrong = Provider("small", "a ResNet-18", load, dim=64, options={"layer": other})
    for options in ({}, {"layer": "layer2"}):  # and this option does not say that it changes the size
        with pytest.raises(RCDMError, match="declares 64"):
            load_encoder(wrong, options=options)


@pytest.mark.parametrize("name", ["random-resnet50"])
def test_the_conformance_check_takes_a_layer(name: str) -> None:
    results = check_provider(name, options={"layer": "layer1", "seed": 1})
    assert [result.name for result in results if result.passed is False] == []


@pytest.mark.parametrize("name", ["supervised-resnet50", "barlow-resnet50-head", "dino-vits16", "timm:resnet18"])
def test_every_family_declares_it(name: str) -> None:
    option: Any = find_provider(name).options["layer"]
    assert option.type is str and option.default is None
