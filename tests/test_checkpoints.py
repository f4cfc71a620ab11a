"""Encoders out of files in the layouts in which they are released, against torchvision with the same weights."""

from __future__ import annotations

import collections
import logging
import os
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
import torchvision
from checkpoint_files import TOUCHED, Poison, below, foreign_object, full_checkpoint, resnet50, save
from rcdm_plugin_projector import HEADS, Head
from torch import Tensor

from rcdm_core import Encoder, RCDMError, find_provider, read_checkpoint

SMALL = 64  # pixels: a convolutional network takes any size, and these tests compare numbers alone
RN50_HEADS = {head.method: head for head in HEADS if head.backbone.endswith("resnet50")}


@pytest.fixture(scope="module")
def reference() -> torchvision.models.ResNet:
    return resnet50()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, SMALL, SMALL, generator=torch.Generator().manual_seed(0))


def random_head(head: Head, inputs: int) -> dict[str, Tensor]:
    """Values for all of a projector's tensors, under the released names."""
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    for layer in head.layers:
        tensors[f"{layer.name}.weight"] = torch.randn(layer.size, inputs, generator=generator) / inputs**0.5
        if layer.bias:
            tensors[f"{layer.name}.bias"] = torch.randn(layer.size, generator=generator)
        if layer.norm:
            for name in ("weight", "running_var"):
                tensors[f"{layer.norm}.{name}"] = torch.rand(layer.size, generator=generator) + 0.5
            for name in ("bias", "running_mean"):
                tensors[f"{layer.norm}.{name}"] = torch.randn(layer.size, generator=generator)
            tensors[f"{layer.norm}.num_batches_tracked"] = torch.tensor(7)
        inputs = layer.size
    return tensors


