"""The diffusion process and the samplers against the reference implementation and diffusers' schedulers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from test_unet_golden import close, read

from rcdm_core.diffusion import Diffusion, DiffusionConfig
from rcdm_core.samplers import SAMPLERS, dpm_timesteps, sample

SCHEDULES = ["linear", "cosine"]


def reference(schedule: str) -> Diffusion:
    return Diffusion(DiffusionConfig(schedule=schedule, prediction="epsilon", variance="learned_range"))


def golden_network(A: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oc,bchw->bohw", A, x) + 0.1 * t.float()[:, None, None, None] / 1000


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_betas_and_alpha_bar(schedule: str) -> None:
    tensors, _ = read(f"diffusion_{schedule}")
    diffusion = reference(schedule)
    np.testing.assert_allclose(diffusion.betas, tensors["betas"].numpy(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(diffusion.alpha_bar, tensors["alphas_cumprod"].numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_q_sample_and_hybrid_loss(schedule: str) -> None:
    tensors, _ = read(f"diffusion_{schedule}")
    diffusion = reference(schedule)
    x0, t, noise = tensors["x0"], tensors["t"], tensors["noise"]
    x_t = diffusion.q_sample(x0, t, noise)
    close(x_t, tensors["x_t"])
    losses = diffusion.losses(golden_network(tensors["A"], x_t, t), x0, x_t, t, noise)
    for name in ("loss", "mse", "vb"):
        close(losses[name], tensors[f"loss_{name}"])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("label", "steps", "spacing"), [("10", 10, "even"), ("25", 25, "even"), ("ddim25", 25, "ddim")]
)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_samplers_with_respacing(schedule: str, label: str, steps: int, spacing: str, sampler: str) -> None:
    tensors, _ = read(f"diffusion_{schedule}")
    diffusion = reference(schedule)
    spaced = {k.split("/")[1]: v for k, v in tensors.items() if k.startswith(f"spaced_{label}/")}
    assert diffusion.respaced(steps, spacing).timesteps.tolist() == spaced["timesteps"].tolist()
    network = partial(golden_network, tensors["A"])
    noise = spaced["step_noise"]
    x0 = sample(sampler, network, diffusion, spaced["xT"], steps, step_noise=lambda k: noise[k], spacing=spacing)
    close(x0, spaced[sampler])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_dpm_solver_agrees_with_diffusers(schedule: str, prediction: str) -> None:
    from diffusers import DPMSolverMultistepScheduler

    diffusion = Diffusion(DiffusionConfig(schedule=schedule, prediction=prediction))
    torch.manual_seed(0)
    A, x_T, steps = torch.randn(3, 3) * 0.3, torch.randn(2, 3, 8, 8), 12

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.einsum("oc,bchw->bohw", A, x)) + t.float()[:, None, None, None] / 2000

    class Clipped(DPMSolverMultistepScheduler):
        def convert_model_output(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
            return super().convert_model_output(*args, **kwargs).clamp(-1, 1)

    scheduler = Clipped(
        trained_betas=diffusion.betas,
        prediction_type="v_prediction" if prediction == "v" else "epsilon",
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(timesteps=dpm_timesteps(diffusion, steps).tolist())
    x = x_T
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(2)), t, x).prev_sample
    close(sample("dpm++", network, diffusion, x_T, steps), x, 1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_samplers_find_the_data_of_an_exact_network(sampler: str, prediction: str) -> None:
    """Data N(mu, s^2) has a known best prediction; its samples must have the data's mean and spread."""
    diffusion = Diffusion(DiffusionConfig(schedule="cosine", prediction=prediction))
    mu, s = 0.3, 0.1

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = torch.from_numpy(diffusion.alpha_bar).float()[t][:, None, None, None]
        x0 = mu + a.sqrt() * s**2 / (a * s**2 + 1 - a) * (x - a.sqrt() * mu)
        epsilon = (x - a.sqrt() * x0) / (1 - a).sqrt()
        return epsilon if prediction == "epsilon" else a.sqrt() * epsilon - (1 - a).sqrt() * x0

    torch.manual_seed(0)
    x0 = sample(sampler, network, diffusion, torch.randn(64, 3, 8, 8), 100)
    assert abs(x0.mean() - mu) < 0.01
    assert abs(x0.std() - s) < 0.02


