"""random-resnet50 and supervised-resnet50, against torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torchvision
from checkpoint_files import resnet50
from torch import Tensor

from rcdm_core import IMAGENET_MEAN, IMAGENET_STD, Encoder, RCDMError, find_provider, load_encoder


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def reference() -> torchvision.models.ResNet:
    return resnet50()


@pytest.fixture(scope="module")
def checkpoint(reference: torchvision.models.ResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(reference.state_dict(), path)
    return path


def load(name: str, **options: Any) -> Encoder:
    """Without the pass over the test pictures that load_encoder makes, which takes a while at 224 x 224."""
    provider = find_provider(name)
    return cast(Encoder, provider.load(weights=options.pop("weights", None), **provider.complete_options(options)))


def test_supervised_is_torchvisions_pooled_layer4(
    reference: torchvision.models.ResNet, checkpoint: Path, images: Tensor
) -> None:
    encoder = load_encoder("supervised-resnet50", weights=str(checkpoint))
    normalise = torchvision.transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    pooled: list[Tensor] = []
    hook = reference.avgpool.register_forward_hook(lambda _, __, out: pooled.append(out.flatten(1)))
    with torch.no_grad():
        reference(normalise(images))
        h = encoder(images)
    hook.remove()
    assert h.shape == (2, 2048) and (encoder.dim, encoder.image_size) == (2048, 224)
    assert (h - pooled[0]).norm() <= 1e-5 * pooled[0].norm()


@pytest.mark.parametrize("name", ["supervised-resnet50", "random-resnet50"])
def test_mean_and_std_are_options(name: str, checkpoint: Path, images: Tensor) -> None:
    """The released RCDM models saw pictures in [-1, 1]."""
    weights = str(checkpoint) if name == "supervised-resnet50" else None
    encoder = load(name, weights=weights, mean="0.5,0.5,0.5", std="0.5,0.5,0.5")
    seen: list[Tensor] = []
    encoder.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        encoder(images[:1, :, :64, :64])
    torch.testing.assert_close(seen[0], images[:1, :, :64, :64] * 2 - 1)


def test_random_weights_are_torchvisions_for_the_seed_and_leave_the_callers_generator_alone() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    state = load("random-resnet50", seed=1).network.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    expected = torchvision.models.resnet50(weights=None).state_dict()
    assert state.keys() == expected.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert not torch.equal(load("random-resnet50").network.state_dict()["conv1.weight"], state["conv1.weight"])


def test_random_weights_ignore_the_default_device() -> None:
    with torch.device("meta"):
        weight = load("random-resnet50").network.state_dict()["conv1.weight"]
    assert torch.equal(weight, load("random-resnet50").network.state_dict()["conv1.weight"])


def test_wrong_input_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RCDMError, match=r"random-resnet50 has random weights: leave out --weights x\.pth"):
        load_encoder("random-resnet50", weights="x.pth")
    with pytest.raises(RCDMError, match="option seed of provider random-resnet50 is -1"):
        load_encoder("random-resnet50", seed=-1)
    other = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), other)
    with pytest.raises(
        RCDMError, match=r"resnet18\.pth does not fit supervised-resnet50: .* missing .* of another shape"
    ):
        load_encoder("supervised-resnet50", weights=str(other))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(RCDMError, match=r"resnet50-0676ba61\.pth, and could not be fetched .*--weights FILE"):
        load_encoder("supervised-resnet50")


def test_what_is_declared_is_what_torchvision_says() -> None:
    provider = find_provider("supervised-resnet50")
    meta = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    assert provider.weights is not None and provider.weights.url == meta.url
    transform = meta.transforms()
    assert provider.options["mean"].default == tuple(transform.mean)
    assert provider.options["std"].default == tuple(transform.std)
    assert [provider.image_size] == transform.crop_size
