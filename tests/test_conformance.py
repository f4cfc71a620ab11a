"""check_provider: what passes, and that each breach of the contract is found by the check that is named after it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest
import torch
from plugin_on_path import write_plugin

from rcdm_core import RCDMError, check_provider, find_provider, load_encoder, registry
from rcdm_core.conformance import ON_H, _change, _moves
from rcdm_core.encoder import fingerprint_images, relative_change

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.image_size = 32
        self.last = nn.Linear(48, 5)
        with torch.no_grad():
            self.last.weight.copy_(torch.randn(5, 48, generator=torch.Generator().manual_seed(0)))
            self.last.bias.zero_()

    def forward(self, x):
        return self.last(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))

class Double(Net):
    def forward(self, x):
        return super().forward(x).double()

class DividesByContrast(Net):
    def forward(self, x):
        return super().forward(x) / x.std((1, 2, 3))[:, None].sub(1e-9).clamp(min=0)

class Noisy(Net):
    def forward(self, x):
        h = super().forward(x)
        return h + 0.1 * torch.randn_like(h)

class Batchwise(Net):
    def forward(self, x):
        h = super().forward(x)
        return h - h.mean(0)

class Cut(Net):
    def forward(self, x):
        return super().forward(x.detach())

class Root(Net):
    def forward(self, x):
        return super().forward((x - x.mean((2, 3), keepdim=True)).abs().sqrt())

class Trains(Net):
    def forward(self, x):
        self.last.train()
        return super().forward(x)

class Thaws(Net):
    def forward(self, x):
        self.last.requires_grad_(True)
        return super().forward(x)

class Shifting(Net):
    def __init__(self):
        super().__init__()
        nn.init.normal_(self.last.weight)

class LeftBehind(Net):
    def __init__(self):
        super().__init__()
        self.scale = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])

    def forward(self, x):
        return super().forward(x) * self.scale

class Looks(Net):
    def forward(self, x):
        return super().forward(x) * (2.0 if x.sum().item() > -1e9 else 1.0)

class Short(Net):
    dim = 5

class Flat(Net):
    def forward(self, x):
        return x

class Pair(Net):
    def forward(self, x):
        return x, x

class Fails(Net):
    def forward(self, x):
        raise ValueError("first" + chr(10) + "second")
"""

PLUGIN = """
from rcdm_core import Provider, hookimpl

def load_of(name):
    def load(*, weights=None):
        import rcdm_test_nets
        return getattr(rcdm_test_nets, name)()
    return load

@hookimpl
def rcdm_resolve(name):
    family, _, net = name.partition(":")
    if family == "conform":
        return Provider(name, "for a test", load_of(net), dim=4 if net == "Short" else None, image_size=32)
"""

EAGER = """
import torch
from rcdm_core import Provider, hookimpl

@hookimpl
def rcdm_providers():
    return [Provider("eager", "imports torch at once", torch.nn.Identity)]
"""

CALLING = """
import contextlib
import urllib.request
from rcdm_core import Provider, hookimpl

@hookimpl
def rcdm_providers():
    with contextlib.suppress(OSError):
        urllib.request.urlopen("http://127.0.0.1:9/list", timeout=1)
    return [Provider("calling", "asks a server for its list", len)]
"""


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Three plugins on the path: one with nets that keep or break the contract, and two that do not list quietly."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "rcdm_test_nets.py").write_text(NETS)
    for name, code in (("conform", PLUGIN), ("eager", EAGER), ("calling", CALLING)):
        write_plugin(folder, name, code)
    sys.path.insert(0, str(folder))
    registry.reload()
    yield
    sys.path.remove(str(folder))
    for name in ("nets", "conform", "eager", "calling"):
        sys.modules.pop(f"rcdm_test_{name}", None)
    registry.reload()


def checked(name: str) -> dict[str, tuple[bool | None, str]]:
    return {result.name: (result.passed, result.detail) for result in check_provider(name)}


def test_a_provider_that_keeps_the_contract_passes() -> None:
    results = checked("conform:Net")
    assert list(results) == ["lists without the network", "lists without torch", "loads and runs", *ON_H]
    assert all(passed for passed, _ in results.values()), results
    assert results["dim"][1] == "h has 5"


