"""A training whose first steps see twice as many pictures of half the size."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_fixtures import Make, Recorder, results

from rcdm_core import bundle
from rcdm_core.diffusion import Diffusion, DiffusionConfig
from rcdm_core.errors import RCDMError
from rcdm_core.presets import PRESETS
from rcdm_core.progress import Reporter
from rcdm_core.training import TrainConfig, train
from rcdm_core.training.batches import Batch, Batches
from rcdm_core.training.config import learning_rate
from rcdm_core.training.loop import Trainer
from rcdm_core.training.pixels import PixelReader
from rcdm_core.training.setup import set_up

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_process_of_halved_pictures_is_that_of_means_of_noised_ones(schedule: str) -> None:
    """Up to one factor a timestep, which only scales picture and noise together."""
    config = DiffusionConfig(schedule=schedule)
    whole, halved = Diffusion(config), Diffusion(config, averaged=4)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(1000, 3, 8, 8, generator=generator, dtype=torch.float64)
    t, noise = torch.arange(1000), torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    means = F.avg_pool2d(whole.q_sample(x0, t, noise), 2)
    found = halved.q_sample(F.avg_pool2d(x0, 2), t, 2 * F.avg_pool2d(noise, 2))  # of which the variance is 1
    factor = torch.from_numpy(np.sqrt((1 - halved.alpha_bar) / (1 - whole.alpha_bar)))[:, None, None, None] * 2
    torch.testing.assert_close(found, means * factor, rtol=1e-5, atol=1e-5)
    respaced = halved.respaced(20)
    np.testing.assert_allclose(respaced.alpha_bar, halved.alpha_bar[respaced.timesteps])


@pytest.fixture
def batches(arguments: Make) -> Any:
    setup = set_up(arguments(), torch.device("cpu"), Reporter())

    def make(**changes: Any) -> Batches:
        settings: dict[str, Any] = {"batch_size": 4, "timesteps": 1000, "seed": 0, "flip": True, **changes}
        return Batches(setup.dataset, setup.train_rows, PixelReader(setup.dataset, setup.train_rows, 1), **settings)

    return make


def test_halved_batches_are_means_of_the_pictures_that_come_next(batches: Any) -> None:
    """Every picture of an epoch once, across the border, with its own h, and as many in other processes together."""
    source = batches(half_size=3, flip=False)
    shapes = [tuple(source(step).x0.shape) for step in range(5)]
    assert shapes == [(8, 3, 4, 4)] * 3 + [(4, 3, 8, 8)] * 2
    assert [source(step).noise.shape for step in (0, 3)] == [source(step).x0.shape for step in (0, 3)]
    plain = batches(flip=False, batch_size=36)(0)  # one epoch
    h = torch.cat([source(step).h for step in range(6)])
    assert torch.equal(h, plain.h)
    small = torch.cat([source(step).x0 for step in range(3)])
    torch.testing.assert_close(small, F.avg_pool2d(plain.x0[:24], 2))
    assert torch.equal(torch.cat([source(step).x0 for step in range(3, 6)]), plain.x0[24:])
    assert len(set((source(0).t // 125).tolist())) == 8
    parts = [batches(half_size=3, flip=False, rank=rank, world_size=3)(1) for rank in range(3)]
    for name, value in vars(source(1)).items():
        for rank, part in enumerate(parts):
            assert torch.equal(getattr(part, name), value[rank::3])


@pytest.mark.parametrize("conditioning", ["embedding", "batchnorm"])
def test_a_run_that_begins_with_halved_pictures(
    arguments: Make, conditioning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    losses = Trainer._losses

    def remembered(self: Trainer, network: Any, batch: Batch) -> Any:
        if network is self.network:
            seen.append(tuple(batch.x0.shape))
            x_t = Diffusion(self.diffusion.config, averaged=4 if batch.x0.shape[-1] == 4 else 1).q_sample(
                batch.x0, batch.t, batch.noise
            )
            found = losses(self, network, batch)
            expected = (self._predict(network, x_t, batch) + _v_of_x0(self, batch)).square().mean()
            torch.testing.assert_close(found["mse"].mean(), expected, rtol=1e-4, atol=1e-5)
            return found
        return losses(self, network, batch)

    monkeypatch.setattr(Trainer, "_losses", remembered)
    run = train(arguments(steps=12, half_size=10, conditioning=conditioning, save_every=100, accumulate=2))
    assert seen[:22] == [(4, 3, 8, 8)] * 2 + [(8, 3, 4, 4)] * 20  # first of all, whether whole ones fit into the memory
    assert set(seen[22:26]) == {(4, 3, 8, 8)}
    config = bundle.read(run)[0]
    assert config.images_seen == 10 * 16 + 2 * 8 and config.recipe["half_size"] == 10
    first, last = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    assert (first["images_per_step"], last["images_per_step"]) == (16, 8)
    assert first["images_per_second"] == pytest.approx(16 / first["seconds_per_step"])


def _v_of_x0(trainer: Trainer, batch: Batch) -> torch.Tensor:
    """-v, from the process of the pictures' size."""
    halved = batch.x0.shape[-1] == 4
    alpha_bar = trainer.diffusion.alpha_bar
    alpha_bar = 4 * alpha_bar / (1 + 3 * alpha_bar) if halved else alpha_bar
    at = torch.from_numpy(alpha_bar).float()[batch.t][:, None, None, None]
    return (1 - at).sqrt() * batch.x0 - at.sqrt() * batch.noise