#: Method -> the projector's forward pass, spelled out from the authors' code rather than from the plugin's table.
def forward_head(method: str, t: dict[str, Tensor], h: Tensor) -> Tensor:
    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, t[f"{name}.weight"], t.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        p = {key: t[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
        return F.batch_norm(x, p["running_mean"], p["running_var"], p["weight"], p["bias"])

    if method == "DINO":
        return linear("mlp.3", F.gelu(norm("mlp.1", linear("mlp.0", h))))
    if method == "SimCLR":
        return linear("1.clf.0", F.relu(linear("0.clf.0", h)))
    if method == "Barlow Twins":
        h = F.relu(norm("0.clf.1", linear("0.clf.0", h)))
        return linear("2.clf.0", F.relu(norm("1.clf.1", linear("1.clf.0", h))))
    if method == "VICReg":
        h = F.relu(norm("1", linear("0", h)))
        return linear("6", F.relu(norm("4", linear("3", h))))
    return linear("3", F.relu(norm("1", linear("0", h))))


def pooled(network: torchvision.models.ResNet, images: Tensor) -> Tensor:
    found: list[Tensor] = []
    hook = network.avgpool.register_forward_hook(lambda _, __, out: found.append(out.flatten(1)))
    with torch.no_grad():
        network(images)
    hook.remove()
    return found[0]


def load(name: str, path: Path) -> Encoder:
    """Without the pass over the test pictures of load_encoder."""
    provider = find_provider(name)
    return cast(Encoder, provider.load(weights=str(path), **provider.complete_options({})))


@pytest.mark.parametrize("method", list(RN50_HEADS))
def test_one_released_file_serves_backbone_and_projector(
    method: str, reference: torchvision.models.ResNet, images: Tensor, tmp_path: Path
) -> None:
    head = RN50_HEADS[method]
    tensors = random_head(head, 2048)
    legacy = method == "SimCLR"  # released before torch's archives
    path = save(full_checkpoint(method, reference.state_dict(), tensors), tmp_path / "released.pth", legacy)

    provider = find_provider(head.backbone)
    std = provider.options["std"].default
    assert std == ((0.228, 0.224, 0.225) if method == "SwAV" else (0.229, 0.224, 0.225))
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), std)
    expected = pooled(reference, normalise(images))
    with torch.no_grad():
        h = load(head.backbone, path)(images)
        projected = load(head.name, path)(images)
        expected_projected = forward_head(method, tensors, expected)
    assert (h - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert projected.shape == (2, find_provider(head.name).dim)
    assert (projected - expected_projected).abs().max() <= 1e-5 * expected_projected.abs().max()

    others = [other for name, other in RN50_HEADS.items() if name != method]
    for name in (others[0].backbone, others[0].name):
        with pytest.raises(RCDMError, match=f"looks like a checkpoint of {method}.*expects one of {others[0].method}"):
            load(name, path)


@pytest.mark.parametrize("layout", ["VISSL", "converted", "tutorial", "flat", "supervised", "backbone"])
def test_the_other_layouts_of_a_backbone(
    layout: str, reference: torchvision.models.ResNet, images: Tensor, tmp_path: Path
) -> None:
    state = reference.state_dict()
    trunk = below(state, "_feature_blocks.")
    contents: dict[str, Any] = {
        "VISSL": {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": {}}}}, "x": foreign_object()},
        "converted": {"model_state_dict": trunk},
        "tutorial": {"model_state_dict": below(state, "module."), "epoch": 3},
        # DeepCluster-v2: SwAV's names, with several sets of prototypes
        "flat": below(state, "module.")
        | {
            "module.projection_head.0.weight": torch.zeros(4, 2048),
            "module.prototypes.prototypes0.weight": torch.ones(3),
        },
        "supervised": state,
        "backbone": below(state, ""),
    }
    path = save(contents[layout], tmp_path / "file.torch")
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = pooled(reference, normalise(images))
    with torch.no_grad():
        h = load("vissl-resnet50", path)(images)
    assert (h - expected).abs().max() <= 1e-5 * expected.abs().max()
    if layout == "backbone":
        with pytest.raises(RCDMError, match="holds no projector"):
            load("vicreg-resnet50-head", path)


def test_a_network_of_another_shape_is_refused_by_what_it_is(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(weights=None)
    path = save({"model_state_dict": below(network.state_dict(), "_feature_blocks.")}, tmp_path / "rn18.torch")
    with pytest.raises(RCDMError, match=r"does not fit vissl-resnet50.* missing .*of another shape"):
        load("vissl-resnet50", path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_poisoned_pickle_does_not_run(legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched = tmp_path / "touched"
    monkeypatch.setenv(TOUCHED, str(touched))
    tensors = {"module.backbone.w": torch.arange(3.0), "module.head.mlp.0.weight": torch.eye(2).t()}
    content = {"teacher": tensors, "args": Poison(), "more": [foreign_object(), Poison()]}
    path = save(content, tmp_path / "poison.pth", legacy)
    checkpoint = read_checkpoint(path)
    assert not touched.exists()
    assert checkpoint.method == "DINO" and checkpoint.backbone["w"].tolist() == [0, 1, 2]
    assert torch.equal(checkpoint.head["mlp.0.weight"], torch.eye(2))
    # The file is what it claims to be: an ordinary reader would have run it.
    torch.load(_only_poison(tmp_path), weights_only=False)
    assert touched.exists() and os.path.getsize(touched) == 0


def _only_poison(folder: Path) -> Path:
    return save({"args": Poison()}, folder / "only.pth")


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _legacy_file(path: Path, body: bytes) -> Path:
    """A file of torch's older format, of several pickles in a row, whose content is `body`."""
    with path.open("wb") as file:
        for head in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}):
            pickle.dump(head, file, 2)
        file.write(body)
        pickle.dump([], file, 2)
    return path


def test_a_pickle_cannot_change_torchs_functions_or_write_files(tmp_path: Path) -> None:
    """torch's older reader writes a patch file beside a module whose source changed, where the pickle says so."""
    start = b"\x80\x02cnowhere\nunknown\n0"  # a global that weights_only refuses, so that the second reader is used
    function = b"ctorch._utils\n_rebuild_parameter\n"
    state = b"N}(" + _text("dump_patches") + b"\x88" + _text("__name__") + _text(str(tmp_path / "made")) + b"u\x86b"
    module = b"q\x010(" + _text("module") + b"h\x01" + _text("f.py") + _text("a line\n") + b"tQ."
    bodies = {
        "patch": start + function + state + module,
        "module": start + function + module,
        "defaults": start + b"ctorch._utils\n_rebuild_tensor_v2\nN}(" + _text("__defaults__") + b")u\x86b.",
    }
    for name, body in bodies.items():
        with pytest.raises(RCDMError):
            read_checkpoint(_legacy_file(tmp_path / f"{name}.pth", body))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".pth"] * 3
    assert torch._utils._rebuild_parameter.__name__ == "_rebuild_parameter"
    torch.save({"w": torch.ones(2)}, tmp_path / "later.pth")
    assert read_checkpoint(tmp_path / "later.pth").backbone["w"].tolist() == [1, 1]


def test_state_dicts_that_are_other_dictionaries(tmp_path: Path) -> None:
    config = foreign_object()["config"]  # type: ignore[index]
    config.clear()
    config.update({"backbone.w": torch.ones(2), "head.mlp.0.weight": torch.eye(2)})
    outer: dict[str, Any] = collections.defaultdict(list)
    outer["teacher"] = config
    checkpoint = read_checkpoint(save(outer, tmp_path / "dictionaries.pth"))
    assert checkpoint.method == "DINO" and checkpoint.backbone["w"].tolist() == [1, 1]


def test_a_torchscript_archive_is_said_to_be_one(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(RCDMError, match=r"script.pt cannot be read as a checkpoint.*it is a TorchScript archive"):
        read_checkpoint(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("name", "content", "method"),
    [
        ("supervised-resnet50", {"teacher": {"backbone.w": torch.ones(1)}}, "DINO"),
        (
            "swav-resnet50",
            {"module.projection_head.0.weight": torch.ones(1), "module.w": torch.ones(1)},
            "DeepCluster-v2",
        ),
        (
            "barlow-resnet50",
            {
                "classy_state_dict": {
                    "base_model": {"model": {"trunk": {"w": torch.ones(1)}, "heads": {"x": torch.ones(1)}}}
                }
            },
            "another method of VISSL",
        ),
    ],
)
def test_files_of_other_methods_are_refused_by_their_names(
    name: str, content: dict[str, Any], method: str, tmp_path: Path
) -> None:
    with pytest.raises(RCDMError, match=f"looks like a checkpoint of {method}"):
        load(name, save(content, tmp_path / "other.pth"))


def test_what_is_left_out_of_a_file_is_named_when_asked(
    tmp_path: Path, reference: torchvision.models.ResNet, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(reference.state_dict(), tmp_path / "supervised.pth")  # with its classifier
    provider = find_provider("supervised-resnet50")
    with caplog.at_level(logging.INFO, "rcdm_core"):
        provider.load(weights=str(path), **provider.complete_options({}))
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("left out, as no part of the representation: fc.weight, fc.bias") and str(path) in message


@pytest.mark.parametrize("head", [{"0.clf.0.weight": torch.zeros(3, 4)}, {"0": None, "1": "text"}])
def test_the_heads_of_vissls_files_are_named(
    head: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(full_checkpoint("Barlow Twins", {"conv1.weight": torch.zeros(2)}, head), tmp_path / "vissl.torch")
    with caplog.at_level(logging.INFO, "rcdm_core"):
        read_checkpoint(path)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith(", ".join(head)) and str(path) in message
