"""Weights that an update has broken never take the place of good ones, and the run says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import results
from training_fixtures import Make, Recorder

from rcdm_core import bundle, samplers
from rcdm_core.errors import RCDMError
from rcdm_core.training import train
from rcdm_core.training.loop import Trainer
from rcdm_core.training.state import find_state

pytestmark = pytest.mark.usefixtures("one_thread")

Break = Callable[[Trainer], object]


@torch.no_grad()
def huge(trainer: Trainer) -> None:
    """Finite, and so is the loss of the step that ended in it."""
    for parameter in trainer.parameters:
        parameter.fill_(1e25)


@torch.no_grad()
def absurd(trainer: Trainer) -> None:
    """The next loss is finite too: 1e8."""
    trainer.parameters[-1].fill_(1e4)


@torch.no_grad()
def average(trainer: Trainer) -> None:
    next(iter(trainer.ema.state().values()))[0] = float("inf")


@torch.no_grad()
def absurd_average(trainer: Trainer) -> None:
    list(trainer.ema.state().values())[-1].fill_(1e4)


@torch.no_grad()
def optimizer(trainer: Trainer) -> None:
    trainer.optimizers[-1].state[trainer.parameters[-1]]["exp_avg_sq"][0] = float("nan")


def break_after(monkeypatch: pytest.MonkeyPatch, step: int, damage: Break) -> None:
    plain = Trainer._step

    def then_break(self: Trainer, batch: object) -> None:
        plain(self, batch)  # type: ignore[arg-type]
        if self.counters.step == step:
            damage(self)

    monkeypatch.setattr(Trainer, "_step", then_break)


@pytest.mark.parametrize(
    ("damage", "steps", "sentence"),
    [
        (huge, 50, r"The loss or its gradient was not finite for 5 steps in a row, up to step 11"),
        (huge, 6, r"After step 6 the weights give the next batch a loss or gradient that is not finite"),
        (absurd, 6, r"After step 6 the weights are 1e\+08 off on the next batch"),
        (average, 6, r"After step 6 the averaged weights hold numbers that are not finite"),
        (absurd_average, 6, r"After step 6 the averaged weights are 1e\+08 off on the next batch"),
        (optimizer, 6, r"After step 6 the optimizer's averages hold numbers that are not finite"),
    ],
)
def test_a_broken_state_does_not_replace_the_good_one(
    arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Break, steps: int, sentence: str
) -> None:
    recorder = Recorder()
    with monkeypatch.context() as patch:
        break_after(patch, 6, damage)
        with pytest.raises(RCDMError, match=rf"{sentence}.*; the last good state is that of step 3 in .*lower --lr"):
            train(arguments(steps=steps, save_every=3, optimizer="adamw"), recorder)
    run = tmp_path / "run"
    (line,) = (line for line in recorder.lines if line.startswith("Not saved after step 6: "))
    saved, (config, contents) = find_state(run), bundle.read(run)
    assert saved is not None and saved.counters.step == config.step == 3 and "of step 3" in line
    stored = [*contents.unet.values()]
    stored += [value for file in saved.folder.glob("*.safetensors") for value in load_file(file).values()]
    assert all(value.isfinite().all() for value in stored) and max(float(value.abs().max()) for value in stored) < 1e3
    # What is there goes on as if nothing had been.
    train(arguments(steps=8, resume=True, optimizer="adamw"))
    assert results(run) == results(train(arguments(steps=8, out=tmp_path / "whole", optimizer="adamw")))


def test_nothing_good_yet_and_nothing_saved(
    arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_after(monkeypatch, 2, huge)
    with pytest.raises(RCDMError, match=r"^After step 2 .*; nothing had been saved before; "):
        train(arguments(steps=2))
    assert find_state(tmp_path / "run") is None and not (tmp_path / "run" / "model.safetensors").exists()


def test_weights_that_recover_are_saved_again(arguments: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[torch.Tensor] = []

    def there_and_back(trainer: Trainer) -> None:
        if trainer.counters.step == 3:
            values.append(trainer.parameters[-1].detach().clone())
            absurd(trainer)
        elif trainer.counters.step == 12:
            trainer.parameters[-1].data.copy_(values[0])
            list(trainer.ema.state().values())[-1].copy_(values[0])

    plain = Trainer._step

    def watched(self: Trainer, batch: object) -> None:
        plain(self, batch)  # type: ignore[arg-type]
        there_and_back(self)

    monkeypatch.setattr(Trainer, "_step", watched)
    recorder = Recorder()
    run = train(arguments(steps=20, save_every=3), recorder)
    assert sum("Not saved" in line for line in recorder.lines) == 1 and bundle.read(run)[0].step == 20


def test_a_preview_that_is_not_finite_is_told_and_left_out(
    arguments: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples of the second preview overflow; the first one stays, and so does the training."""
    plain, calls = samplers.sample, []

    def overflow(*given: object, **named: object) -> torch.Tensor:
        calls.append(1)
        return plain(*given, **named) * (float("inf") if len(calls) == 2 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(samplers, "sample", overflow)
    recorder = Recorder()
    run = train(arguments(steps=4, save_every=2, preview_every=None, held_out=2), recorder)
    assert recorder.lines == ["No preview after step 4: it has samples that are not finite."] and len(calls) == 2
    assert bundle.read(run)[0].step == 4 and (run / "preview.png").exists()
