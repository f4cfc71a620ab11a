"""How long a training step takes on this machine, before a training that has to fit into some minutes begins."""

from __future__ import annotations

import math
import statistics
import time

import torch

from rcdm_core.memory import keep_freed_memory
from rcdm_core.precision import computing_in, resolve_device, resolve_precision
from rcdm_core.training.config import TrainConfig
from rcdm_core.training.ema import EMA
from rcdm_core.training.optimizers import make_optimizers
from rcdm_core.unet import UNet, UNetConfig

TIMED, BEFORE = 5, 1  # steps; the first one also loads and chooses kernels
REST = 1.1  # a step of a training over one of these: batches and noise, which other threads make, and checks


def seconds_a_step(config: TrainConfig, unet: UNetConfig) -> float:
    """Seconds of a step of that training, measured in a few of a network of its own on random pictures.

    unet: the network that `config` will train. Raises RCDMError for a device or precision that is not there.
    """
    keep_freed_memory()
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision_or_auto, device)
    recipe = config.recipe()
    B, S = recipe.batch_size, unet.image_size
    durations: list[float] = []
    with torch.random.fork_rng([] if device.type != "cuda" else [torch.cuda.current_device()]):
        network = UNet(unet).to(device).train()
        optimizers, average = make_optimizers(network, recipe, device), EMA(network, recipe.ema)
        parameters = list(network.parameters())
        x_t, h = torch.randn(B, 3, S, S, device=device), torch.randn(B, unet.h_dim, device=device)
        timestep = torch.zeros(B, dtype=torch.long, device=device)
        for _ in range(BEFORE + TIMED):
            start = time.perf_counter()
            with computing_in(precision, device):
                predicted = network(x_t, timestep, h)
            network.zero_grad(set_to_none=True)
            predicted.float().square().mean().backward()
            float(torch.nn.utils.clip_grad_norm_(parameters, recipe.clip or math.inf))  # a real step waits for it
            for optimizer in optimizers:
                optimizer.step()
            average.update(len(durations))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            elif device.type == "mps":
                torch.mps.synchronize()
            durations.append(time.perf_counter() - start)
    return REST * statistics.median(durations[BEFORE:])