def test_nothing_is_asked_of_none_that_it_cannot_have() -> None:
    results = {name: passed for name, (passed, _) in checked("none").items()}
    assert results.pop("gradient in the images") is None
    assert all(results.values())


@pytest.mark.parametrize(
    ("name", "checks", "words"),
    [
        ("Short", ["dim"], "h has 5, the provider says 4, the encoder says 5"),
        ("Double", ["float32"], "torch.float64"),
        ("DividesByContrast", ["finite", "gradient in the images"], "h of a black picture is not finite"),
        ("Noisy", ["deterministic", "alone as in a batch", "stable fingerprint"], "h moved by"),
        ("Batchwise", ["alone as in a batch", "gradient in the images"], "one by one"),
        ("Cut", ["gradient in the images"], "does not depend on the images"),
        ("Root", ["gradient in the images"], "gradient at a grey picture is not finite"),
        ("Trains", ["frozen"], "1 modules in training mode"),
        ("Thaws", ["gradient in the images", "frozen"], "the backward pass left a gradient in the weights"),
        ("Shifting", ["stable fingerprint"], "loaded a second time, it has other weights"),
        ("LeftBehind", ["moves to a device"], "a tensor stays behind"),
    ],
)
def test_each_breach_is_found_by_its_check(name: str, checks: list[str], words: str) -> None:
    """The words are those of the first check that finds it; no other check complains."""
    results = checked(f"conform:{name}")
    assert [title for title, (passed, _) in results.items() if passed is False] == checks
    detail = results[checks[0]][1]
    assert words in detail and "\n" not in detail


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Flat", r"h of 4 pictures is shape \[4, 3, 32, 32\]"),
        ("Pair", "h of 4 pictures is a tuple"),
        ("Fails", "ValueError: first"),
        ("Missing", "could not be loaded .AttributeError"),
    ],
)
def test_without_an_h_the_rest_is_not_tried(name: str, words: str) -> None:
    results = checked(f"conform:{name}")
    passed, detail = results["loads and runs"]
    assert passed is False and re.search(words, detail) and "\n" not in detail
    assert all(results[title] == (None, "not tried: there is no h") for title in ON_H)


def test_what_the_meta_device_cannot_say_is_left_open() -> None:
    passed, detail = checked("conform:Looks")["moves to a device"]
    assert passed is None or torch.cuda.is_available() or torch.backends.mps.is_available()
    assert "cannot run on the meta device" in detail or passed is not None


def test_moving_is_held_against_the_h_from_before() -> None:
    """What happens where there is an accelerator, with the CPU in its place."""
    encoder = load_encoder("conform:Net")
    images = fingerprint_images(32)
    with torch.no_grad():
        h = encoder(images)
    assert _moves(encoder, images, h, torch.device("cpu"))[0] is True
    assert _moves(encoder, images, h + 1, torch.device("cpu"))[0] is False


class _OnMps(torch.Tensor):
    """A tensor on Apple's GPU, which has no float64."""

    def double(self) -> torch.Tensor:  # type: ignore[override]
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)


def test_h_is_compared_on_a_device_without_float64() -> None:
    h = torch.rand(4, 3)
    there, moved = h.as_subclass(_OnMps), (h + 1).as_subclass(_OnMps)
    assert relative_change(there, there) == _change(there, there) == 0
    assert relative_change(there, moved) == pytest.approx(relative_change(h, h + 1))
    assert _change(there, moved) == pytest.approx(_change(h, h + 1)) and _change(h, h + 1) > 1


@pytest.mark.parametrize(
    ("name", "check", "words"),
    [
        ("eager", "lists without torch", "imports torch when it is listed"),
        ("calling", "lists without the network", "a connection was tried"),
    ],
)
def test_a_plugin_that_does_not_list_quietly_is_found(name: str, check: str, words: str) -> None:
    results = checked(name)
    listing = {title: results[title] for title in ("lists without the network", "lists without torch")}
    passed, detail = listing.pop(check)
    assert passed is False and words in detail
    assert all(passed for passed, _ in listing.values())  # and each is blamed for its own doing alone


def test_an_unknown_name_is_the_users_error() -> None:
    with pytest.raises(RCDMError, match="no provider 'conforn'"):
        check_provider("conforn")
    assert find_provider("conform:Net").dim is None
