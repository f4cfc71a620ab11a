"""Provider, Option, Encoder, load_encoder and the fingerprint."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rcdm_core
from rcdm_core import (
    Encoder,
    Fingerprint,
    Option,
    Provider,
    RCDMError,
    compare_fingerprints,
    fingerprint,
    load_encoder,
    resize_for_encoder,
)
from rcdm_core.encoder import fingerprint_images


class Pool(nn.Module):
    """h = W (mean colour of 16 tiles): a small network with weights, BatchNorm and dropout."""

    def __init__(self, seed: int = 0, dim: int = 6) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(48, dim, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(torch.randn(dim, 48, generator=torch.Generator().manual_seed(seed)))

    def forward(self, images: Tensor) -> Tensor:
        tiles = nn.functional.adaptive_avg_pool2d(self.norm(images), 4)
        return self.last(self.drop(tiles.flatten(1)))


def load_pool(*, weights: str | None = None, seed: int = 0, mean: tuple[float, ...] = (0.5, 0.5, 0.5)) -> Encoder:
    return Encoder(Pool(seed), image_size=16, mean=mean, std=(0.5, 0.5, 0.5))


POOL = Provider(
    "pool",
    "for tests",
    load_pool,
    dim=6,
    image_size=16,
    options={"seed": Option(int, 0, "of the weights"), "mean": Option("floats", (0.5, 0.5, 0.5), "of the images")},
)


def provider_of(module: object, **fields: Any) -> Provider:
    return Provider("mine", "for tests", lambda weights=None: module, image_size=16, **fields)


def test_importing_the_package_imports_no_torch_and_every_public_name_exists() -> None:
    code = (
        "import sys, rcdm_core, rcdm_core.provider, rcdm_core.hookspecs, rcdm_core.registry, rcdm_core.errors\n"
        "rcdm_core.providers(); rcdm_core.Provider, rcdm_core.hookimpl\n"
        "print([m for m in ('torch', 'torchvision', 'timm', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    for name in rcdm_core.__all__:
        assert getattr(rcdm_core, name) is not None
    assert set(rcdm_core.__all__) <= set(dir(rcdm_core))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = rcdm_core.nonsense


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, " 7", 7),
        (float, "1e-3", 0.001),
        (str, "7", "7"),
        (bool, "Yes", True),
        (bool, "off", False),
        ("floats", "0.5,0.25, 1", (0.5, 0.25, 1.0)),
        ("floats", "(0.5, 0.5)", (0.5, 0.5)),
    ],
)
def test_an_option_reads_text(kind: Any, text: str, value: Any) -> None:
    assert Option(kind, None, "").parse(text) == value
    assert type(Option(kind, None, "").parse(text)) is type(value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((int, value) for value in ("x", "1.5", 1.5, True)),
        *((float, value) for value in ("nan", "", True, None)),
        *((bool, value) for value in ("maybe", 1)),
        *(("floats", value) for value in ("1,,2", 3, [1, "2"], "inf,1")),
        (str, 3),
    ],
)
def test_an_option_refuses_what_does_not_fit_and_names_itself(kind: Any, value: Any) -> None:
    with pytest.raises(RCDMError, match=r"option size is .*expected"):
        Option(kind, None, "").validate(value, "option size")


def test_an_option_takes_what_json_makes_of_its_values() -> None:
    assert Option("floats", None, "").validate([0, 0.5]) == (0.0, 0.5)
    assert Option(float, 2, "").default == 2.0
    assert isinstance(Option(float, 2, "").default, float)


def test_declarations_are_validated() -> None:
    with pytest.raises(TypeError, match="type is str, int"):
        Option(list, [], "")
    with pytest.raises(TypeError, match="default does not fit"):
        Option(int, "many", "")
    with pytest.raises(TypeError, match="help"):
        Option(int, 1, None)  # type: ignore[arg-type]
    for fields, error, words in [
        ({"name": ""}, ValueError, "name"),
        ({"name": "a\nb"}, ValueError, "name"),
        ({"name": 3}, TypeError, "name"),
        ({"summary": None}, TypeError, "summary"),
        ({"load": "x"}, TypeError, "load"),
        ({"dim": 0}, ValueError, "dim"),
        ({"dim": 2.0}, ValueError, "dim"),
        ({"image_size": 0}, ValueError, "image_size"),
        ({"kind": "magic"}, ValueError, "kind"),
        ({"weights": "url"}, TypeError, "weights"),
        ({"options": ["a"]}, TypeError, "options"),
        ({"options": {"a": 3}}, TypeError, "option a"),
        ({"options": {"weights": Option(int, 1, "")}}, ValueError, "weights"),
        ({"forgets": "size"}, TypeError, "forgets"),
    ]:
        with pytest.raises(error, match=words):
            Provider(**{"name": "n", "summary": "s", "load": load_pool, **fields})
    assert Provider("n", "s", load_pool, kind="none", dim=0).dim == 0


def test_options_are_completed_and_unknown_ones_refused_by_name() -> None:
    assert POOL.complete_options({"seed": "3"}) == {"seed": 3, "mean": (0.5, 0.5, 0.5)}
    with pytest.raises(RCDMError, match="no option 'sed'; it has mean, seed"):
        POOL.complete_options({"sed": 3})
    with pytest.raises(RCDMError, match="option seed of provider pool is 'x', but expected a whole number"):
        load_encoder(POOL, options={"seed": "x"})
    with pytest.raises(RCDMError, match="it has none"):
        load_encoder(provider_of(Pool()), seed=1)


def test_an_encoder_normalises_is_frozen_and_stays_in_eval_mode() -> None:
    torch.manual_seed(0)
    encoder = Encoder(Pool(), image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    images = torch.rand(5, 3, 16, 16)
    by_hand = (images - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    torch.testing.assert_close(encoder(images), Pool().eval()(by_hand))
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.dim == 6
    leaf = images.clone().requires_grad_(True)
    encoder(leaf).sum().backward()
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all() and leaf.grad.abs().sum() > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(images).dtype == torch.float32
    for mean, std in [((0.5,), (0.5,)), ((0, 0, 0), (1, 1, 0))]:
        with pytest.raises(RCDMError, match="three numbers"):
            Encoder(Pool(), image_size=16, mean=mean, std=std)


def test_load_encoder_takes_values_text_and_keywords() -> None:
    plain = load_encoder(POOL)
    assert (plain.dim, plain.image_size) == (6, 16)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for other in (load_encoder(POOL, options={"seed": "5"}), load_encoder(POOL, seed=5)):
        torch.testing.assert_close(other(images), load_encoder(POOL, options={"seed": 5})(images))
        assert not torch.allclose(other(images), plain(images))


def test_a_foreign_module_gets_what_it_lacks() -> None:
    module = Pool()
    encoder = load_encoder(provider_of(module))
    assert encoder is module
    assert (encoder.dim, encoder.image_size) == (6, 16)
    assert not encoder.training and not module.last.weight.requires_grad


class Returns(nn.Module):
    def __init__(self, h: Any) -> None:
        super().__init__()
        self.h = h

    def forward(self, images: Tensor) -> Any:
        return self.h(images) if callable(self.h) else self.h


@pytest.mark.parametrize(
    ("module", "fields", "words"),
    [
        (Pool(), {"dim": 7}, "h with dim 6, but the provider declares 7"),
        (Encoder(Pool(), image_size=16, mean=(0, 0, 0), std=(1, 1, 1), dim=8), {}, "declares dim 8, but its h has 6"),
        (Returns(lambda x: x[:, 0, :2, 0] / 0), {}, "not finite"),
        (Returns(lambda x: x), {}, r"returns shape \[4, 3, 16, 16\]"),
        (Returns(lambda x: x.mean((0, 2, 3))[None]), {}, r"returns shape \[1, 3\] for 4 pictures"),
        (Returns(lambda x: x.flatten(1).double()), {}, "torch.float64, expected h in torch.float32"),
        (Returns((1, 2)), {}, "returns a tuple"),
        (
            Encoder(Returns(lambda x: (x, x)), image_size=16, mean=(0, 0, 0), std=(1, 1, 1)),
            {},
            r"returns a tuple, expected a tensor h of shape \[B, dim\]",
        ),
        (Returns(lambda x: x.flatten(1)[:, :0]), {}, "an empty h"),
        (Returns(lambda x: x.flatten(1)[:, : 2 + len(x)]), {}, "3 numbers for one picture alone and of 6 for 4"),
        (Returns(lambda x: x.mean((2, 3)).squeeze()), {}, r"alone h has shape \[3\], expected \[1, dim\]"),
        (
            Encoder(Returns(lambda x: x.mean((2, 3)).squeeze()), image_size=16, mean=(0, 0, 0), std=(1, 1, 1)),
            {},
            r"alone h has shape \[3\], expected \[1, dim\]: keep the axis",
        ),
        (Returns(lambda x: x.flatten(1)[:, : 10 // (len(x) - 1)]), {}, "fails on one picture alone .ZeroDivisionError"),
        (Returns(lambda x: x @ torch.ones(3, 3)), {}, "fails on pictures of 16 x 16 .RuntimeError"),
        (len, {}, "loaded a builtin_function_or_method, expected a torch.nn.Module"),
    ],
)
def test_an_encoder_that_breaks_the_contract_is_refused(module: object, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RCDMError, match=words) as caught:
        load_encoder(provider_of(module, **fields))
    assert "mine" in str(caught.value) and "\n" not in str(caught.value)


def test_a_provider_that_raises_and_a_device_that_is_not_there() -> None:
    def load(weights: str | None = None) -> nn.Module:
        raise KeyError("first\nsecond")

    with pytest.raises(RCDMError, match=r"provider broken could not be loaded \(KeyError"):
        load_encoder(Provider("broken", "", load))
    with pytest.raises(RCDMError, match="device 'nonsense' cannot be used"):
        load_encoder(POOL, device="nonsense")


def test_generated_pictures_are_resized_with_antialiasing_and_stay_in_range() -> None:
    board = (torch.arange(64)[:, None] + torch.arange(64)[None]).remainder(2).float().expand(2, 3, 64, 64)
    small = resize_for_encoder(board, 16)
    assert small.shape == (2, 3, 16, 16)
    assert (small[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.02  # a checkerboard of single pixels is grey from afar
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    large = resize_for_encoder(edge, 32)
    assert large.min() == 0 and large.max() == 1
    assert resize_for_encoder(board, 64) is board


def test_the_fixed_pictures_are_fixed() -> None:
    images = fingerprint_images(32)
    assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert torch.equal(images, fingerprint_images(32))
    # Values that another platform must find again.
    expected = torch.tensor(
        [
            [0.53142, 0.44656, 0.60213],
            [0.39555, 0.28436, 0.24095],
            [0.45652, 0.40544, 0.34184],
            [0.43315, 0.64244, 0.63095],
        ]
    )
    torch.testing.assert_close(images[:, :, 16, 16], expected, rtol=0, atol=1e-5)
    between = (resize_for_encoder(fingerprint_images(64), 32) - images).abs().mean()
    assert between < 0.05  # one set of pictures at every size


def test_a_fingerprint_tells_weights_preprocessing_and_sameness_apart() -> None:
    stored = fingerprint(load_encoder(POOL))
    assert stored.h.shape == (4, 6) and len(stored.weights_digest) == 64
    assert compare_fingerprints(stored, fingerprint(load_encoder(POOL))) is None
    assert compare_fingerprints(stored, Fingerprint("other", stored.h)) is None  # stored in another way
    rounding = Fingerprint(stored.weights_digest, stored.h * (1 + 1e-5))
    assert compare_fingerprints(stored, rounding) is None
    assert "other weights" in str(compare_fingerprints(stored, fingerprint(load_encoder(POOL, seed=1))))
    other_mean = fingerprint(load_encoder(POOL, mean=(0.48, 0.5, 0.5)))
    assert other_mean.weights_digest == stored.weights_digest
    assert "other preprocessing" in str(compare_fingerprints(stored, other_mean))
    assert "5 dimensions instead of 6" in str(compare_fingerprints(stored, Fingerprint("", stored.h[:, :5])))
    offset = 1000 * torch.arange(6.0)  # between dimensions, which says nothing about pictures
    moved, hidden = (Fingerprint(mark.weights_digest, mark.h + offset) for mark in (stored, other_mean))
    assert "other preprocessing" in str(compare_fingerprints(moved, hidden))
    constant = Fingerprint("", torch.full((4, 6), 5.0))
    assert compare_fingerprints(constant, Fingerprint("", constant.h * (1 + 2**-22))) is None
    assert compare_fingerprints(constant, Fingerprint("", constant.h * (1 + 1e-4))) is not None
    broken = Fingerprint(stored.weights_digest, torch.full_like(stored.h, torch.nan))
    assert compare_fingerprints(stored, broken) is not None
    nothing = Fingerprint("", torch.zeros(4, 0))
    assert compare_fingerprints(nothing, nothing) is None


def test_a_third_digit_of_the_normalisation_is_seen() -> None:
    encoder = load_encoder("random-resnet50")
    stored = fingerprint(encoder)
    assert torch.allclose(encoder.std[0, 0], torch.tensor(0.229))
    encoder.std[0, 0] = 0.228
    assert "other preprocessing" in str(compare_fingerprints(stored, fingerprint(encoder)))


def test_a_fingerprint_ignores_the_precision_of_the_work_around_it() -> None:
    encoder = load_encoder(POOL)
    stored = fingerprint(encoder)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(fingerprint(encoder).h, stored.h)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
