"""What a training step sees: a pure function of (seed, step, index)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rcdm_core.progress import Reporter
from rcdm_core.training import TrainConfig
from rcdm_core.training.batches import Batches, local_positions
from rcdm_core.training.pixels import PixelReader
from rcdm_core.training.setup import set_up

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def batches(arguments: Callable[..., TrainConfig]) -> Callable[..., Batches]:
    setup = set_up(arguments(), torch.device("cpu"), Reporter())

    def make(**changes: Any) -> Batches:
        settings: dict[str, Any] = {"batch_size": 8, "timesteps": 1000, "seed": 0, "flip": True, **changes}
        return Batches(setup.dataset, setup.train_rows, PixelReader(setup.dataset, setup.train_rows, 1), **settings)

    return make


def test_a_batch_depends_on_seed_and_step_alone(batches: Callable[..., Batches]) -> None:
    one, two = batches(), batches()
    for step in range(9):
        two(step)
    for step, batch in zip((7, 2), one.prefetched([7, 2]), strict=True):
        for name, value in vars(two(step)).items():
            assert torch.equal(value, getattr(batch, name))
    for other in (batches(seed=1)(2), batches(purpose="batch norm")(2), one(3)):
        assert not torch.equal(other.noise, one(2).noise) and not torch.equal(other.x0, one(2).x0)


def test_processes_share_the_batch_of_one(batches: Callable[..., Batches]) -> None:
    whole = batches()(5)
    parts = [batches(rank=rank, world_size=3)(5) for rank in range(3)]
    assert sorted(i for rank in range(3) for i in local_positions(8, rank, 3)) == list(range(8))
    for name, value in vars(whole).items():
        for rank, part in enumerate(parts):
            assert torch.equal(getattr(part, name), value[rank::3])


def test_every_epoch_is_another_permutation_of_the_training_rows(batches: Callable[..., Batches]) -> None:
    source = batches(flip=False)
    rows = np.concatenate([source._rows_of(np.arange(8) + 8 * step) for step in range(9)])  # 72 = 2 epochs of 36
    assert sorted(rows[:36]) == sorted(rows[36:]) == source.rows.tolist()
    assert rows[:36].tolist() != rows[36:].tolist()


def test_picture_and_h_are_flipped_together(batches: Callable[..., Batches]) -> None:
    source = batches()
    seen = set()
    for step in range(4):
        batch, rows = source(step), source._rows_of(np.arange(8) + 8 * step)
        for x0, h, row in zip(batch.x0, batch.h, rows, strict=True):
            pixels, _ = source.read_pixels([int(row)])
            plain = torch.from_numpy(pixels[0]).float() / 127.5 - 1
            flipped = not torch.allclose(x0, plain)
            assert torch.allclose(x0, plain.flip(-1) if flipped else plain)
            assert np.array_equal(h, source.dataset.h[np.array([row])][0, int(flipped)])
            seen.add(flipped)
    assert seen == {True, False}
    assert not batches(flip=False)._flips(0, 8).any()


def test_timesteps_are_uniform_and_spread_over_each_batch(batches: Callable[..., Batches]) -> None:
    source = batches()
    drawn = torch.stack([source._timesteps(step, np.arange(8), 8) for step in range(800)])
    assert drawn.min() >= 0 and drawn.max() <= 999
    for column in drawn.T:  # each picture's own range ...
        assert column.float().std() > 30
    counts = torch.histc(drawn.float(), bins=20, min=0, max=1000)
    assert (counts / counts.mean() - 1).abs().max() < 0.2  # ... and all of them together
    assert all(len(set((row // 125).tolist())) == 8 for row in drawn)


def test_noise_is_standard_normal(batches: Callable[..., Batches]) -> None:
    source = batches()
    noise = torch.stack([source(step).noise for step in range(40)]).double()
    assert abs(float(noise.mean())) < 0.01 and abs(float(noise.std()) - 1) < 0.01
