"""Steps whose loss is not finite: skipped, counted, and what ends a run or is kept of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_fixtures import Make, Recorder

from rcdm_core import bundle
from rcdm_core.errors import RCDMError
from rcdm_core.training import train
from rcdm_core.training.loop import Trainer
from rcdm_core.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_loss_that_is_not_finite_skips_the_step(arguments: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Trainer._losses

    def broken(self: Trainer, network: UNet, batch: Any) -> dict[str, torch.Tensor]:
        losses = plain(self, network, batch)
        if self.counters.step == 3:
            losses["loss"] = losses["loss"] * float("nan")
        return losses

    monkeypatch.setattr(Trainer, "_losses", broken)
    weights: dict[int, list[torch.Tensor]] = {}
    step = Trainer._step

    def watch(self: Trainer, batch: Any) -> None:
        step(self, batch)
        weights[self.counters.step] = [p.detach().clone() for p in self.parameters]

    monkeypatch.setattr(Trainer, "_step", watch)
    run = train(arguments(steps=6))
    line = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert line["skipped"] == 1 and math.isfinite(line["loss"])
    assert all(torch.equal(a, b) for a, b in zip(weights[3], weights[4], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[4], weights[5], strict=True))
    assert all(torch.isfinite(value).all() for value in bundle.read(run)[1].unet.values())


@pytest.mark.parametrize("conditioning", ["batchnorm", "embedding"])
def test_a_pass_that_is_not_finite_leaves_nothing_behind(
    conditioning: str, arguments: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even in the statistics of the batch norms, which every pass moves: later states are saved as ever."""
    plain = Trainer._losses

    def broken(self: Trainer, network: UNet, batch: Any) -> dict[str, torch.Tensor]:
        if self.counters.step == 3 and network is self.network:
            batch = replace(batch, noise=batch.noise * float("nan"))
        return plain(self, network, batch)

    monkeypatch.setattr(Trainer, "_losses", broken)
    recorder = Recorder()
    run = train(arguments(steps=8, save_every=2, conditioning=conditioning), recorder)
    state = load_file(run / "training" / "state-00000008" / "weights.safetensors")
    assert all(bool(value.isfinite().all()) for value in state.values())
    assert "1 of the 8 steps was skipped, because the loss or its gradient was not finite." in recorder.lines
    assert bundle.read(run)[0].step == 8


@pytest.mark.parametrize("bad", [1, 4])
def test_bad_batches_that_would_come_next_do_not_cost_a_finished_run(
    bad: int, arguments: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved is tried on the next batch; that one may be at fault, and its step would only be skipped."""
    plain = Trainer._losses
    asked: list[int] = []

    def broken(self: Trainer, network: UNet, batch: Any) -> dict[str, torch.Tensor]:
        losses = plain(self, network, batch)
        if self.counters.step == 6:
            asked.append(1)
            if len(asked) <= 2 * bad:  # by the weights and by the averaged ones
                losses["loss"] = losses["loss"] * float("nan")
        return losses

    monkeypatch.setattr(Trainer, "_losses", broken)
    run = train(arguments(steps=6, accumulate=1))
    assert bundle.read(run)[0].step == 6 and len(asked) == 2 * (bad + 1)


def test_weights_that_are_far_off_on_the_next_batch_are_not_tried_on_another(
    arguments: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite error is the weights', whichever batch it is of."""
    plain = Trainer._losses
    asked: list[int] = []

    def far(self: Trainer, network: UNet, batch: Any) -> dict[str, torch.Tensor]:
        losses = plain(self, network, batch)
        if self.counters.step == 6:
            asked.append(1)
            losses["mse"] = losses["mse"] + (1000 if len(asked) <= 2 else 0)
        return losses

    monkeypatch.setattr(Trainer, "_losses", far)
    with pytest.raises(RCDMError, match="where answering zero is about 1 off"):
        train(arguments(steps=6, accumulate=1))
    assert len(asked) == 2


def test_five_in_a_row_end_the_run_and_name_the_last_good_state(
    arguments: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Trainer._losses

    def broken(self: Trainer, network: UNet, batch: Any) -> dict[str, torch.Tensor]:
        losses = plain(self, network, batch)
        return losses if self.counters.step < 7 else {**losses, "loss": losses["loss"] / 0}

    monkeypatch.setattr(Trainer, "_losses", broken)
    with pytest.raises(RCDMError, match=r"5 steps in a row, up to step 12; the last good state is that of step 6"):
        train(arguments(steps=50, save_every=3))


def test_the_first_steps_failing_says_that_nothing_was_saved(arguments: Make) -> None:
    with pytest.raises(RCDMError, match=r"up to step 6; nothing had been saved"):
        train(arguments(steps=50, lr=1e30, warmup=0, clip=0, save_every=100))
