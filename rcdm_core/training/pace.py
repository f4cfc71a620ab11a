"""How long a training step takes on this machine, before a training that has to fit into some minutes begins."""

from __future__ import annotations

import statistics
import time

import torch

from rcdm_core.memory import keep_freed_memory
from rcdm_core.precision import computing_in, resolve_device, resolve_precision
from rcdm_core.training.config import TrainConfig
from rcdm_core.unet import UNet, UNetConfig

TIMED, BEFORE = 3, 1  # steps; the first one also loads and chooses kernels
REST = 1.15  # a whole step over the network's part: batches, optimizer, EMA


def seconds_a_step(config: TrainConfig, unet: UNetConfig) -> float:
    """Seconds of a step of that training, measured in a few on random pictures; weights and data are not touched.

    unet: the network that `config` will train. Raises RCDMError for a device or precision that is not there.
    """
    keep_freed_memory()
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    B, S = config.recipe().batch_size, unet.image_size
    durations = []
    with torch.random.fork_rng([] if device.type != "cuda" else [torch.cuda.current_device()]):
        network = UNet(unet).to(device).train()
        x_t, h = torch.randn(B, 3, S, S, device=device), torch.randn(B, unet.h_dim, device=device)
        timestep = torch.zeros(B, dtype=torch.long, device=device)
        for _ in range(BEFORE + TIMED):
            start = time.perf_counter()
            with computing_in(precision, device):
                predicted = network(x_t, timestep, h)
            predicted.float().square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            durations.append(time.perf_counter() - start)
    return REST * statistics.median(durations[BEFORE:])
