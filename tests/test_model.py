"""RCDM.sample and RCDM.encode: what decides the noise, what does not, and how pictures reach the encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_bundle import make_bundle
from training_fixtures import write_encoder, write_images

import rcdm_core as rcdm
from rcdm_core import bundle, precision, randomness
from rcdm_core.data.folder import ImageFolder
from rcdm_core.data.images import read_image
from rcdm_core.diffusion import Diffusion
from rcdm_core.errors import RCDMError, UnreadableImage
from rcdm_core.model import RCDM
from rcdm_core.samplers import SAMPLERS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RCDM:
    folder = tmp_path_factory.mktemp("model")
    return rcdm.load(make_bundle(folder / "run", write_encoder(folder / "encoder.py")))


@pytest.fixture
def h() -> torch.Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_samples_are_the_samplers_with_the_named_noise(model: RCDM, h: torch.Tensor, sampler: str) -> None:
    samples = model.sample(h, 2, seed=3, streams=["a", "b", "c", "d"], sampler=sampler, steps=4, precision="float32")
    assert samples.shape == (4, 2, 3, 8, 8) and samples.dtype == torch.float32
    assert samples.min() >= 0 and samples.max() <= 1
    draws = randomness.generator(3, "c", 1)

    def noise(_: int = 0) -> torch.Tensor:
        return torch.from_numpy(draws.standard_normal((3, 8, 8), dtype=np.float32))[None]

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return model.unet(x, t, h[2:3])

    x0 = SAMPLERS[sampler](network, Diffusion(model.config.diffusion), noise(), 4, step_noise=noise)
    assert torch.allclose(samples[2, 1], ((x0[0] + 1) / 2).clamp(0, 1), atol=1e-5)


def test_a_sample_does_not_depend_on_what_else_is_asked_for(model: RCDM, h: torch.Tensor) -> None:
    full = model.sample(h, 3, streams=range(4), sampler="ddpm", steps=3)
    alone = model.sample(h[2:3], 2, streams=[2], sampler="ddpm", steps=3)
    small = model.sample(h, 3, streams=range(4), sampler="ddpm", steps=3, batch_size=5)
    assert torch.allclose(full[2:3, :2], alone, atol=1e-5)
    assert torch.allclose(full, small, atol=1e-5)


def test_deterministic_gives_the_same_bits(model: RCDM, h: torch.Tensor) -> None:
    full = model.sample(h, 5, streams=range(4), sampler="ddpm", steps=3, deterministic=True)
    alone = model.sample(h[2:3], 2, streams=[2], sampler="ddpm", steps=3, deterministic=True, batch_size=1)
    assert torch.equal(full[2:3, :2], alone)


def test_rows_that_are_compared_share_their_noise(model: RCDM, h: torch.Tensor) -> None:
    same = h[:1].expand(3, -1)
    shared = model.sample(same, 2, steps=2, deterministic=True)
    assert torch.equal(shared[0], shared[1]) and torch.equal(shared[0], shared[2])
    assert not torch.allclose(shared[:, 0], shared[:, 1], atol=1e-2)
    own = model.sample(same, 1, streams=["x", "y", "x"], steps=2, deterministic=True)
    assert torch.equal(own[0], own[2]) and not torch.allclose(own[0], own[1], atol=1e-2)
    assert not torch.allclose(shared, model.sample(same, 2, seed=1, steps=2), atol=1e-2)


def test_the_generators_of_the_caller_are_left_alone(model: RCDM, h: torch.Tensor) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    model.sample(h, 1, sampler="ddpm", steps=2)
    assert torch.equal(torch.rand(3), expected[0]) and np.random.rand() == expected[1]


def test_bfloat16_is_close_and_not_the_same(model: RCDM, h: torch.Tensor) -> None:
    exact, fast = (model.sample(h, steps=3, precision=name) for name in ("float32", "bf16"))
    assert not torch.equal(exact, fast) and (exact - fast).abs().mean() < 0.02


def test_progress_counts_every_sample(model: RCDM, h: torch.Tensor) -> None:
    done: list[int] = []
    model.sample(h, 3, steps=1, batch_size=5, progress=done.append)
    assert done == [5, 5, 2]


def test_no_rows_give_no_samples(model: RCDM) -> None:
    assert model.sample(torch.zeros(0, 5), 3, steps=1).shape == (0, 3, 3, 8, 8)


def test_wrong_arguments_of_sample(model: RCDM, h: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[4, 4\].*\[B, 5\]"):
        model.sample(h[:, :4])
    with pytest.raises(ValueError, match="3 streams for 4 rows"):
        model.sample(h, streams=[1, 2, 3])
    with pytest.raises(RCDMError, match="--sampler euler"):
        model.sample(h, sampler="euler")
    with pytest.raises(RCDMError, match="--sampling-steps 5000"):
        model.sample(h, steps=5000)
    with pytest.raises(RCDMError, match="--precision half"):
        model.sample(h, precision="half")


def test_pictures_of_the_encoders_size_are_not_resized(model: RCDM) -> None:
    images = torch.rand(40, 3, 8, 8)  # more than one of the encoder's batches
    assert torch.allclose(model.encode(images), model.encoder(images), atol=1e-6)


def test_generated_pictures_are_resized_with_antialiasing(model: RCDM) -> None:
    images = torch.rand(2, 3, 32, 32)
    small = torch.nn.functional.interpolate(images, size=(8, 8), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.allclose(model.encode(images), model.encoder(small), atol=1e-6)
    with pytest.raises(ValueError, match="shape"):
        model.encode(images[0])


def test_an_encoder_that_encode_loads_can_be_differentiated(model: RCDM) -> None:
    assert model.path is not None
    lazy = bundle.load(model.path, check_encoder=False)
    assert not lazy.encode(torch.rand(1, 3, 8, 8)).requires_grad
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    lazy.encoder(images).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    h = model.sample(torch.zeros(1, 5), steps=1)[:, 0].requires_grad_()  # samples may be differentiated through, too
    lazy.encoder(h).sum().backward()
    assert h.grad is not None


def test_files_are_read_at_the_encoders_size_with_the_fit_of_the_training(model: RCDM, tmp_path: Path) -> None:
    files = sorted(write_images(tmp_path / "images", 3, size=(40, 20)).iterdir())
    assert model.config.data is not None and model.config.data.fit == "pad"
    expected = model.encoder(torch.stack([read_image(file, 8, "pad") for file in files]))
    assert torch.allclose(model.encode_files(files), expected, atol=1e-6)
    assert torch.allclose(model.encode_files([Image.open(file) for file in files]), expected, atol=1e-6)
    source = ImageFolder(tmp_path / "images", fit="pad")
    assert torch.allclose(model.encode_files(source), expected, atol=1e-6)
    assert torch.allclose(model.encode_files(source, [2, 0]), expected[[2, 0]], atol=1e-6)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UnreadableImage):
        model.encode_files([tmp_path / "text.png"])


def test_precision_by_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert precision.resolve_precision("auto", "cpu") == expected
    # Apple's M2 says that it has it, and torch is built without what would use it there
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True}, raising=False)
    for built, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda found=built: found)
        assert precision.resolve_precision("auto", "cpu") == expected
    assert precision.resolve_precision("bf16", "cpu") == torch.bfloat16
    assert precision.resolve_precision("float32", "cpu") == torch.float32


def test_draws_are_told_apart_by_every_part() -> None:
    parts = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a1"), ("0", "a", 1), (0, "a", 1, 0)]
    values = {float(randomness.generator(*part).random()) for part in parts}
    assert len(values) == len(parts)
    assert torch.equal(
        randomness.normal(randomness.generator(7, "x"), (2, 3)), randomness.normal(randomness.generator(7, "x"), (2, 3))
    )
