"""Muon against the singular value decomposition, against torch's own where there is one, and in a training."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_fixtures import Make, Recorder, make_trainer, results

from rcdm_core.presets import PRESETS
from rcdm_core.training import train
from rcdm_core.training.muon import Muon, orthogonalised
from rcdm_core.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24, 80), (80, 24), (3, 24, 80), (16, 16)])
def test_the_update_keeps_the_directions_and_evens_their_lengths(shape: tuple[int, ...]) -> None:
    matrices = random(*shape)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    # In the matrix's own basis the update is diagonal; a square one has singular values near 0, which five steps of
    # Newton-Schulz do not bring up, so that only the upper ones are looked at.
    (updates,) = orthogonalised([matrices.reshape(-1, *shape[-2:])])
    inside = u.mT @ updates.reshape(shape) @ vh.mT
    lengths = torch.diagonal(inside, dim1=-2, dim2=-1)
    assert torch.allclose(inside, torch.diag_embed(lengths), atol=1e-4)
    assert float(lengths[..., : shape[-1] // 2].min()) > 0.65 and float(lengths.max()) < 1.25


def test_stacks_of_any_shapes_together_are_what_each_is_alone() -> None:
    shapes = [(2, 24, 80), (3, 80, 24), (1, 24, 24), (2, 8, 80)]
    stacks = [random(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    for together, stack in zip(orthogonalised(stacks), stacks, strict=True):
        (alone,) = orthogonalised([stack])
        torch.testing.assert_close(together, alone)


@pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"),
    reason="torch has a Muon to compare with from 2.9 on, and older ones are supported; the others hold for each",
)
def test_a_step_is_that_of_torchs_muon() -> None:
    ours, theirs = ([torch.nn.Parameter(random(*shape)) for shape in ((8, 24), (24, 8), (8, 24))] for _ in range(2))
    optimizers = [
        Muon(ours, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    ]
    before = [weight.detach().clone() for weight in ours]
    for step in range(4):
        for weights, optimizer in zip((ours, theirs), optimizers, strict=True):
            for index, weight in enumerate(weights):
                weight.grad = random(*weight.shape, seed=10 * step + index)
            optimizer.step()
    for start, a, b in zip(before, ours, theirs, strict=True):
        apart, moved = (a - b).detach().norm(), (a - start).detach().norm()
        assert float(apart) < 0.05 * float(moved)  # the other rounds to bfloat16


def test_a_convolution_is_the_matrix_of_its_outputs() -> None:
    kernel = torch.nn.Parameter(random(8, 4, 3, 3).to(memory_format=torch.channels_last))
    matrix = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    for weight in (kernel, matrix):
        weight.grad = random(8, 4, 3, 3, seed=1).view(weight.shape)
        Muon([weight], lr=0.1).step()
    assert torch.allclose(kernel.flatten(1), matrix, atol=1e-6)
    with pytest.raises(ValueError, match="two axes"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)


@pytest.mark.parametrize("conditioning", ["batchnorm", "embedding", "none"])
def test_which_weights_it_gets(conditioning: str) -> None:
    network = UNet(PRESETS["tiny-32"].unet_config(conditioning, h_dim=5))
    chosen = {id(parameter) for parameter in network.matrices_of_blocks()}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in chosen}
    assert all(name.split(".")[0] in ("input_blocks", "middle_block", "output_blocks") for name in names)
    assert not any(".gain." in name or name.startswith("input_blocks.0.") for name in names)
    for kind in ("in_layers.2", "out_layers.3", "emb_layers.1"):
        assert f"middle_block.0.{kind}.weight" in names
    assert "middle_block.1.qkv.weight" in names


def test_every_weight_has_one_optimizer_and_moves(arguments: Make) -> None:
    trainer = make_trainer(arguments(optimizer="muon"))
    owned = [p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]]
    assert [type(optimizer).__name__ for optimizer in trainer.optimizers] == ["Muon", "AdamW"]
    assert sorted(map(id, owned)) == sorted(map(id, trainer.parameters))
    matrices = [p.detach() for p in trainer.network.matrices_of_blocks()]
    before = [p.clone() for p in matrices]
    for step in range(3):
        trainer._step(trainer._batches("train")(step))
    assert min(float((now - old).abs().max()) for now, old in zip(matrices, before, strict=True)) > 0


def test_a_resumed_run_ends_at_the_same_bits(arguments: Make, tmp_path: Path) -> None:
    settings = {"optimizer": "muon", "precision": "float32", "save_every": 2}
    settings |= {"lr_schedule": "cosine", "h_lr": 0.1, "steps": 6, "conditioning": "embedding"}
    whole = train(arguments(out=tmp_path / "whole", **settings))
    stopping = Recorder(lambda done: os.kill(os.getpid(), signal.SIGINT) if done == 3 else None)
    train(arguments(out=tmp_path / "parts", **settings), stopping)
    parts = train(arguments(out=tmp_path / "parts", resume=True, **settings))
    assert 0 < stopping.updates < 6 and results(parts) == results(whole)
