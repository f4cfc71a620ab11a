"""The network, the losses and the samplers on a GPU that is not there: nothing is left on the CPU by mistake.

torch's fake tensors have a device and a shape and no numbers; an operation that mixes devices raises as a GPU's would.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rcdm_core.diffusion import Diffusion
from rcdm_core.presets import PRESETS
from rcdm_core.samplers import SAMPLERS
from rcdm_core.training.batches import Batch
from rcdm_core.training.muon import Muon
from rcdm_core.unet import UNet

CUDA, DIM, SIZE = torch.device("cuda", 0), 16, 32


def torch_can() -> bool:
    """Whether fake tensors of this torch need no driver: those of 2.6 do."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), CUDA:
            return torch.nn.Linear(2, 2)(torch.zeros(1).to(CUDA).expand(2)).device == CUDA
    except RuntimeError:
        return False


pytestmark = pytest.mark.skipif(not torch_can(), reason="fake tensors on a GPU need its driver in this torch")


@contextlib.contextmanager
def network(diffusion_of: str, conditioning: str) -> Iterator[tuple[UNet, Diffusion]]:
    preset = replace(PRESETS["tiny-32"], diffusion=PRESETS[diffusion_of].diffusion)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with CUDA:
            unet = UNet(preset.unet_config(conditioning, h_dim=DIM))
        yield unet, Diffusion(preset.diffusion)


def batch() -> Batch:
    picture = torch.zeros(4, 3, SIZE, SIZE)
    return Batch(picture, picture, torch.zeros(4, dtype=torch.int64), torch.zeros(4, DIM)).to(CUDA)


# tiny-32 predicts v with a fixed variance, adm-64 epsilon with a learned one
@pytest.mark.parametrize(("diffusion_of", "parts"), [("tiny-32", {"loss", "mse"}), ("adm-64", {"loss", "mse", "vb"})])
@pytest.mark.parametrize("conditioning", ["batchnorm", "embedding"])
def test_a_step_and_the_samplers_stay_on_the_gpu(diffusion_of: str, parts: set[str], conditioning: str) -> None:
    with network(diffusion_of, conditioning) as (unet, diffusion):
        one = batch()
        x_t = diffusion.q_sample(one.x0, one.t, one.noise)
        losses = diffusion.losses(unet(x_t, one.t, one.h), one.x0, x_t, one.t, one.noise)
        assert set(losses) == parts
        assert {(value.device, value.dtype) for value in losses.values()} == {(CUDA, torch.float32)}
        unet.eval()
        for sample in SAMPLERS.values():
            drawn = sample(lambda x, t: unet(x, t, one.h).detach(), diffusion, one.noise, 2)
            assert (drawn.device, drawn.dtype, drawn.shape) == (CUDA, torch.float32, one.noise.shape)


def test_muon_stays_on_the_gpu() -> None:
    with network("tiny-32", "batchnorm") as (unet, _):
        matrices = unet.matrices_of_blocks()
        for matrix in matrices:
            matrix.grad = torch.zeros_like(matrix)
        optimizer = Muon([{"params": matrices}], 1e-3)
        optimizer.step()
        assert {state["momentum"].device for state in optimizer.state.values()} == {CUDA}


def test_the_gpu_that_is_not_there_notices_what_is_left_on_the_cpu() -> None:
    with network("tiny-32", "batchnorm") as (unet, _), pytest.raises(RuntimeError, match="device"):
        unet(batch().x0, batch().t, torch.zeros(4, DIM))
