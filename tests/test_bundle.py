"""Bundles on disk: what was saved comes back; what was cut, edited or belongs elsewhere is never taken for one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from training_fixtures import write_encoder

import rcdm_core as rcdm
from rcdm_core import bundle
from rcdm_core.atomic import sync_file
from rcdm_core.bundle import BundleConfig, Contents, DataRecord, ProviderRecord
from rcdm_core.diffusion import DiffusionConfig
from rcdm_core.encoder import fingerprint
from rcdm_core.errors import RCDMError
from rcdm_core.unet import UNet, UNetConfig

OPTIONS = {"image_size": 8, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}

pytestmark = pytest.mark.usefixtures("one_thread")


def make_bundle(folder: Path, provider: str, step: int = 7) -> Path:
    """A bundle with random weights for the provider."""
    encoder = rcdm.load_encoder(provider, options=OPTIONS)
    mark = fingerprint(encoder)
    torch.manual_seed(step)
    unet = UNet(UNetConfig(8, 32, 1, (1,), (), conditioning="batchnorm", h_dim=encoder.dim))
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    ids = [f"{number:064x}"[::-1] for number in range(1, 6)]
    config = BundleConfig(
        unet=unet.config,
        diffusion=DiffusionConfig(),
        provider=ProviderRecord(provider, "backbone", encoder.dim, 8, OPTIONS, None, mark.weights_digest),
        data=DataRecord({"kind": "folder"}, "pad", "f" * 64, 4, (ids[4],)),
        preset="micro",
        step=step,
        images_seen=8 * step,
        seconds=1.5,
        seed=0,
        arguments={"lr": 0.001},
        versions={"rcdm": "0.1.0"},
    )
    train_ids = torch.tensor(sorted(bundle.id_prefix(name) for name in ids[:4]))
    contents = Contents(unet.state_dict(), torch.arange(5.0), torch.full((5,), 2.0), mark.h, train_ids)
    return bundle.save(folder, config, contents)


@pytest.fixture
def provider(tmp_path: Path) -> str:
    return write_encoder(tmp_path / "encoder.py")


@pytest.fixture
def saved(tmp_path: Path, provider: str) -> Path:
    return make_bundle(tmp_path / "runs" / "one", provider)


def rewrite(file: Path, edit: Callable[[dict[str, torch.Tensor], dict[str, str]], Any]) -> None:
    """Change tensors or metadata of a bundle as an editor of safetensors files would."""
    with safe_open(str(file), framework="pt") as stored:
        metadata, tensors = dict(stored.metadata()), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    edit(tensors, metadata)
    save_file(tensors, file, metadata)


def test_everything_comes_back(saved: Path, provider: str) -> None:
    config, contents = bundle.read(saved)
    again, _ = bundle.read(saved / "model.safetensors")
    assert config == again == BundleConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert config.unet.h_dim == 5 and config.provider.options == OPTIONS and config.data is not None
    assert config.data.held_out == (f"{5:064x}"[::-1],)
    model = rcdm.load(saved)
    for name, value in model.unet.state_dict().items():
        assert torch.equal(value, contents.unet[name])
    assert torch.equal(model.unet.h_mean, torch.arange(5.0)) and torch.equal(model.unet.h_std, torch.full((5,), 2.0))
    assert model.name == "one" and not model.unet.training
    assert [model.trained_on(f"{number:064x}"[::-1]) for number in range(1, 7)] == [True] * 4 + [False] * 2
    assert model.train_count == 4


def test_the_config_for_people_is_the_config_of_the_file(saved: Path) -> None:
    assert json.loads((saved / "config.json").read_text()) == json.loads(json.dumps(bundle.read(saved)[0].to_dict()))


def test_a_bundle_is_as_readable_as_any_new_file(saved: Path) -> None:
    (saved / "plain").touch()
    modes = {file.stat().st_mode for file in saved.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("kept", [0, 7, 400, 0.5, -1])
def test_a_truncated_bundle_is_refused(saved: Path, kept: float) -> None:
    file = saved / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(RCDMError, match=r"model\.safetensors is damaged or was cut short"):
        rcdm.load(saved)


@pytest.mark.parametrize(("system", "opened"), [("posix", os.O_RDONLY), ("nt", os.O_RDWR)])
def test_a_file_is_forced_to_the_disk_as_the_system_wants(
    system: str, opened: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows flushes no file that was opened for reading alone."""
    path, plain, flags = tmp_path / "file", os.open, []
    path.write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda name, how: flags.append(how) or plain(name, how))
        patch.setattr(os, "name", system)
        sync_file(path)
    assert flags == [opened]


