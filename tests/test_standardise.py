"""Training on h as it is: the statistics are the identity, in the bundle and after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import error_of, rcdm
from test_resume import results
from training_fixtures import Make, Recorder, make_trainer

from rcdm_core import bundle
from rcdm_core.errors import RCDMError
from rcdm_core.training import train

pytestmark = pytest.mark.usefixtures("one_thread")


def test_h_is_left_as_it_is_and_a_stopped_run_goes_on(arguments: Make, tmp_path: Path) -> None:
    whole = train(arguments(steps=4, standardise=False, out=tmp_path / "whole"))
    run = train(arguments(steps=2, standardise=False))
    train(arguments(steps=4, standardise=False, resume=True))
    assert results(run) == results(whole)
    config, contents = bundle.read(run)
    assert config.recipe["standardise"] is False
    assert torch.equal(contents.h_mean, torch.zeros(5)) and torch.equal(contents.h_std, torch.ones(5))
    model = bundle.load(run)
    h = 3 * torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    samples = model.sample(h, 2, steps=2)
    assert samples.shape == (2, 2, 3, 8, 8) and samples.isfinite().all()
    assert results(run) != results(train(arguments(steps=4, out=tmp_path / "standardised")))


def test_the_network_gets_the_very_h_of_the_encoder(arguments: Make, tmp_path: Path) -> None:
    """With statistics, what goes in has mean 0 and variance 1 over the training set; without, it is h."""
    raw, seen = {}, {}
    for standardise in (True, False):
        trainer = make_trainer(arguments(standardise=standardise, out=tmp_path / str(standardise)))
        unet, setup = trainer.network, trainer.setup
        raw[standardise] = torch.from_numpy(setup.dataset.h[setup.train_rows]).flatten(0, 1)
        seen[standardise] = (raw[standardise] - unet.h_mean) / unet.h_std
    assert torch.equal(raw[True], raw[False]) and torch.equal(seen[False], raw[False])
    assert torch.allclose(seen[True].mean(0), torch.zeros(5), atol=1e-5)
    assert torch.allclose(seen[True].var(0, correction=0), torch.ones(5), atol=1e-4)
    assert (seen[False].var(0, correction=0) - 1).abs().max() > 0.1


@pytest.mark.parametrize(("first", "second"), [(False, None), (None, False), (True, False)])
def test_it_may_not_change_on_resume(arguments: Make, first: Any, second: Any) -> None:
    run = train(arguments(steps=2, standardise=first))
    before = (run / "model.safetensors").read_bytes()
    was, now = first is not False, second is not False
    with pytest.raises(RCDMError, match=rf"other arguments: --standardise \(was {was}, now {now}\); resume it"):
        train(arguments(steps=4, standardise=second, resume=True))
    assert (run / "model.safetensors").read_bytes() == before
    if first is None:  # spelling out what the preset says is no change
        train(arguments(steps=3, standardise=True, resume=True), Recorder())
        assert bundle.read(run)[0].step == 3


def test_the_option_of_the_command(arguments: Make, tmp_path: Path) -> None:
    config = arguments()
    common = ("train", "--provider", config.provider, "--provider-option", "image_size=8", "--data", config.data)
    common += ("--preset", config.preset, "--out", config.out, "--cache", config.cache, "--device", "cpu")
    common += ("--preview-every", 0, "--steps")
    assert rcdm(*common, 1, "--no-standardise").exit_code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["arguments"]["standardise"] is False
    assert "--standardise (was False, now True)" in error_of(*common, 2, "--resume")
    assert rcdm(*common, 2, "--resume", "--no-standardise").exit_code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["step"] == 2
