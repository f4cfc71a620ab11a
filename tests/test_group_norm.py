"""The channels-last group norm against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rcdm_core.group_norm import GroupNorm


def _reference(norm: GroupNorm, x: torch.Tensor, modulation: tuple[torch.Tensor, ...]) -> torch.Tensor:
    y = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if modulation:
        scale, shift = (value[:, :, None, None] for value in modulation)
        y = y * (1 + scale) + shift
    return y


@pytest.mark.parametrize("size", [33, 8])
@pytest.mark.parametrize(("mean", "deviation"), [(300.0, 1.0), (5.0, 1e-3)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)], ids=["float32", "bf16"]
)
def test_values_far_from_zero_keep_their_digits(
    dtype: torch.dtype, tolerance: float, mean: float, deviation: float, size: int
) -> None:
    x = mean + deviation * torch.randn(2, 64, size, size, generator=torch.Generator().manual_seed(0))
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    norm = GroupNorm(64)
    expected = F.group_norm(x.double().contiguous(), norm.num_groups, eps=norm.eps)
    error = (norm(x).double() - expected).abs().max() / expected.abs().max().clamp(min=1e-6)  # 0 where bf16 rounds it
    assert error < tolerance


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=["float32", "bf16"]
)
@pytest.mark.parametrize("size", [33, 8, 6, 1])
@pytest.mark.parametrize("channels", [32, 96, 512])
def test_values_and_gradients_are_torchs(
    channels: int, size: int, dtype: torch.dtype, tolerance: float, modulated: bool
) -> None:
    draw = torch.Generator().manual_seed(0)
    norm = GroupNorm(channels)
    with torch.no_grad():
        norm.weight.normal_(generator=draw)
        norm.bias.normal_(generator=draw)
    # Far from zero mean: sums of squares lose digits there.
    x = (2 * torch.randn(3, channels, size, size, generator=draw) + 5).to(dtype)
    modulation = tuple(torch.randn(3, channels, generator=draw).requires_grad_() for _ in range(2 * modulated))
    weights = torch.randn(x.shape, generator=draw).to(dtype)

    own = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    others = (norm.weight, norm.bias, *modulation)
    y = norm(own, *modulation)
    found = torch.autograd.grad(y, (own, *others), weights)

    plain = x.float().requires_grad_()
    expected_y = _reference(norm, plain, modulation)
    expected = torch.autograd.grad(expected_y, (plain, *others), weights.float())

    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    if size == 1 and channels == 32:
        return  # a group of one value: its normalised value is zero whatever it is, and so is its gradient
    names = ("y", "x", "weight", "bias", "scale", "shift")[: len(found) + 1]
    for name, a, b in zip(names, (y, *found), (expected_y, *expected), strict=True):
        error = (a.float() - b).abs().max() / b.abs().max().clamp(min=1e-6)
        assert error < tolerance, f"{name}: {error}"


@pytest.mark.parametrize("value", [7.0, 123.456, 1e5])
def test_a_constant_picture_stays_finite(value: float) -> None:
    norm = GroupNorm(32)
    x = torch.full((2, 32, 8, 8), value).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = norm(x)
    y.sum().backward()
    assert y.abs().max() < 1e-2 and bool(torch.isfinite(x.grad).all())