def test_v_and_epsilon_say_the_same_of_x0() -> None:
    torch.manual_seed(0)
    x0, noise = torch.rand(4, 3, 8, 8) * 2 - 1, torch.randn(4, 3, 8, 8)
    t = torch.tensor([0, 10, 500, 900])
    for prediction in ("epsilon", "v"):
        diffusion = Diffusion(DiffusionConfig(prediction=prediction))
        x_t = diffusion.q_sample(x0, t, noise)
        recovered = diffusion.predict_x0(diffusion.target(x0, t, noise), x_t, t)
        close(recovered, x0, 1e-3)
        close(diffusion.predict_epsilon(x0, x_t, t), noise, 1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_variational_term_leaves_the_prediction_alone(prediction: str) -> None:
    diffusion = Diffusion(DiffusionConfig(prediction=prediction, variance="learned_range"))
    torch.manual_seed(0)
    x0, noise, t = torch.rand(4, 3, 8, 8) * 2 - 1, torch.randn(4, 3, 8, 8), torch.tensor([0, 10, 500, 900])
    x_t = diffusion.q_sample(x0, t, noise)
    output = torch.randn(4, 6, 8, 8, requires_grad=True)
    diffusion.losses(output, x0, x_t, t, noise)["vb"].sum().backward()
    assert output.grad is not None
    assert output.grad[:, :3].abs().max() == 0
    assert output.grad[:, 3:].abs().max() > 0


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_fixed_variances_agree_with_diffusers(variance: str) -> None:
    from diffusers import DDPMScheduler

    diffusion = Diffusion(DiffusionConfig(schedule="linear", prediction="epsilon", variance=variance))
    scheduler = DDPMScheduler(trained_betas=diffusion.betas, variance_type=variance)
    for t in (1, 10, 500, 999):
        expected = float(scheduler._get_variance(torch.tensor(t)))
        actual = diffusion.log_variance(None, torch.tensor([t]), torch.zeros(1, 3, 2, 2)).exp()
        assert float(actual.mean()) == pytest.approx(expected, rel=1e-3)  # diffusers computes in float32


def test_impossible_steps_are_refused() -> None:
    diffusion = Diffusion(DiffusionConfig())
    for name in SAMPLERS:
        with pytest.raises(ValueError, match="sampling steps"):
            sample(name, lambda x, t: x, diffusion, torch.zeros(1, 3, 4, 4), 5000)
    with pytest.raises(ValueError, match="no sampler"):
        sample("euler", lambda x, t: x, diffusion, torch.zeros(1, 3, 4, 4), 5)
    with pytest.raises(ValueError, match="none of"):
        DiffusionConfig(schedule="quadratic")


def test_dpm_solver_does_not_start_where_the_cosine_schedule_ends() -> None:
    """At alpha_bar = 2.4e-9 a first step would leap over noise levels at which the network knows only the mean."""
    diffusion = Diffusion(DiffusionConfig(schedule="cosine", prediction="v"))
    first, *_, last = dpm_timesteps(diffusion, 20)
    assert diffusion.alpha_bar[-1] < 1e-8 and 3e-5 < diffusion.alpha_bar[first] < 5e-5 and last > 0


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_fewest_and_the_most_steps_give_numbers(sampler: str, schedule: str) -> None:
    diffusion = Diffusion(DiffusionConfig(schedule=schedule, prediction="v", variance="fixed_large"))
    torch.manual_seed(0)
    x_T = torch.randn(1, 3, 2, 2)
    most = dpm_timesteps(diffusion, 1)[0] if sampler == "dpm++" else 1000
    for steps in (1, int(most)):
        assert sample(sampler, lambda x, t: 0.5 * x, diffusion, x_T, steps).isfinite().all()
