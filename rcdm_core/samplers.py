"""Samplers: from noise x_T to a picture x_0, one function each, which reads like its algorithm.

All take the network as a function `network(x, t) -> output` of x [B, C, H, W] and original timesteps t [B], and keep
their own state in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rcdm_core import defaults
from rcdm_core.diffusion import Diffusion
from rcdm_core.errors import RCDMError

Network = Callable[[Tensor, Tensor], Tensor]

#: log(alpha / sigma) below which DPM-Solver++ does not start. The cosine schedule ends at alpha_bar = 2.4e-9; a step
#: from there would be a leap over noise levels at which the network knows nothing but the mean.
MIN_LOG_SNR = -5.1


def _times(diffusion: Diffusion, i: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Step index and original timestep of step i, each [B]."""
    index = torch.full((len(x),), i, dtype=torch.long, device=x.device)
    return index, torch.full_like(index, int(diffusion.timesteps[i]))


@torch.no_grad()
def ddpm(
    network: Network,
    diffusion: Diffusion,
    x_T: Tensor,  # [B, C, H, W], standard normal
    steps: int,  # number of evaluations of the network
    step_noise: Callable[[int], Tensor] | None = None,  # k-th step taken -> noise like x_T; None: torch.randn_like
    spacing: str = "even",  # which timesteps are kept: "even" or "ddim"
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) over respaced timesteps; x_0 clipped at every step."""
    process = diffusion.respaced(steps, spacing)
    x = x_T.float()
    for taken, i in enumerate(reversed(range(len(process)))):
        index, t = _times(process, i, x)
        step = process.reverse(network(x, t), x, index)
        x = step.mean
        if i > 0:
            noise = torch.randn_like(x) if step_noise is None else step_noise(taken)
            x = x + (0.5 * step.log_variance).exp() * noise
    return x


@torch.no_grad()
def ddim(
    network: Network,
    diffusion: Diffusion,
    x_T: Tensor,  # [B, C, H, W], standard normal
    steps: int,  # number of evaluations of the network
    step_noise: Callable[[int], Tensor] | None = None,  # ignored: eta is 0, x_T alone decides the picture
    spacing: str = "even",  # which timesteps are kept: "even" or "ddim"
) -> Tensor:
    """DDIM with eta = 0 (Song et al. 2021, equation 12); epsilon is derived anew from the clipped x_0."""
    process = diffusion.respaced(steps, spacing)
    x = x_T.float()
    for i in reversed(range(len(process))):
        index, t = _times(process, i, x)
        x0 = process.reverse(network(x, t), x, index).x0
        epsilon = process.predict_epsilon(x0, x, index)
        alpha_bar_prev = float(process.alpha_bar_prev[i])
        x = np.sqrt(alpha_bar_prev) * x0 + np.sqrt(1 - alpha_bar_prev) * epsilon
    return x


def dpm_timesteps(diffusion: Diffusion, steps: int) -> np.ndarray:
    """The timesteps that DPM-Solver++ visits, noisiest first, int [steps]: evenly spaced over those whose
    log(alpha / sigma) is at least MIN_LOG_SNR; the step after the last leads to x_0."""
    lambdas = 0.5 * np.log(diffusion.alpha_bar / (1 - diffusion.alpha_bar))
    noisiest = int(np.nonzero(lambdas >= MIN_LOG_SNR)[0][-1])
    if not 1 <= steps <= noisiest:
        raise ValueError(f"between 1 and {noisiest} sampling steps are possible, not {steps}")
    return np.linspace(noisiest, 0, steps + 1).round().astype(int)[:-1]


@torch.no_grad()
def dpmpp_2m(
    network: Network,
    diffusion: Diffusion,
    x_T: Tensor,  # [B, C, H, W], standard normal
    steps: int,  # number of evaluations of the network
    step_noise: Callable[[int], Tensor] | None = None,  # ignored: the solver is deterministic
    spacing: str = "even",  # ignored: see `dpm_timesteps`
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) in data prediction; x_0 clipped, the last step first-order."""
    timesteps = dpm_timesteps(diffusion, steps)
    alpha = np.append(np.sqrt(diffusion.alpha_bar[timesteps]), 1.0)
    sigma = np.append(np.sqrt(1 - diffusion.alpha_bar[timesteps]), 0.0)
    lambdas = np.log(alpha[:-1] / sigma[:-1])
    x, previous = x_T.float(), None
    for i in range(steps):
        index, t = _times(diffusion, int(timesteps[i]), x)
        x0 = diffusion.reverse(network(x, t), x, index).x0
        if i == steps - 1:
            x = x0  # sigma = 0: the update's limit
        else:
            step = lambdas[i + 1] - lambdas[i]
            direction = x0
            if previous is not None:
                ratio = (lambdas[i] - lambdas[i - 1]) / step
                direction = (1 + 0.5 / ratio) * x0 - (0.5 / ratio) * previous
            x = (sigma[i + 1] / sigma[i]) * x - alpha[i + 1] * np.expm1(-step) * direction
        previous = x0
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ddpm": ddpm, "ddim": ddim, "dpm++": dpmpp_2m}
DEFAULT_SAMPLER, DEFAULT_SAMPLING_STEPS = defaults.SAMPLER, defaults.SAMPLING_STEPS


def check_steps(name: str, diffusion: Diffusion, steps: int) -> None:
    """Whether the sampler called `name` can take so many steps, for those who want to know before any other work.

    Raises RCDMError naming the options and what is possible.
    """
    try:
        if name not in SAMPLERS:
            raise ValueError(f"there are {', '.join(SAMPLERS)}")
        if name == "dpm++":
            dpm_timesteps(diffusion, steps)
        else:
            diffusion.respaced(steps)
    except ValueError as error:
        raise RCDMError(f"Cannot sample with --sampler {name} --sampling-steps {steps}: {error}.") from error


def sample(name: str, network: Network, diffusion: Diffusion, x_T: Tensor, steps: int, **kwargs: object) -> Tensor:
    """Run the sampler called `name`; see its function for the arguments.

    Returns:
        x_0, [B, C, H, W] float32, about [-1, 1].

    Raises:
        ValueError: no such sampler, or a number of steps that it cannot take.
    """
    if name not in SAMPLERS:
        raise ValueError(f"no sampler {name!r}; there are {', '.join(SAMPLERS)}")
    return SAMPLERS[name](network, diffusion, x_T, steps, **kwargs)
