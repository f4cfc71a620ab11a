"""The source of a custom encoder in a bundle: a change is told from a change of h, and the folder does not matter."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from training_fixtures import ENCODER

import rcdm_core as rcdm
from rcdm_cli.main import main
from rcdm_core import RCDMError, bundle
from rcdm_core.training import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")
Make = Callable[..., TrainConfig]

SCALED = ENCODER.format(seed=0, dim=5)
SCALED = SCALED.replace("def build():", "def build(weights=None, scale: float = 1.0, wide=False):")
SCALED = SCALED.replace("return nn.Sequential(", "return nn.Sequential(Times(scale), ") + """

class Times(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return self.scale * x
"""
PICTURES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scaled.py"
    path.write_text(SCALED)
    return path


@pytest.fixture
def trained(arguments: Make, file: Path) -> Path:
    """A model of an encoder with an option of its own, trained from text options as on the command line."""
    options = {"image_size": "8", "scale": "3"}
    return rcdm.train(arguments(provider=f"custom:{file}:build", provider_options=options, steps=1))


def test_options_and_source_are_in_the_bundle(trained: Path, file: Path) -> None:
    record = bundle.read(trained)[0].provider
    assert record.options == {
        **{"image_size": 8, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        **{"interpolation": "bicubic", "scale": 3.0, "wide": False},
    }
    assert record.source == str(file)
    assert record.source_digest == hashlib.sha256(SCALED.encode()).hexdigest()
    other = rcdm.load_encoder(f"custom:{file}:build", image_size=8, scale=1)
    h = rcdm.load(trained).encode(PICTURES)
    torch.testing.assert_close(h, rcdm.load_encoder(f"custom:{file}:build", image_size=8, scale=3)(PICTURES))
    assert not torch.allclose(h, other(PICTURES))
    image = trained.parent / "images" / "000.png"
    command = f"sample --model {trained} --image {image} -n 1 --sampling-steps 1 --device cpu --out {trained / 'out'}"
    sampled = CliRunner().invoke(main, command.split())
    assert sampled.exit_code == 0, sampled.output


def test_a_source_that_changed_without_h_is_a_remark(
    trained: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rcdm_core")
    rcdm.load(trained)
    assert not caplog.records
    file.write_text("# a remark\n" + SCALED)
    rcdm.load(trained)
    assert [record.getMessage() for record in caplog.records] == [
        f"run: the encoder's source {file} has changed; its h is the same."
    ]


def test_a_source_that_changed_with_h_is_an_error_that_says_both(trained: Path, file: Path) -> None:
    file.write_text(SCALED.replace("self.scale * x", "self.scale * x.flip(1)"))
    both = rf"its source {file} has changed since then, and it has the same weights but .*moved by .*; bring that file"
    with pytest.raises(RCDMError, match=both):
        rcdm.load(trained)
    with pytest.raises(RCDMError, match=r"cannot be loaded: its source .* has changed since then, and provider .* no"):
        file.write_text(SCALED.replace("scale: float", "factor: float").replace("Times(scale)", "Times(factor)"))
        rcdm.load(trained)
    file.write_text(SCALED)
    rcdm.load(trained)


def test_other_weights_alone_do_not_blame_the_source(arguments: Make, file: Path, tmp_path: Path) -> None:
    file.write_text(
        SCALED.replace("seed(0)", "seed(int(open(weights).read()))").replace("weights=None", "weights")
    )
    (tmp_path / "seed").write_text("1")
    run = rcdm.train(arguments(provider=f"custom:{file}:build", weights=str(tmp_path / "seed"), steps=1))
    (tmp_path / "seed").write_text("2")
    with pytest.raises(RCDMError, match=r"than custom:\S+ is now: it has other weights .*give the checkpoint"):
        rcdm.load(run)


def test_resume_says_both_too(arguments: Make, file: Path) -> None:
    config = arguments(provider=f"custom:{file}:build", steps=1)
    rcdm.train(config)
    file.write_text(SCALED.replace("self.scale * x", "self.scale * x.flip(1)"))
    with pytest.raises(RCDMError, match=r"changed since it was started: its source .*scaled\.py has .*, and it has"):
        rcdm.train(arguments(provider=f"custom:{file}:build", steps=2, resume=True))


def test_a_module_of_the_working_directory_is_found_from_elsewhere(
    arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "my_rcdm_nets"
    package.mkdir()
    (package / "__init__.py").write_text("from .nets import build\n")
    (package / "nets.py").write_text(SCALED)
    monkeypatch.chdir(tmp_path)
    try:
        run = rcdm.train(arguments(provider="custom:my_rcdm_nets:build", steps=1))
        record = bundle.read(run)[0].provider
        assert record.name == "custom:my_rcdm_nets:build" and record.source == str(package / "nets.py")
        forget("my_rcdm_nets")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert rcdm.load(run).encode(PICTURES).shape == (2, 5)
        # Another module of that name which is loaded already is not taken for it.
        shutil.copytree(package, tmp_path / "elsewhere" / "my_rcdm_nets")
        with pytest.raises(RCDMError, match=r"my_rcdm_nets is loaded already, from .* instead of .*: start Python afr"):
            rcdm.load_encoder("custom:my_rcdm_nets:build", image_size=8)
        shutil.move(package, tmp_path / "moved")
        with pytest.raises(RCDMError, match=rf"no module my_rcdm_nets below {tmp_path}: name the folder that it is in"):
            rcdm.load(run)
        forget("my_rcdm_nets")
        renamed = f"custom:{tmp_path}/elsewhere/my_rcdm_nets:build"
        assert rcdm.load(run, provider=renamed).encode(PICTURES).shape == (2, 5)
    finally:
        forget("my_rcdm_nets")


def forget(package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def test_an_installed_module_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "rcdm_spaced" / "inner").mkdir(parents=True)  # namespace packages: without an __init__.py
    (site / "rcdm_spaced" / "inner" / "nets.py").write_text(SCALED)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    provider = rcdm.find_provider("custom:rcdm_spaced.inner.nets:build")
    assert provider.name == "custom:rcdm_spaced.inner.nets:build"
    assert provider.source == site / "rcdm_spaced" / "inner" / "nets.py"
    assert rcdm.load_encoder(provider, image_size=8)(PICTURES).shape == (2, 5)
    forget("rcdm_spaced")
    # What has no Python source, has none that could change.
    assert rcdm.find_provider("custom:math:floor").source is None


def test_a_model_file_is_trained_for(arguments: Make, tmp_path: Path) -> None:
    def save(seed: int) -> None:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 5)).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(net, PICTURES), str(tmp_path / "m.pt"))

    save(0)
    run = rcdm.train(arguments(provider=f"custom:{tmp_path}/m.pt", steps=1))
    record = bundle.read(run)[0].provider
    assert record.source_digest == hashlib.sha256((tmp_path / "m.pt").read_bytes()).hexdigest()
    assert rcdm.load(run).encode(PICTURES).shape == (2, 5)
    save(1)
    with pytest.raises(RCDMError, match=r"its source .*m\.pt has changed since then, and it has other weights"):
        rcdm.load(run)
