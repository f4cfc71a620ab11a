"""dino-vitb16, against timm's own model."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from checkpoint_files import full_checkpoint, save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision import transforms

from rcdm_core import RCDMError, find_provider, load_encoder

ARCHITECTURE = "vit_base_patch16_224.dino"


@pytest.fixture(scope="module")
def reference() -> VisionTransformer:
    """timm's model with random weights in every tensor, those that start at zero or one included."""
    with torch.device("meta"):
        network = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0)
    network = network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.05, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(reference: VisionTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "dino_vitbase16_pretrain.pth"
    torch.save(reference.state_dict(), path)
    return path


def test_h_is_timms_class_token(
    reference: VisionTransformer, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By the cache, as a copy that DINO's own torch.hub entry has left there; by --weights it is the same code.
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / checkpoint.name).symlink_to(checkpoint)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    provider = find_provider("dino-vitb16")
    encoder = provider.load(**provider.complete_options({}))
    assert (encoder.dim, encoder.image_size) == (provider.dim, provider.image_size) == (768, 224)
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    config = timm.get_pretrained_cfg(ARCHITECTURE)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    with torch.no_grad():
        features: Tensor = reference.forward_features((image - mean) / std)
        h: Tensor = encoder(image)
        for expected in (features[:, 0], reference.forward_head(features)):
            assert (h - expected).norm() <= 1e-5 * expected.norm()


def test_dinos_layer_norm_is_timms(reference: VisionTransformer) -> None:
    assert {module.eps for module in reference.modules() if isinstance(module, nn.LayerNorm)} == {1e-6}
    assert reference.blocks[0].attn.num_heads == 12


def test_the_names_are_those_of_dinos_file(reference: VisionTransformer) -> None:
    """facebookresearch/dino names its tensors so."""
    block = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    layers = ["patch_embed.proj", "norm", *(f"blocks.{n}.{layer}" for n in range(12) for layer in block)]
    expected = {"cls_token", "pos_embed", *(f"{layer}.{what}" for layer in layers for what in ("weight", "bias"))}
    assert reference.state_dict().keys() == expected


def test_weights_of_another_architecture_are_refused_in_brief(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"cls_token": torch.zeros(1, 1, 384), "head.weight": torch.zeros(1)}, path)
    with pytest.raises(
        RCDMError, match=r"other\.pth does not fit dino-vitb16: of its 150 tensors 149 missing .*…"
    ) as caught:
        load_encoder("dino-vitb16", weights=str(path))
    assert "1 unexpected (head.weight)" in str(caught.value)
    assert "cls_token is [1, 1, 384] instead of [1, 1, 768]" in str(caught.value)


def test_the_declared_file_is_the_one_that_timm_names() -> None:
    provider = find_provider("dino-vitb16")
    assert provider.weights is not None
    assert provider.weights.url == timm.get_pretrained_cfg(ARCHITECTURE).url


def test_a_full_checkpoint_serves_backbone_and_projector(reference: VisionTransformer, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    sizes = {"mlp.0": (2048, 768), "mlp.2": (2048, 2048), "mlp.4": (256, 2048)}
    head = {}
    for name, (out, inputs) in sizes.items():
        head[f"{name}.weight"] = torch.randn(out, inputs, generator=generator) / inputs**0.5
        head[f"{name}.bias"] = torch.randn(out, generator=generator)
    path = save(full_checkpoint("DINO", reference.state_dict(), head), tmp_path / "full.pth")
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def load(name: str) -> nn.Module:
        provider = find_provider(name)
        return provider.load(weights=str(path), **provider.complete_options({}))

    def linear(name: str, x: Tensor) -> Tensor:
        return nn.functional.linear(x, head[f"{name}.weight"], head[f"{name}.bias"])

    with torch.no_grad():
        expected = reference(normalise(image))
        assert (load("dino-vitb16")(image) - expected).abs().max() <= 1e-5 * expected.abs().max()
        hidden = nn.functional.gelu(linear("mlp.2", nn.functional.gelu(linear("mlp.0", expected))))
        projected, expected = load("dino-vitb16-head")(image), linear("mlp.4", hidden)
    assert projected.shape == (1, 256)
    assert (projected - expected).abs().max() <= 1e-5 * expected.abs().max()
    with pytest.raises(RCDMError, match="does not fit dino-resnet50"):
        load("dino-resnet50")


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("dino-vits16", "vit_small_patch16_224.dino"),
        ("dino-vitb8", "vit_base_patch8_224.dino"),
        ("dino-vits8", "vit_small_patch8_224.dino"),
    ],
)
def test_the_other_transformers_are_timms(name: str, architecture: str, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(architecture, pretrained=False, num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    provider = find_provider(name)
    encoder = provider.load(weights=str(tmp_path / "backbone.pth"), **provider.complete_options({}))
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        h, expected = encoder(image), network(normalise(image))
    assert h.shape == (1, provider.dim)
    assert (h - expected).abs().max() <= 1e-5 * expected.abs().max()
