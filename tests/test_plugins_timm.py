"""timm:MODEL, against timm's own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from rcdm_plugin_timm._network import _classifiers, _create
from safetensors.torch import save_file
from torch import nn
from torchvision import transforms

from rcdm_core import Encoder, RCDMError, find_provider


def load(name: str, weights: Path | None = None, **options: Any) -> Encoder:
    provider = find_provider(name)
    given = None if weights is None else str(weights)
    return cast(Encoder, provider.load(weights=given, **provider.complete_options(options)))


@pytest.mark.parametrize(
    ("model", "pool", "size", "mean", "std", "dim"),
    [
        ("resnet10t.c3_in1k", None, 176, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 512),
        ("vit_tiny_patch16_224.augreg_in21k", None, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 192),
        ("vit_tiny_patch16_224.augreg_in21k", "avg", 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 192),
    ],
)
def test_h_is_timms_with_the_models_own_preprocessing(
    model: str, pool: str | None, size: int, mean: tuple[float, ...], std: tuple[float, ...], dim: int, tmp_path: Path
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(model, pretrained=False).eval()  # its classifier is in the file
        if isinstance(getattr(network, "norm", None), nn.LayerNorm):  # as trained, not as it begins
            nn.init.uniform_(network.norm.weight, 0.5, 1.5)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    encoder = load(f"timm:{model}", tmp_path / "weights.pth", **({} if pool is None else {"pool": pool}))
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        normalised = transforms.Normalize(mean, std)(image)
        features = network.forward_features(normalised)  # behind the last norm
        expected = network.forward_head(features, pre_logits=True) if pool is None else features[:, 1:].mean(1)
        h = encoder(image)
    assert (encoder.image_size, encoder.dim) == (size, dim) and h.shape == (1, dim)
    assert (h - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_timm_does_not_have_is_said_with_what_it_has(tmp_path: Path) -> None:
    for name, message in (
        ("timm:", "should be timm:MODEL"),
        ("timm:resnet5O", r"no model 'resnet5O'; the nearest are resnet5"),
        ("timm:resnet10t.imagenet", r"no weights 'imagenet' for timm:resnet10t.imagenet; there are c3_in1k"),
    ):
        with pytest.raises(RCDMError, match=message):
            load(name, tmp_path / "absent.pth")
    with pytest.raises(RCDMError, match="option pool of timm:resnet10t is 'no such'"):
        load("timm:resnet10t", tmp_path / "absent.pth", pool="no such")
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "other.pth")
    with pytest.raises(RCDMError, match=r"other\.pth does not fit timm:resnet10t"):
        load("timm:resnet10t", tmp_path / "other.pth")


def test_offline_with_nothing_cached_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    expected = (
        rf"the weights of timm:resnet10t are not in {tmp_path}/models--timm--resnet10t\.c3_in1k, and could not be "
        r"fetched from https://huggingface\.co/timm/resnet10t\.c3_in1k \(.*\): .* give it with --weights FILE"
    )
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(RCDMError, match=expected):
            load("timm:resnet10t")
    asked = []

    def unreachable(url: str, timeout: float) -> None:
        asked.append((url, timeout))
        raise ConnectionError("no route")

    monkeypatch.setattr("rcdm_plugin_timm._network.get_hf_file_metadata", unreachable)
    with pytest.raises(RCDMError, match=expected.replace(".*", "ConnectionError: no route", 1)):
        load("timm:resnet10t")
    assert [url.rpartition("/")[2] for url, _ in asked] == ["model.safetensors"]  # it is not asked again
    assert asked[0][1] <= 5


def test_timms_weights_come_from_the_hubs_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = timm.create_model("resnet10t").eval()
    folder = tmp_path / "models--timm--resnet10t.c3_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    file = folder / "snapshots" / "abc" / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_file(network.state_dict(), file)
    image = torch.rand(1, 3, 176, 176)
    encoder = load("timm:resnet10t", pool="max")
    assert torch.equal(encoder.network(image), network.forward_features(image).amax((2, 3)))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RCDMError, match=r"model\.safetensors cannot be used as the weights of timm:resnet10t"):
        load("timm:resnet10t")


@pytest.mark.parametrize(("file", "googles"), [("model.safetensors", False), ("augreg.npz", True)])
def test_a_file_is_read_in_the_format_that_it_has(file: str, googles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's table says custom_load of weights whose address is one of Google's own format."""
    seen: list[Any] = []
    monkeypatch.setattr(timm, "create_model", lambda *_, **arguments: seen.append(arguments))
    _create("timm:vit_tiny_patch16_224", "vit_tiny_patch16_224", None, file)
    assert timm.get_pretrained_cfg("vit_tiny_patch16_224").custom_load
    assert seen[-1]["pretrained_cfg_overlay"] == {"file": file, "custom_load": googles}


@pytest.mark.parametrize("model", ["resnet10t", "caformer_s18", "convformer_s18", "levit_128s", "repvit_m1"])
def test_all_of_a_classifier_is_left_out_and_nothing_else(model: str) -> None:
    with torch.device("meta"):
        whole, network = timm.create_model(model), timm.create_model(model, num_classes=0)
    left = {name for name in whole.state_dict() if not name.startswith(tuple(_classifiers(network)))}
    assert left == set(network.state_dict()) < set(whole.state_dict())


def test_files_are_resized_as_timm_resizes_them(tmp_path: Path) -> None:
    expected = {"mobilenetv2_050.lamb_in1k": "bicubic", "tf_mobilenetv3_small_minimal_100": "bilinear"}
    for model, interpolation in expected.items():
        network = timm.create_model(model)
        assert timm.data.resolve_model_data_config(network)["interpolation"] == interpolation
        torch.save(network.state_dict(), tmp_path / "weights.pth")
        assert load(f"timm:{model}", tmp_path / "weights.pth").interpolation == interpolation
