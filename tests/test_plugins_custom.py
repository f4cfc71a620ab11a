"""custom:FILE.py:function and custom:package.module:function."""

from __future__ import annotations

import builtins
import signal
import sys
from pathlib import Path

import pytest
import torch

from rcdm_core import RCDMError, find_provider, load_encoder, providers
from rcdm_core.registry import source_of

CODE = """
import torch
from torch import nn
from rcdm_core import Encoder
import beside

class Flat(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return self.scale * x.mean((2, 3))

def plain():
    print("loaded")
    return Flat(beside.SCALE)

def weighted(weights=None):
    return Flat(1.0 if weights is None else torch.load(weights, weights_only=True)["scale"].item())

def anything(**arguments):
    return Flat(float(len(arguments)))

def hungry(weights):
    return Flat()

def encoder():
    return Encoder(Flat(), image_size=8, mean=(0, 0, 0), std=(1, 1, 1))

def wrong():
    return len

def failing():
    scales = {}
    return Flat(scales["missing"])

def needs(depth):
    return Flat()

def spatial():
    return nn.Identity()

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a file of encoders and another one that it imports."""
    (tmp_path / "enc.py").write_text(CODE)
    (tmp_path / "beside.py").write_text("SCALE = 2.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    return tmp_path


GREY = torch.full((2, 3, 16, 16), 0.5)


def test_a_function_in_a_file_is_an_encoder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(sys.path)
    name = "custom:enc.py:plain"
    provider = find_provider(name)
    assert provider.name == f"custom:{folder / 'enc.py'}:plain"  # the same encoder from every working directory
    assert name not in providers() and source_of(name).name == source_of(provider.name).name == "custom"
    options = {"image_size": "16", "mean": "0.25,0.25,0.25", "std": "0.5,0.5,0.5"}
    encoder = load_encoder(name, options=options)
    assert (encoder.dim, encoder.image_size) == (3, 16)
    torch.testing.assert_close(encoder(GREY), torch.full((2, 3), 2 * (0.5 - 0.25) / 0.5))
    assert sys.path == before
    assert capsys.readouterr() == ("", "loaded\n")
    # An absolute path, or one from elsewhere, is the same encoder.
    monkeypatch.chdir("/")
    elsewhere = load_encoder(f"custom:{folder}/enc.py:plain", options=options)
    torch.testing.assert_close(elsewhere(GREY), encoder(GREY))


def test_a_file_that_changed_is_read_again(folder: Path) -> None:
    first = load_encoder("custom:enc.py:weighted", image_size=16)
    (folder / "enc.py").write_text(CODE.replace("self.scale * x", "10 * self.scale * x"))
    second = load_encoder("custom:enc.py:weighted", image_size=16)
    torch.testing.assert_close(second(GREY), 10 * first(GREY))


def test_each_file_has_the_helpers_beside_it(folder: Path) -> None:
    """Of the same name as those of another file, and as they are now."""
    (folder / "other").mkdir()
    (folder / "other" / "enc.py").write_text(CODE)
    (folder / "other" / "beside.py").write_text("SCALE = 3.0\n")
    first = load_encoder("custom:enc.py:plain", image_size=16)
    second = load_encoder("custom:other/enc.py:plain", image_size=16)
    torch.testing.assert_close(second(GREY), first(GREY) * 1.5)
    torch.testing.assert_close(load_encoder("custom:enc.py:plain", image_size=16)(GREY), first(GREY))
    (folder / "beside.py").write_text("SCALE = 20.00\n")
    torch.testing.assert_close(load_encoder("custom:enc.py:plain", image_size=16)(GREY), first(GREY) * 10)


def test_helpers_in_a_folder_without_an_init_and_those_that_run_once(folder: Path) -> None:
    """The same encoder twice runs no helper again; another file's helper comes back when its own is not taken."""
    for name, scale in (("one", 2), ("two", 5)):
        (folder / name / "models").mkdir(parents=True)
        (folder / name / "enc.py").write_text(CODE.replace("import beside", "from models import net as beside"))
        note = f"import builtins\nbuiltins.rcdm_ran = [*getattr(builtins, 'rcdm_ran', []), {name!r}]\n"
        (folder / name / "models" / "net.py").write_text(f"{note}SCALE = {scale}.0\n")
    first, again = (load_encoder("custom:one/enc.py:plain", image_size=16)(GREY) for _ in range(2))
    second = load_encoder("custom:two/enc.py:plain", image_size=16)(GREY)
    torch.testing.assert_close(first, again)
    torch.testing.assert_close(second, first * 2.5)
    assert builtins.rcdm_ran == ["one", "two"]  # type: ignore[attr-defined]
    load_encoder("custom:enc.py:plain", image_size=16)
    assert sys.modules["models.net"].SCALE == 5 and sys.modules["beside"].SCALE == 2
    del builtins.rcdm_ran, sys.modules["models"], sys.modules["models.net"]  # type: ignore[attr-defined]


def test_what_is_installed_in_an_environment_beside_the_file_is_no_helper(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = folder / ".venv" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "rcdm_installed.py").write_text("SCALE = 3.0\n")
    monkeypatch.syspath_prepend(str(installed))
    for name in ("enc.py", "other/enc.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(CODE.replace("import beside", "import rcdm_installed as beside"))
    load_encoder("custom:enc.py:plain", image_size=16)
    once = sys.modules["rcdm_installed"]
    load_encoder("custom:other/enc.py:plain", image_size=16)
    assert sys.modules.pop("rcdm_installed") is once


def test_a_function_in_a_package_is_an_encoder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "rcdm_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(CODE.replace("import beside", "beside = type('B', (), {'SCALE': 3.0})"))
    encoder = load_encoder("custom:rcdm_test_package.nets:plain", image_size=16, mean=(0, 0, 0), std=(1, 1, 1))
    torch.testing.assert_close(encoder(GREY), torch.full((2, 3), 1.5))
    with pytest.raises(RCDMError, match=r"rcdm_test_package\.nets line 36 fails with KeyError: 'missing'"):
        load_encoder("custom:rcdm_test_package.nets:failing")
    for module in ("rcdm_test_package", "rcdm_test_package.nets"):
        sys.modules.pop(module)


def test_weights_reach_a_function_that_takes_them(folder: Path) -> None:
    torch.save({"scale": torch.tensor(4.0)}, folder / "w.pth")
    plain = {"image_size": 16, "mean": (0, 0, 0), "std": (1, 1, 1)}
    given = load_encoder("custom:enc.py:weighted", weights="w.pth", options=plain)
    torch.testing.assert_close(given(GREY), torch.full((2, 3), 2.0))
    assert load_encoder("custom:enc.py:weighted", options=plain)(GREY)[0, 0] == 0.5
    assert load_encoder("custom:enc.py:anything", weights="w.pth", options=plain)(GREY)[0, 0] == 0.5
    with pytest.raises(RCDMError, match=r"plain in enc\.py takes no weights: leave out --weights w\.pth"):
        load_encoder("custom:enc.py:plain", weights="w.pth")
    with pytest.raises(RCDMError, match=r"hungry in enc\.py needs weights: .*--weights FILE"):
        load_encoder("custom:enc.py:hungry")
    torch.save({"other": torch.tensor(4.0)}, folder / "other.pth")
    with pytest.raises(RCDMError, match=r"enc\.py line \d+ fails on weights .*other\.pth with KeyError: 'scale'"):
        load_encoder("custom:enc.py:weighted", weights="other.pth")
    with pytest.raises(RCDMError, match=r"--weights nowhere\.pth does not exist"):
        load_encoder("custom:enc.py:weighted", weights="nowhere.pth")


def test_a_function_may_return_an_encoder_of_its_own(folder: Path) -> None:
    encoder = load_encoder("custom:enc.py:encoder")
    assert encoder.image_size == 8
    torch.testing.assert_close(encoder(GREY), torch.full((2, 3), 0.5))
    with pytest.raises(RCDMError, match=r"encoder in enc\.py returns an Encoder, which normalises by itself"):
        load_encoder("custom:enc.py:encoder", image_size=16)


CALLS = """
import torch

class Calls(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)

def stop(x): raise KeyboardInterrupt
def leaves(): return Calls(lambda x: exit(0))
def stops(): return Calls(stop)
def turns(): return Calls(lambda x: torch.complex(x, x).mean((2, 3)))
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("custom:enc.py", "should be custom:FILE.py:function"),
        ("custom:enc.py:", "should be custom:FILE.py:function"),
        ("custom::plain", "should be custom:FILE.py:function"),
        ("custom:nowhere.py:plain", r"nowhere\.py in .* does not exist in /"),
        ("custom:not a module:plain", "neither a .py file nor the name of a module"),
        ("custom:no_such_package.at_all:plain", r"no module no_such_package\.at_all in .*custom:FOLDER/no_such"),
        ("custom:enc.py:missing", r"enc\.py defines no function missing; it defines Flat, plain, weighted"),
        ("custom:enc.py:number", r"enc\.py defines no function number"),
        ("custom:enc.py:wrong", r"wrong in enc\.py returns a builtin_function_or_method, expected a torch\.nn\.Module"),
        ("custom:enc.py:failing", r"enc\.py line 36 fails with KeyError: 'missing'"),
        ("custom:enc.py:needs", r"needs in enc\.py needs depth, but does not say of which type: write depth: int"),
        ("custom:enc.py:spatial", r"enc\.py:spatial returns shape \[4, 3, 224, 224\] .*expected h of shape"),
        ("custom:syntax.py:f", r"syntax\.py line 2 fails with SyntaxError"),
        ("custom:leaves.py:f", r"leaves\.py line 2 fails with SystemExit: 3"),
        ("custom:stops.py:f", r"stops\.py:f could not be loaded \(KeyboardInterrupt\)"),
        ("custom:other.py:f", r"other\.py:f could not be loaded \(Odd: own\)"),
        ("custom:calls.py:leaves", r"fails on pictures of 224 x 224 \(SystemExit: 0\)"),
        ("custom:calls.py:stops", r"fails on pictures of 224 x 224 \(KeyboardInterrupt\)"),
        ("custom:calls.py:turns", "h is complex"),
        ("custom:notes/x:f", r"notes/x is not a Python file|x is not a Python file"),
    ],
)
def test_what_is_wrong_with_the_users_file_is_one_sentence(folder: Path, name: str, words: str) -> None:
    (folder / "syntax.py").write_text("\ndef broken(:\n")
    (folder / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (folder / "stops.py").write_text("raise KeyboardInterrupt\n")
    (folder / "other.py").write_text("class Odd(BaseException): pass\nraise Odd('own')\n")
    (folder / "calls.py").write_text(CALLS)
    (folder / "notes").mkdir()
    (folder / "notes" / "x").write_text("hello")
    with pytest.raises(RCDMError, match=words) as caught:
        load_encoder(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_users_code_stays_what_it_is(folder: Path, number: signal.Signals) -> None:
    (folder / "slow.py").write_text(f"import signal\nsignal.raise_signal({int(number)})\n")
    # A shell's background job would ignore the one; the other is taken for Ctrl-C while a training is set up.
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            load_encoder("custom:slow.py:f")
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_options_are_validated(folder: Path) -> None:
    for options, words in [
        ({"image_size": 0}, "image_size of provider custom:enc.py:plain is 0"),
        ({"mean": "0.5,0.5"}, "three numbers"),
        ({"std": "0,0,0"}, "three numbers"),
        ({"size": 3}, "no option 'size'; it has image_size, interpolation, mean, std"),
    ]:
        with pytest.raises(RCDMError, match=words):
            load_encoder("custom:enc.py:plain", options=options)


def test_the_users_code_is_not_run_when_it_is_only_named(folder: Path) -> None:
    (folder / "loud.py").write_text("raise AssertionError('run')\n")
    assert "loud.py" in find_provider("custom:loud.py:f").summary
