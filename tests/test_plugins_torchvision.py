"""torchvision:MODEL, against torchvision's own models and preprocessing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torchvision import models, transforms

from rcdm_core import Encoder, RCDMError, find_provider


def load(name: str, weights: Path, **options: Any) -> Encoder:
    provider = find_provider(name)
    return cast(Encoder, provider.load(weights=str(weights), **provider.complete_options(options)))


def seeded(model: str, **arguments: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cast(nn.Module, models.get_model(model, weights=None, **arguments)).eval()


def input_of_last_linear(network: nn.Module, images: Tensor) -> Tensor:
    seen: list[Tensor] = []
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
    return seen[0]


@pytest.mark.parametrize(
    ("model", "size", "dim", "interpolation"),
    [
        ("mobilenet_v3_small", 224, 1024, "bilinear"),
        ("efficientnet_b0", 224, 1280, "bicubic"),
        ("shufflenet_v2_x0_5", 224, 1024, "bilinear"),
        ("resnet18", 224, 512, "bilinear"),
        ("swin_t", 224, 768, "bicubic"),
        ("mnasnet0_5", 224, 1280, "bilinear"),  # which asks of which version its tensors are
    ],
)
def test_h_is_what_the_classifier_reads(model: str, size: int, dim: int, interpolation: str, tmp_path: Path) -> None:
    network = seeded(model)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    encoder = load(f"torchvision:{model}", tmp_path / "weights.pth")
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = input_of_last_linear(network, normalise(image))
    h = encoder(image)
    assert (encoder.image_size, encoder.dim, encoder.interpolation) == (size, dim, interpolation)
    assert (h - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_googlenet_renormalises_as_its_pretrained_weights_want_and_its_auxiliary_classifiers_are_left(
    tmp_path: Path,
) -> None:
    released = seeded("googlenet", init_weights=False, aux_logits=True)  # the file of torchvision has them
    torch.save(released.state_dict(), tmp_path / "weights.pth")
    released.transform_input = True
    encoder = load("torchvision:googlenet", tmp_path / "weights.pth")
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    seen: list[Tensor] = []
    released.get_submodule("fc").register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        released(normalise(image))
        h = encoder(image)
    assert h.shape == (1, 1024) and (h - seen[0]).abs().max() <= 1e-5 * seen[0].abs().max()


def test_squeezenets_convolution_is_its_classifier(tmp_path: Path) -> None:
    network = seeded("squeezenet1_1")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    encoder = load("torchvision:squeezenet1_1", tmp_path / "weights.pth")
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        expected = network.get_submodule("features")(normalise(image)).mean((2, 3))
    assert torch.allclose(encoder(image), expected, rtol=1e-5, atol=1e-6)


def test_the_older_names_in_densenets_released_files(tmp_path: Path) -> None:
    network = seeded("densenet121")
    now = network.state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): tensor for name, tensor in now.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "weights.pth")
    encoder = load("torchvision:densenet121", tmp_path / "weights.pth")
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = input_of_last_linear(network, normalise(image))
    assert torch.allclose(encoder(image), expected, rtol=1e-5, atol=1e-6)


def test_the_older_names_and_the_larger_pictures_of_vision_transformers() -> None:
    from rcdm_plugin_torchvision._network import _build, _renamed

    with torch.device("meta"):
        network = _build("vit_h_14", 518)
    state = network.state_dict()
    assert state["encoder.pos_embedding"].shape == (1, (518 // 14) ** 2 + 1, 1280)
    layers = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
    old = {re.sub(r"\.mlp\.[03]\.", lambda found: layers[found[0]], name): tensor for name, tensor in state.items()}
    assert len(set(state) - set(old)) == 4 * 32 and list(_renamed(old)) == list(state)
    network.load_state_dict(old, assign=True)  # torchvision itself takes the older names for the same tensors


def test_a_layer_and_what_does_not_exist(tmp_path: Path) -> None:
    torch.save(seeded("resnet18").state_dict(), tmp_path / "weights.pth")
    path = tmp_path / "weights.pth"
    assert load("torchvision:resnet18", path, layer="layer2").dim == 128
    for name, options, message in (
        ("torchvision:", {}, "should be torchvision:MODEL"),
        ("torchvision:resnet81", {}, r"no classifier 'resnet81'; the nearest are resnet1"),
        ("torchvision:fcn_resnet50", {}, r"fcn_resnet50 is no classifier of pictures.* \(of detection, segmentation"),
        ("torchvision:resnet18", {"version": "V3"}, "'V3', expected one of IMAGENET1K_V1, DEFAULT"),
        ("torchvision:resnet18", {"layer": "layer5"}, "no such module; the nearest are layer"),
        ("torchvision:resnet34", {}, r"weights\.pth does not fit torchvision:resnet34"),
    ):
        with pytest.raises(RCDMError, match=message):
            load(name, path, **options)


def test_every_classifier_can_be_built_and_loses_its_classifier() -> None:
    from rcdm_plugin_torchvision._network import _remove_classifier

    for model in models.list_models(module=models):
        if model.startswith("regnet_") and model != "regnet_y_400mf":
            continue  # of one class, which computes its widths with tensors and so cannot be built without storage
        with torch.device("cpu" if model.startswith("regnet_") else "meta"):
            network = models.get_model(
                model, weights=None, **({"init_weights": False} if model in ("googlenet", "inception_v3") else {})
            )
        head = _remove_classifier(network, model)
        assert head in ("fc", "head", "heads.head", "classifier") or head.startswith("classifier."), (model, head)
        assert isinstance(network.get_submodule(head), nn.Identity)
        preset = models.get_model_weights(model).DEFAULT.transforms()
        assert len(preset.crop_size) == 1 and preset.interpolation.value in ("bilinear", "bicubic")
