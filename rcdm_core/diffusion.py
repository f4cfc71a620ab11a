"""The diffusion process: schedules, q(x_t | x_0), the posterior and the training loss (Ho et al. 2020; Nichol &
Dhariwal 2021), with epsilon or v prediction and a learned or fixed variance.

Pictures are in [-1, 1] here and in `samplers.py`, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

SCHEDULES = ("linear", "cosine")
PREDICTIONS = ("epsilon", "v")
VARIANCES = ("learned_range", "fixed_small", "fixed_large")


@dataclass(frozen=True)
class DiffusionConfig:
    """A diffusion process; stored in a bundle.

    Attributes:
        steps: number of timesteps that the network is trained on.
        schedule: "linear" (Ho et al.) or "cosine" (Nichol & Dhariwal).
        prediction: what the network outputs: "epsilon" or "v" (Salimans & Ho 2022).
        variance: of the reverse step: "learned_range" (the network interpolates between the two bounds),
            "fixed_small" (the posterior's) or "fixed_large" (beta).

    Raises:
        ValueError: for a value that is none of these.
    """

    steps: int = 1000
    schedule: str = "cosine"
    prediction: str = "v"
    variance: str = "fixed_small"

    def __post_init__(self) -> None:
        for name, allowed in (("schedule", SCHEDULES), ("prediction", PREDICTIONS), ("variance", VARIANCES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(allowed)}")
        if self.steps < 2:
            raise ValueError(f"a diffusion needs at least 2 steps, not {self.steps}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DiffusionConfig:
        """The inverse of `to_dict`. Raises ValueError for a name that this version does not know."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown diffusion setting {', '.join(sorted(unknown))}")
        return cls(**values)


def betas(schedule: str, steps: int) -> np.ndarray:
    """beta_t for t = 0 .. steps - 1, float64 [steps]."""
    if schedule == "linear":
        # Ho et al.'s 1e-4 .. 0.02 belong to 1000 steps: other numbers keep the same total noise.
        scale = 1000 / steps
        return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)
    edges = np.cos((np.arange(steps + 1, dtype=np.float64) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - edges[1:] / edges[:-1], 0.999)


class Reverse(NamedTuple):
    """What one evaluation of the network says of x_{t-1}."""

    x0: Tensor
    mean: Tensor
    log_variance: Tensor


def _at(values: np.ndarray, t: Tensor, like: Tensor) -> Tensor:
    """values[t] as float32 [B, 1, 1, 1]: computed in float64, cast last."""
    # Cast before the move: there are devices without float64.
    picked = torch.from_numpy(values).float().to(t.device)[t]
    return picked.view(-1, *[1] * (like.dim() - 1))


def _mean_over_picture(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean1, var1) || N(mean2, var2)) in nats, element by element."""
    return 0.5 * (
        -1.0
        + log_variance2
        - log_variance1
        + torch.exp(log_variance1 - log_variance2)
        + (mean1 - mean2) ** 2 * torch.exp(-log_variance2)
    )


def discretised_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P of the 8-bit value of x (in [-1, 1]) under a Gaussian, element by element (Ho et al., equation 13).

    The normal distribution function is its tanh approximation, as in the models that we are compared with.
    """

    def cdf(z: Tensor) -> Tensor:
        return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)))

    centred, inverse_std = x - mean, torch.exp(-log_scale)
    above, below = cdf(inverse_std * (centred + 1 / 255)), cdf(inverse_std * (centred - 1 / 255))
    # The outermost values collect the tails.
    probability = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return probability.clamp(min=1e-12).log()