def test_one_changed_byte_is_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    data = bytearray(file.read_bytes())
    for place in (len(data) - 1, len(data) // 2):
        data[place] ^= 1
        file.write_bytes(data)
        with pytest.raises(RCDMError, match="was edited or damaged"):
            rcdm.load(saved)


def edit_config(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    metadata["config"] = metadata["config"].replace('"fit": "pad"', '"fit": "crop"')


def drop_tensor(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    del tensors["train_ids"]


def swap_statistics(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    tensors["h_mean"], tensors["h_std"] = tensors["h_std"], tensors["h_mean"]


def other_type(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    tensors["h_mean"] = tensors["h_mean"].view(torch.int32)


@pytest.mark.parametrize("edit", [edit_config, drop_tensor, swap_statistics, other_type])
def test_an_edited_bundle_is_refused(saved: Path, edit: Callable[..., None]) -> None:
    rewrite(saved / "model.safetensors", edit)
    with pytest.raises(RCDMError, match="was edited or damaged"):
        rcdm.load(saved)


def test_a_bundle_of_a_newer_version_says_to_update(saved: Path) -> None:
    config, contents = bundle.read(saved)
    bundle.save(saved, BundleConfig(**{**vars(config), "format_version": 2}), contents)
    with pytest.raises(RCDMError, match=r"newer version.*pip install"):
        rcdm.load(saved)


def test_what_an_earlier_version_recorded_is_no_obstacle(saved: Path) -> None:
    config, _ = bundle.read(saved)
    values = config.to_dict()
    values["data"]["flip"], values["mood"] = True, "good"
    del values["recipe"]
    assert BundleConfig.from_dict(values) == config


def test_other_folders_and_files_are_no_bundles(tmp_path: Path) -> None:
    with pytest.raises(RCDMError, match=r"There is no .*missing"):
        rcdm.load(tmp_path / "missing")
    with pytest.raises(RCDMError, match=r"has no model\.safetensors"):
        rcdm.load(tmp_path)
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(RCDMError, match="not a bundle of rcdm"):
        rcdm.load(tmp_path)


def test_no_permission_to_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(bundle, "safe_open", refuse)
    with pytest.raises(RCDMError, match=r"No permission to read .*model\.safetensors"):
        rcdm.load(saved)


def test_no_permission_to_write(saved: Path, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RCDMError, match=r"No permission to write .*model\.safetensors"):
        make_bundle(saved, provider, step=8)
    monkeypatch.undo()
    assert bundle.read(saved)[0].step == 7


def test_a_full_disk_leaves_the_old_bundle(saved: Path, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(RCDMError, match="disk is full"):
                make_bundle(saved, provider, step=8)
        assert bundle.read(saved)[0].step == 7
    assert sorted(file.name for file in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_a_full_disk_that_safetensors_reports_is_understood(
    saved: Path, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(bundle, "save_file", full)
    with pytest.raises(RCDMError, match="disk is full"):
        make_bundle(saved, provider, step=8)
    assert bundle.read(saved)[0].step == 7


def test_a_provider_that_is_not_installed(saved: Path) -> None:
    config, contents = bundle.read(saved)
    record = ProviderRecord(**{**vars(config.provider), "name": "acme-resnet50"})
    bundle.save(saved, BundleConfig(**{**vars(config), "provider": record}), contents)
    with pytest.raises(RCDMError, match=r"encoder of one cannot be loaded.*acme-resnet50"):
        rcdm.load(saved)
    model = rcdm.load(saved, check_encoder=False)  # samples of an h need no encoder
    assert model.sample(torch.zeros(1, 5), steps=2).shape == (1, 1, 3, 8, 8)
    with pytest.raises(RCDMError, match="acme-resnet50"):
        model.encode(torch.zeros(1, 3, 8, 8))


def test_an_encoder_with_other_weights_is_refused(saved: Path, tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder.py", seed=1)
    with pytest.raises(RCDMError, match=r"one was trained for another encoder.*other weights"):
        rcdm.load(saved)
    model = rcdm.load(saved, check_encoder=False)
    with pytest.raises(RCDMError, match="trained for another encoder"):
        model.encode(torch.zeros(1, 3, 8, 8))


def test_an_encoder_with_other_preprocessing_is_refused(saved: Path) -> None:
    config, contents = bundle.read(saved)
    record = ProviderRecord(**{**vars(config.provider), "options": {**OPTIONS, "mean": [0.1, 0.5, 0.5]}})
    bundle.save(saved, BundleConfig(**{**vars(config), "provider": record}), contents)
    with pytest.raises(RCDMError, match="same weights but other preprocessing"):
        rcdm.load(saved)


def test_a_moved_encoder_file_can_be_named_anew(saved: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "encoder.py", tmp_path / "moved.py")
    with pytest.raises(RCDMError, match=r"encoder\.py"):
        rcdm.load(saved)
    model = bundle.load(saved, provider=f"custom:{tmp_path / 'moved.py'}:build")
    assert model.encode(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("device", "problem"),
    [("gpu", "--device gpu is not known"), ("cuda:99", "--device cuda:99 is not on this machine")],
)
def test_an_unknown_or_absent_device_is_named(saved: Path, device: str, problem: str) -> None:
    with pytest.raises(RCDMError, match=problem):
        rcdm.load(saved, device)


def test_a_bundle_that_does_not_know_its_data(saved: Path, tmp_path: Path) -> None:
    config, contents = bundle.read(saved)
    bundle.save(
        tmp_path / "imported",
        BundleConfig(**{**vars(config), "data": None, "preset": None}),
        Contents(**{**vars(contents), "train_ids": None}),
    )
    model = rcdm.load(tmp_path / "imported")
    assert model.config.data is None and model.trained_on("0" * 64) is None
    assert model.train_count is None
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(1, 3, 8, 8)  # cropped: padding would add white
    assert torch.allclose(model.encode_files([Image.new("RGB", (16, 8), (255, 0, 0))]), model.encoder(red))


def test_weights_that_do_not_fit_the_config(saved: Path) -> None:
    config, contents = bundle.read(saved)
    unet = UNetConfig(**{**vars(config.unet), "model_channels": 64})
    bundle.save(saved, BundleConfig(**{**vars(config), "unet": unet}), contents)
    with pytest.raises(RCDMError, match="do not fit the architecture"):
        rcdm.load(saved)


def test_the_newest_bundle_is_found(saved: Path, provider: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert bundle.newest_bundle(runs) == saved
    second = make_bundle(runs / "group" / "two", provider)
    os.utime(second / "model.safetensors", (2**31, 2**31))
    assert bundle.newest_bundle(runs) == second
    with pytest.raises(RCDMError, match="no trained model under"):
        bundle.newest_bundle(tmp_path / "nothing")


def test_no_file_of_a_bundle_is_a_pickle(saved: Path) -> None:
    for file in saved.rglob("*"):
        assert file.suffix in (".json", ".safetensors")
        assert not file.read_bytes().startswith((b"\x80", b"PK"))
