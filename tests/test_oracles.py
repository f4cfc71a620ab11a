"""The oracles keep what they say, forget what they say, and are well-behaved encoders of any picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from exact_rcdm import FACTORS_OF
from rcdm_plugin_shapes import FORGETS, IMAGE_SIZE, PARTS, kept_parts, rcdm_providers
from rcdm_plugin_shapes.oracle import SIGNATURES, complex_moments, read_out
from torch import Tensor
from torch.nn import functional as F

from rcdm_core.data.shapes import (
    BACKGROUND_SATURATION,
    BACKGROUND_VALUE,
    OBJECT_SATURATION,
    OBJECT_VALUE,
    SHAPES,
    Factors,
    Shapes,
    hsv_to_rgb,
    render_batch,
)
from rcdm_core.encoder import Encoder, load_encoder
from rcdm_core.errors import RCDMError

COUNT = 1200

def as_images(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).float() / 255


@pytest.fixture(scope="module")
def factors() -> list[Factors]:
    shapes = Shapes(COUNT, seed=5)
    return [shapes.factors(index) for index in range(COUNT)]


@pytest.fixture(scope="module")
def images(factors: list[Factors]) -> Tensor:
    return as_images(render_batch(factors, IMAGE_SIZE))


@pytest.fixture(scope="module")
def parts(images: Tensor) -> dict[str, Tensor]:
    return read_out(images)


def targets(factors: list[Factors]) -> dict[str, np.ndarray]:
    """The factors as vectors: circles for hues and rotation, one-hot for the shape."""

    def circle(turns: list[float]) -> np.ndarray:
        angles = 2 * np.pi * np.array(turns)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    return {
        "background color": circle([one.background_hue for one in factors]),
        "object color": circle([one.object_hue for one in factors]),
        "size": np.array([[one.size] for one in factors]),
        "position": np.array([[one.x, one.y] for one in factors]),
        "shape": np.eye(len(SHAPES))[[one.shape for one in factors]],
        "rotation": circle([one.rotation for one in factors]),
    }


def held_out_r2(h: np.ndarray, target: np.ndarray) -> float:
    """R2 on the second half of a ridge regression that was fitted to the first."""
    half = len(h) // 2
    x = np.concatenate([(h - h[:half].mean(0)) / (h[:half].std(0) + 1e-9), np.ones((len(h), 1))], axis=1)
    mean = target[:half].mean(0)
    weight = np.linalg.solve(x[:half].T @ x[:half] + 0.1 * np.eye(x.shape[1]), x[:half].T @ (target[:half] - mean))
    error = target[half:] - mean - x[half:] @ weight
    return float(1 - (error**2).sum() / ((target[half:] - mean) ** 2).sum())


# -- the read-out ------------------------------------------------------------------------------------------------------


def test_read_out_is_the_factors(factors: list[Factors], parts: dict[str, Tensor]) -> None:
    truth = targets(factors)
    for part in ("size", "position", "rotation"):
        error = np.abs(parts[part].numpy() - truth[part])
        assert error.max() < {"size": 0.012, "position": 0.006, "rotation": 0.35}[part]
        assert error.mean() < {"size": 0.002, "position": 0.001, "rotation": 0.03}[part]
    assert (parts["shape"].argmax(1).numpy() == truth["shape"].argmax(1)).all()
    assert float(parts["shape"].max(1).values.min()) > 0.98
    backgrounds = hsv_to_rgb(np.array([one.background_hue for one in factors]), BACKGROUND_SATURATION, BACKGROUND_VALUE)
    objects = hsv_to_rgb(np.array([one.object_hue for one in factors]), OBJECT_SATURATION, OBJECT_VALUE)
    assert np.abs(parts["background color"].numpy() - backgrounds).max() < 0.01
    assert np.abs(parts["object color"].numpy() - objects).max() < 0.06


@pytest.mark.parametrize("name", list(FORGETS))
def test_kept_factors_are_decodable_and_forgotten_ones_are_not(
    name: str, factors: list[Factors], parts: dict[str, Tensor]
) -> None:
    h = torch.cat([parts[part] for part in kept_parts(name)], dim=1).numpy()
    for part, target in targets(factors).items():
        r2 = held_out_r2(h, target)
        if part in FORGETS[name]:
            assert r2 < 0.02, part
        else:
            assert r2 > 0.97, part


@pytest.mark.parametrize("name", [name for name in FORGETS if FORGETS[name]])
def test_pictures_that_differ_in_the_forgotten_factor_alone_have_the_same_h(
    name: str, factors: list[Factors], parts: dict[str, Tensor]
) -> None:
    forgotten = [factor for part in FORGETS[name] for factor in FACTORS_OF[part]]
    half = COUNT // 2
    changed = [
        replace(one, **{factor: getattr(other, factor) for factor in forgotten})
        for one, other in zip(factors[:half], factors[half:], strict=True)
    ]
    now = read_out(as_images(render_batch(changed, IMAGE_SIZE)))
    for part in kept_parts(name):
        difference = (now[part] - parts[part][:half]) / parts[part].std(0)
        assert float(difference.square().mean().sqrt()) < 0.06, part
    for part in FORGETS[name]:
        difference = (now[part] - parts[part][:half]) / parts[part].std(0)
        assert float(difference.square().mean().sqrt()) > 1, part


def test_nothing_but_the_colours_depends_on_the_colours(factors: list[Factors], parts: dict[str, Tensor]) -> None:
    recoloured = [replace(one, object_hue=one.background_hue, background_hue=one.object_hue) for one in factors[:300]]
    now = read_out(as_images(render_batch(recoloured, IMAGE_SIZE)))
    for part in ("size", "position", "shape", "rotation"):
        assert float((now[part] - parts[part][:300]).abs().max()) < 0.01, part


def test_signatures_are_those_of_the_drawn_outlines() -> None:
    assert tuple(SIGNATURES) == SHAPES
    size = 256
    pictures = render_batch([Factors(shape, 0, 0.5, 0.45, 0.5, 0.5, 0.1) for shape in range(len(SHAPES))], size)
    mask = (as_images(pictures)[:, 1] < 0.5).float()
    axis = ((torch.arange(size) + 0.5) / size - 0.5) / 0.225
    up, right = (-axis[:, None]).expand(5, size, size), axis[None, :].expand(5, size, size)
    moments = complex_moments(mask, up, right)
    for order in range(2, 6):
        magnitude = torch.hypot(*moments[order])
        ideal = torch.tensor([signature[order - 2] for signature in SIGNATURES.values()])
        assert torch.allclose(magnitude, ideal, atol=0.02), order


def test_blurred_and_noisy_pictures_read_almost_the_same(
    factors: list[Factors], images: Tensor, parts: dict[str, Tensor]
) -> None:
    kernel = torch.tensor([0.25, 0.5, 0.25])
    kernel = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    now = read_out((blurred + 0.03 * noise).clamp(0, 1))
    for part, limit in {"size": 0.02, "position": 0.01, "background color": 0.03, "object color": 0.1}.items():
        assert float((now[part] - parts[part]).abs().max()) < limit, part
    assert float((now["shape"].argmax(1) == parts["shape"].argmax(1)).float().mean()) > 0.99
    assert float((now["rotation"] - parts["rotation"]).square().mean().sqrt()) < 0.08


# -- as encoders -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {provider.name: load_encoder(provider) for provider in rcdm_providers()}


def test_providers_declare_what_they_load(encoders: dict[str, Encoder]) -> None:
    providers = {provider.name: provider for provider in rcdm_providers()}
    assert list(providers) == list(FORGETS) and {provider.kind for provider in providers.values()} == {"oracle"}
    for name, encoder in encoders.items():
        provider = providers[name]
        assert encoder.dim == provider.dim == sum(PARTS[part] for part in kept_parts(name))
        assert encoder.image_size == provider.image_size == IMAGE_SIZE
        for part in FORGETS[name]:
            assert part in provider.summary
    assert {part for forgotten in FORGETS.values() for part in forgotten} == set(PARTS)


def test_weights_are_refused() -> None:
    (provider, *_) = rcdm_providers()
    with pytest.raises(RCDMError, match="no weights"):
        load_encoder(provider, weights="file.pth")


def test_h_is_the_same_alone_and_in_a_batch(encoders: dict[str, Encoder], images: Tensor) -> None:
    encoder = encoders["shapes-all"]
    batch = encoder(images[:16])
    alone = torch.cat([encoder(image[None]) for image in images[:16]])
    assert batch.dtype == torch.float32 and torch.allclose(batch, alone, atol=1e-5)
    assert encoder(images[:0]).shape == (0, encoder.dim)


def test_h_is_float32_under_autocast(encoders: dict[str, Encoder], images: Tensor) -> None:
    encoder = encoders["shapes-all"]
    with torch.autocast("cpu", torch.bfloat16):
        h = encoder(images[:4])
    assert torch.allclose(h, encoder(images[:4]), atol=1e-4)
    assert torch.allclose(encoder(images[:4].bfloat16()).float(), h, atol=0.1)


def odd_pictures() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    one_pixel = torch.full((1, 3, 32, 32), 0.5)
    one_pixel[0, :, 16, 16] = 1.0
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32).clone()
    return {
        "constant": torch.full((1, 3, 32, 32), 0.5),
        "black": torch.zeros(1, 3, 32, 32),
        "white": torch.ones(1, 3, 32, 32),
        "noise": torch.rand(1, 3, 32, 32, generator=random),
        "faint noise": 0.5 + 1e-4 * torch.randn(1, 3, 32, 32, generator=random),
        "one pixel": one_pixel,
        "ramp": ramp,
        "object outside": torch.cat([ramp[..., :16], ramp[..., :16] * 0], dim=-1),
        "tiny": torch.rand(1, 3, 2, 2, generator=random),
        "beyond the range": 3 * torch.randn(1, 3, 32, 32, generator=random),
    }


@pytest.mark.parametrize("kind", list(odd_pictures()))
def test_h_and_its_gradient_are_finite_for_any_picture(kind: str, encoders: dict[str, Encoder]) -> None:
    picture = odd_pictures()[kind].requires_grad_(True)
    h = encoders["shapes-all"](picture)
    assert bool(torch.isfinite(h).all()) and float(h.detach().abs().max()) < 10
    for column in range(h.shape[1]):
        (gradient,) = torch.autograd.grad(h[0, column], picture, retain_graph=True)
        assert bool(torch.isfinite(gradient).all())


def test_the_gradient_is_that_of_finite_differences(images: Tensor) -> None:
    weight = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(picture: Tensor) -> Tensor:
        return torch.cat(list(read_out(picture).values()), dim=1).matmul(weight).sum()

    picture = images[:1].double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(picture), picture)
    direction = torch.randn(picture.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-6 * direction
    with torch.no_grad():
        slope = (value(picture + step) - value(picture - step)) / 2e-6
    assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=1e-3)
    # Colours and size of the object follow its pixels.
    assert float(gradient.abs().max()) > 1e-4


def test_other_sizes_read_the_same(encoders: dict[str, Encoder], factors: list[Factors], images: Tensor) -> None:
    encoder = encoders["shapes-all"]
    large = encoder(as_images(render_batch(factors[:40], 96)))
    assert float((large - encoder(images[:40])).square().mean().sqrt()) < 0.02
