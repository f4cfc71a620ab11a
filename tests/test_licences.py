"""What is known of weights, their licence above all: shown, and stored in the bundle."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from cli_runner import error_of, rcdm
from plugin_on_path import write_plugin
from torchvision import models

import rcdm_core
from rcdm_cli.providers import _weights_in_a_word
from rcdm_core import Provider, RCDMError, TrainConfig, WeightsInfo, find_provider, registry, train
from rcdm_core.weights import is_own, resolve_weights
from rcdm_core.weights_cache import at_hand, cache_path, known_digest

Make = Callable[..., TrainConfig]
SWAG = "https://github.com/facebookresearch/SWAG/blob/main/LICENSE"


def known(name: str, **options: str) -> WeightsInfo:
    found = find_provider(name).own_weights(options)
    assert found is not None
    return found


def test_timms_own_table_says_the_licence() -> None:
    for model, licence in (
        ("vit_base_patch14_dinov2.lvd142m", "apache-2.0"),
        ("convnext_tiny.fb_in22k", "apache-2.0"),
        ("vit_base_patch16_224.mae", "cc-by-nc-4.0"),
    ):
        found = known(f"timm:{model}")
        assert found.licence_text == licence == timm.get_pretrained_cfg(model).license
        assert found.url == f"https://huggingface.co/timm/{model}"
    assert known("timm:resnet50").url == "https://huggingface.co/timm/resnet50.a1_in1k"  # the tag that timm takes
    assert known("timm:resnet50").citation == "arXiv:2110.00476"
    nothing = [m for m in timm.list_pretrained() if timm.get_pretrained_cfg(m).license in (None, "unknown")]
    for model in nothing:
        found = known(f"timm:{model}")
        assert found.licence is None and found.licence_text == f"unknown: see {found.url}"
    assert nothing
    with pytest.raises(RCDMError, match="timm has no model 'resnet5O'"):
        known("timm:resnet5O")


def test_timms_weights_are_at_hand_where_the_hub_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert at_hand(known("timm:resnet18.a1_in1k")) is None
    folder = tmp_path / "models--timm--resnet18.a1_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "model.safetensors").touch()
    assert at_hand(known("timm:resnet18.a1_in1k")) == folder / "snapshots" / "abc" / "model.safetensors"


def test_torchvisions_weights_say_their_licence_or_where_to_look() -> None:
    assert known("torchvision:vit_b_16", version="IMAGENET1K_SWAG_E2E_V1").licence_text == SWAG
    for model in ("vit_b_16", "resnet18"):
        found = known(f"torchvision:{model}")
        assert found.licence_text == "unknown: see https://github.com/pytorch/vision#pre-trained-model-license"
        assert found.url == models.get_model_weights(model).DEFAULT.url
    with pytest.raises(RCDMError, match="option version of torchvision:resnet18 is 'V3'"):
        known("torchvision:resnet18", version="V3")


def test_show_tells_the_licence() -> None:
    swag = ("--provider-option", "version=IMAGENET1K_SWAG_LINEAR_V1")
    shown = rcdm("providers", "show", "torchvision:vit_b_16", *swag)
    assert shown.exit_code == 0 and f"licence     {SWAG}\n" in shown.output, shown.output
    entry = json.loads(rcdm("providers", "show", "timm:vit_base_patch16_224.mae", "--json").output)
    assert entry["weights"]["licence"] == "cc-by-nc-4.0"
    for name in ("timm:resnet18", "dino-vitb16"):
        assert "no option 'size'" in error_of("providers", "show", name, "--provider-option", "size=3")


def test_show_tells_no_image_size_before_it_is_known() -> None:
    """Many of timm's and torchvision's models take another one than 224 pixels."""
    sizes = {"timm:vit_base_patch14_dinov2.lvd142m": None, "torchvision:inception_v3": None, "dino-vitb16": 224}
    for name, size in sizes.items():
        assert json.loads(rcdm("providers", "show", name, "--json").output)["image_size"] == size
        assert ("image size" in rcdm("providers", "show", name).output) == (size is not None)


def test_weights_without_an_address_are_not_to_be_fetched() -> None:
    def word(info: WeightsInfo) -> str:
        return _weights_in_a_word(Provider("x", "", len, weights=info))  # type: ignore[arg-type]

    assert word(WeightsInfo(licence="MIT")) == "" and word(WeightsInfo(url="https://example.org/a.pth")) == "to fetch"


def test_what_a_function_says_is_checked() -> None:
    def provider(answer: Callable[..., object]) -> Provider:
        return Provider("x", "", len, weights=answer)  # type: ignore[arg-type]

    assert provider(lambda: None).own_weights() is None
    with pytest.raises(RCDMError, match="x says its weights are a int"):
        provider(lambda: 3).own_weights()
    with pytest.raises(RCDMError, match=r"x fails to say what its weights are .ZeroDivisionError"):
        provider(lambda: 1 / 0).own_weights()
    with pytest.raises(TypeError, match="weights is a WeightsInfo, a function or None"):
        Provider("x", "", len, weights="file.pth")  # type: ignore[arg-type]


PLUGIN = """
from rcdm_core import Option, Provider, WeightsInfo, hookimpl