def test_halved_runs_resume_bit_for_bit(arguments: Make, tmp_path: Any) -> None:
    """Stopped before the border and behind it."""
    changes: dict[str, Any] = {"steps": 9, "half_size": 5, "conditioning": "embedding"}
    whole = results(train(arguments(out=tmp_path / "whole", **changes)))
    for at in (3, 7):
        stop = Recorder(lambda done, at=at: os.kill(os.getpid(), signal.SIGINT) if done == at else None)
        run = train(arguments(out=tmp_path / str(at), **changes), stop)
        assert bundle.read(run)[0].step == at
        train(arguments(out=tmp_path / str(at), **changes, resume=True))
        assert results(run) == whole


def test_what_cannot_be_halved_is_refused(arguments: Make) -> None:
    for wrong, named in (
        ({"steps": 5, "half_size": 5}, r"--half-size 5 must be less than --steps 5"),
        ({"minutes": 1.0, "steps": None, "half_size": 5}, r"--half-size 5 needs --steps"),
        ({"steps": 5, "half_size": -1}, r"--half-size -1 must be a number of at least 0"),
    ):
        with pytest.raises(RCDMError, match=named):
            train(arguments(**wrong))
    run = train(arguments(steps=4))
    state = run / "training"
    assert state.is_dir()
    with pytest.raises(RCDMError, match=r"--half-size \(was 0, now 3\)"):
        train(arguments(steps=8, half_size=3, resume=True))


def test_time_that_ends_before_whole_pictures_is_told(arguments: Make) -> None:
    recorder = Recorder(lambda done: None)
    changes: dict[str, Any] = {"steps": 10**6, "half_size": 10**6 - 1, "minutes": 1e-6, "preview_every": None}
    run = train(arguments(**changes), recorder)
    assert bundle.read(run)[0].step < 10
    assert any("saw pictures of half the size" in line and "--resume" in line for line in recorder.lines)
    assert not (run / "preview.png").exists()
    again = Recorder()
    train(arguments(**changes, resume=True), again)
    assert any("is finished" in line for line in again.lines)
    assert any("saw pictures of half the size" in line for line in again.lines)
    assert TrainConfig(provider="none", half_size=7, steps=8).recipe().half_size == 7


def test_a_stop_among_halved_pictures_is_told_and_may_go_on_by_minutes(arguments: Make) -> None:
    changes: dict[str, Any] = {"half_size": 5, "lr_schedule": "constant", "preview_every": None}
    stop = Recorder(lambda done: os.kill(os.getpid(), signal.SIGINT) if done == 3 else None)
    run = train(arguments(steps=9, **changes), stop)
    assert "All of the 3 steps saw pictures of half the size" in stop.lines[-2]
    assert not (run / "preview.png").exists()
    train(arguments(steps=None, minutes=1e-6, resume=True, **changes))  # a new run may not be given minutes alone
    train(arguments(steps=4, resume=True, **changes))
    later = Recorder()
    train(arguments(steps=9, resume=True, **changes), later)
    assert bundle.read(run)[0].images_seen == 5 * 16 + 4 * 8 and (run / "preview.png").exists()
    assert not any("half the size" in line for line in later.lines)


def test_memory_for_whole_pictures_is_tried_before_the_first_step(
    arguments: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Trainer._losses

    def short_of_memory(self: Trainer, network: Any, batch: Batch) -> Any:
        if batch.x0.shape[-1] == 8:
            raise MemoryError
        return losses(self, network, batch)

    monkeypatch.setattr(Trainer, "_losses", short_of_memory)
    recorder = Recorder()
    with pytest.raises(RCDMError, match="--batch-size"):
        train(arguments(steps=9, half_size=5), recorder)
    assert recorder.updates == 0


def test_sizes_that_have_no_half_are_refused(monkeypatch: pytest.MonkeyPatch, micro: str) -> None:
    preset = PRESETS[micro]
    odd = replace(preset, name="odd", unet={**preset.unet, "image_size": 24, "channel_mult": (1, 1, 1, 1)})
    monkeypatch.setitem(PRESETS, "odd", odd)
    with pytest.raises(RCDMError, match=r"--half-size 5 cannot be had with --preset odd: 4 levels take no 12 x 12 pix"):
        TrainConfig(provider="none", preset="odd", half_size=5, steps=8).recipe()


def test_the_cosine_begins_with_whole_pictures() -> None:
    recipe = TrainConfig(provider="none", half_size=60, steps=160, warmup=0, lr=1.0, lr_schedule="cosine").recipe()
    rates = [learning_rate(recipe, step, 160) for step in (0, 30, 60, 85, 110, 160)]
    expected = [0.5 * (1 + math.cos(math.pi * done)) for done in (0, 0, 0, 0.25, 0.5, 1)]
    assert rates == pytest.approx(expected)