class Diffusion:
    """A diffusion process over the timesteps `timesteps` of `config` (all of them unless `respaced`).

    The arrays are float64 [T]: `betas`, `alpha_bar`, `alpha_bar_prev`, `timesteps` (the original t that each step
    hands to the network).

    averaged: 4 is the process as pictures of half the size see it: means of 2 x 2 pixels of x_t, scaled so that the
    noise in them has the variance 1 - alpha_bar again, of which the mean leaves a quarter. At each timestep they show
    the picture better than x_t does, alpha_bar / (1 - alpha_bar) being four times as large.
    """

    def __init__(self, config: DiffusionConfig, timesteps: np.ndarray | None = None, averaged: int = 1) -> None:
        self.config, self.averaged = config, averaged
        full = np.cumprod(1 - betas(config.schedule, config.steps))
        if averaged > 1:
            full = averaged * full / (1 + (averaged - 1) * full)
        self.timesteps = np.arange(config.steps) if timesteps is None else np.asarray(timesteps)
        # Respacing: the betas that lead through the kept timesteps alone with the same alpha_bar there.
        kept = full[self.timesteps]
        self.betas = 1 - kept / np.append(1.0, kept[:-1])
        self.alpha_bar = np.cumprod(1 - self.betas)
        self.alpha_bar_prev = np.append(1.0, self.alpha_bar[:-1])
        self._posterior_variance = self.betas * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)
        # At t = 0 the posterior has no variance; its logarithm borrows the next step's, if there is one.
        least = self._posterior_variance[1] if len(self.betas) > 1 else self.betas[0]
        self._posterior_log_variance = np.log(np.append(least, self._posterior_variance[1:]))
        # Beta itself at t = 0 would make the last decoding step far too noisy.
        self._large_log_variance = np.log(np.append(least, self.betas[1:]))
        self._x0_coefficient = self.betas * np.sqrt(self.alpha_bar_prev) / (1 - self.alpha_bar)
        self._x_t_coefficient = (1 - self.alpha_bar_prev) * np.sqrt(1 - self.betas) / (1 - self.alpha_bar)

    def __len__(self) -> int:
        return len(self.betas)

    def respaced(self, steps: int, spacing: str = "even") -> Diffusion:
        """The same process over `steps` of its timesteps (Nichol & Dhariwal 2021, section 4).

        Args:
            spacing: "even" (first and last timestep included) or "ddim" (a constant integer stride from 0).

        Raises:
            ValueError: where there is no such choice of timesteps.
        """
        total = self.config.steps
        if not 1 <= steps <= total:
            raise ValueError(f"between 1 and {total} sampling steps are possible, not {steps}")
        if spacing == "even":
            stride = (total - 1) / (steps - 1) if steps > 1 else 1.0
            # The last kept step of a single-step process is the noisiest one.
            kept = [round(i * stride) for i in range(steps)] if steps > 1 else [total - 1]
        elif spacing == "ddim":
            strides = [s for s in range(1, total) if len(range(0, total, s)) == steps]
            if not strides:
                raise ValueError(f"no integer stride visits exactly {steps} of {total} timesteps")
            kept = list(range(0, total, strides[0]))
        else:
            raise ValueError(f"spacing {spacing!r} is neither 'even' nor 'ddim'")
        return Diffusion(self.config, np.asarray(kept), self.averaged)

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0) (Ho et al., equation 4). Args: x0, noise [B, C, H, W]; t [B] step indices."""
        return _at(np.sqrt(self.alpha_bar), t, x0) * x0 + _at(np.sqrt(1 - self.alpha_bar), t, x0) * noise

    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network should output: epsilon, or v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x_0."""
        if self.config.prediction == "epsilon":
            return noise
        return _at(np.sqrt(self.alpha_bar), t, x0) * noise - _at(np.sqrt(1 - self.alpha_bar), t, x0) * x0

    def predict_x0(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_0 from the network's prediction (without variance channels), not clipped."""
        if self.config.prediction == "v":
            return _at(np.sqrt(self.alpha_bar), t, x_t) * x_t - _at(np.sqrt(1 - self.alpha_bar), t, x_t) * prediction
        return (
            _at(np.sqrt(1 / self.alpha_bar), t, x_t) * x_t - _at(np.sqrt(1 / self.alpha_bar - 1), t, x_t) * prediction
        )

    def predict_epsilon(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise that leads from x_0 to x_t."""
        return (_at(np.sqrt(1 / self.alpha_bar), t, x_t) * x_t - x0) / _at(np.sqrt(1 / self.alpha_bar - 1), t, x_t)

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (Ho et al., equation 7)."""
        return _at(self._x0_coefficient, t, x_t) * x0 + _at(self._x_t_coefficient, t, x_t) * x_t

    def split_output(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's output as prediction and variance channels (None if the variance is fixed)."""
        if self.config.variance != "learned_range":
            return output, None
        prediction, variance = output.chunk(2, dim=1)
        return prediction, variance

    def log_variance(self, variance: Tensor | None, t: Tensor, like: Tensor) -> Tensor:
        """log of the reverse step's variance; learned, it lies between the posterior's and beta (Nichol & Dhariwal,
        equation 15)."""
        small, large = _at(self._posterior_log_variance, t, like), _at(np.log(self.betas), t, like)
        if variance is not None:
            fraction = (variance + 1) / 2
            return fraction * large + (1 - fraction) * small
        if self.config.variance == "fixed_small":
            return small.expand_as(like)
        return _at(self._large_log_variance, t, like).expand_as(like)

    def reverse(self, output: Tensor, x_t: Tensor, t: Tensor, clip: bool = True) -> Reverse:
        """p(x_{t-1} | x_t) from the network's output.

        Args:
            output: [B, C or 2C, H, W]; x_t: [B, C, H, W]; t: [B] step indices.
            clip: whether x_0 is clipped to [-1, 1].
        """
        prediction, variance = self.split_output(output)
        x0 = self.predict_x0(prediction, x_t, t)
        if clip:
            x0 = x0.clamp(-1, 1)
        return Reverse(x0, self.posterior_mean(x0, x_t, t), self.log_variance(variance, t, x_t))

    def losses(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The training loss of each picture, in float32 whatever the network computed in.

        Args:
            output: the network's output at x_t = q_sample(x0, t, noise).

        Returns:
            `loss` [B]; `mse` [B], of the prediction; with a learned variance also `vb` [B], the variational term of
            timestep t in bits per dimension, and loss = mse + vb (Nichol & Dhariwal's hybrid loss).
        """
        prediction, variance = self.split_output(output.float())
        mse = _mean_over_picture((prediction - self.target(x0, t, noise)) ** 2)
        if variance is None:
            return {"loss": mse, "mse": mse}
        # The variational term teaches the variance alone: the mean is detached.
        frozen = torch.cat([prediction.detach(), variance], dim=1)
        vb = self.variational_term(frozen, x0, x_t, t)
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def variational_term(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """One timestep's term of the variational bound, bits per dimension [B]; at t = 0 the decoder's likelihood."""
        model = self.reverse(output, x_t, t, clip=False)
        true_mean, true_log_variance = self.posterior_mean(x0, x_t, t), _at(self._posterior_log_variance, t, x_t)
        kl = _mean_over_picture(normal_kl(true_mean, true_log_variance, model.mean, model.log_variance))
        decoder = -_mean_over_picture(discretised_gaussian_log_likelihood(x0, model.mean, 0.5 * model.log_variance))
        return torch.where(t == 0, decoder, kl) / math.log(2.0)