def load(*, weights=None, version):
    from torch import nn
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten())

def where(*, version):
    return WeightsInfo(url="https://example.org/" + version, licence="MIT" if version == "free" else None)

@hookimpl
def rcdm_providers():
    yield Provider("mine", "of a test", load, image_size=8, weights=where, options={"version": Option(str, "a", "x")})
"""


@pytest.mark.usefixtures("one_thread")
def test_the_bundle_has_the_licence_of_the_weights_that_were_taken(
    arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugins").mkdir()
    module = write_plugin(tmp_path / "plugins", "mine", PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    registry.reload()
    try:
        (entry,) = [e for e in json.loads(rcdm("providers", "--json").output)["providers"] if e["name"] == "mine"]
        assert entry["weights"] is None  # a listing does not ask
        for number, (given, licence) in enumerate(
            [
                ({"provider_options": {"version": "free"}}, "MIT"),
                ({"provider_options": {}}, "unknown: see https://example.org/a"),
                ({"provider_options": {}, "weights": "mine.pth"}, None),  # nobody knows that of a user's own
                ({"provider_options": {"version": "free"}, "weights": "https://example.org/free"}, "MIT"),
                ({"provider_options": {"version": "free"}, "weights": "https://example.org/other"}, None),
            ]
        ):
            run = train(arguments(provider="mine", steps=1, out=tmp_path / f"run{number}", **given))
            config = rcdm_core.load(run, check_encoder=False).config
            assert config.licence == config.provider.licence == licence
    finally:
        sys.modules.pop(module, None)
        registry.reload()


def test_a_file_is_the_providers_own_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.hub.set_dir(str(tmp_path / "hub"))
    try:
        own, other = tmp_path / "renamed.pth", tmp_path / "net.pth"
        own.write_bytes(b"weights")
        other.write_bytes(b"others")
        digest = hashlib.sha256(b"weights").hexdigest()
        url = "https://example.org/net.pth"
        for info in (
            WeightsInfo(url=url, sha256=digest),
            WeightsInfo(url=url, sha256=digest[:8]),
            WeightsInfo(url=f"https://example.org/net-{digest[:8]}.pth"),
            WeightsInfo(file=str(own)),
        ):
            assert is_own(str(own), info) and not is_own(str(other), info)
        undeclared = WeightsInfo(url=url)
        assert not is_own(str(own), undeclared) and not is_own(str(own), WeightsInfo())
        cached = cache_path(url, undeclared)
        cached.parent.mkdir(parents=True)
        cached.write_bytes(b"weights")
        resolve_weights(None, undeclared, provider="x")  # records the digest
        assert is_own(str(own), undeclared) and not is_own(str(other), undeclared)
        assert is_own(url, undeclared) and not is_own(f"{url}?v=2", undeclared)
    finally:
        torch.hub._hub_dir = None


def test_one_checkpoint_of_backbone_and_projector_has_one_declaration() -> None:
    by_url: dict[str, list[WeightsInfo]] = {}
    for provider in rcdm_core.providers().values():
        if isinstance(provider.weights, WeightsInfo) and provider.weights.url:
            by_url.setdefault(provider.weights.url, []).append(provider.weights)
    shared = {url: infos for url, infos in by_url.items() if len(infos) > 1}
    assert len(shared) >= 3 and all(info == infos[0] for infos in shared.values() for info in infos)


def test_a_date_in_a_name_is_no_digest() -> None:
    named = {"net-1a2b3c4d.pth": "1a2b3c4d", "net-20240315.pth": None, "net-20240315.pth.tar": None, "net.pth": None}
    for name, digest in named.items():
        url = f"https://example.org/{name}"
        assert known_digest(url, WeightsInfo(url=url)) == digest


@pytest.mark.parametrize("wrong", [{"url": 123}, {"url": "http://[bad"}, {"sha256": 5}, {"sha256": "no digest"}])
def test_a_declaration_that_is_nonsense_is_refused_where_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        WeightsInfo(**wrong)
