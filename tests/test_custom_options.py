"""The parameters of a user's function as options: read without running it, typed, and given to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from rcdm_cli.main import main
from rcdm_core import IMAGENET_MEAN, RCDMError, find_provider, load_encoder

CODE = """
from collections.abc import Sequence
import typing
from typing import Literal, Optional, Union
import torch
from torch import nn

SIZE = 7

class Says(nn.Module):
    def __init__(self, **got):
        super().__init__()
        self.got = got

    def forward(self, x):
        return x.mean((2, 3))

def backbone(weights=None, width: int = 64, pool: str = "avg", normalise: bool = False, *, eps=1e-6, depths=(2, 2),
             scales: "tuple[float, ...]" = (1, 2.5), top: Optional[int] = None, kind: Literal["a", "b"] = "a",
             size: int = SIZE, act=torch.relu, table={}, variant=None, either: "int | str" = 3, alpha: float = 1,
             heads: typing.Union[None, int] = 3):
    return Says(**{name: value for name, value in locals().items()})

def needs(depth: int, mode):
    return Says()

def typed(depth: int):
    return Says(depth=depth)

def sized(image_size: int = 48, mean=None):
    return Says(image_size=image_size, mean=mean)

def only(first: int = 1, /, *rest, second: int = 2):
    return Says(first=first, second=second)

if SIZE:
    def chosen(a: int = 1):
        return Says(a=a)
else:
    def chosen(b: int = 1):
        return Says(b=b)

class Net(Says):
    def __init__(self, width: int = 3):
        super().__init__(width=width)

alias = backbone
made = lambda width=3: Says(width=width)
"""
OWN = {"image_size", "mean", "std", "interpolation"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "enc.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def declared(name: str) -> dict[str, tuple[str, Any]]:
    """The function's own options, as (type, default)."""
    return {
        key: (option.type_name, option.default)
        for key, option in find_provider(f"custom:{name}").options.items()
        if key not in OWN
    }


def got(name: str, **options: Any) -> dict[str, Any]:
    """What the function was called with."""
    network = load_encoder(f"custom:{name}", options=options).network
    assert isinstance(network.got, dict)
    return network.got


def test_parameters_are_options_of_their_own_types(folder: Path) -> None:
    expected = {
        "width": ("int", 64),
        "pool": ("str", "avg"),
        "normalise": ("bool", False),
        "eps": ("float", 1e-6),
        "depths": ("floats", (2.0, 2.0)),
        "scales": ("floats", (1.0, 2.5)),
        "top": ("int", None),
        "kind": ("str", "a"),
        "size": ("int", None),
        "variant": ("str", None),
        "either": ("int", 3),  # its annotation does not tell, its default does
        "alpha": ("float", 1.0),
        "heads": ("int", 3),
    }
    assert declared("enc.py:backbone") == declared("enc.py:alias") == expected
    assert declared("enc.py:typed") == {"depth": ("int", None)}
    assert declared("enc.py:only") == {"second": ("int", 2)}
    assert declared("enc.py:Net") == {"width": ("int", 3)}
    assert declared("enc.py:chosen") == {"b": ("int", 1)}  # the text does not say which branch is taken
    assert declared("enc.py:made") == declared("enc.py:missing") == {}


def test_what_is_given_reaches_the_function_in_its_type(folder: Path) -> None:
    plain = got("enc.py:backbone")
    assert plain == {
        **{"weights": None, "width": 64, "pool": "avg", "normalise": False, "eps": 1e-6, "depths": (2, 2)},
        **{"scales": (1, 2.5), "top": None, "kind": "a", "size": 7, "act": torch.relu, "table": {}, "variant": None},
        **{"either": 3, "alpha": 1, "heads": 3},
    }
    given = {"width": "32", "normalise": "yes", "eps": "0.5", "depths": "3,4,6", "scales": "2,1", "top": "5"}
    assert got("enc.py:backbone", **given, size=9, variant="x") == {
        **plain,
        **{"width": 32, "normalise": True, "eps": 0.5, "depths": (3, 4, 6), "scales": (2.0, 1.0), "top": 5},
        **{"size": 9, "variant": "x"},
    }
    assert all(type(depth) is int for depth in got("enc.py:backbone", depths=(3, 4))["depths"])
    assert got("enc.py:typed", depth="4") == {"depth": 4}
    assert got("enc.py:Net", width=5) == {"width": 5} and got("enc.py:only", second=5) == {"first": 1, "second": 5}


def test_whole_numbers_are_a_mean_too(folder: Path) -> None:
    """As somebody writes them whose network normalises by itself."""
    function = "def whole(mean=(0, 0, 0), std=(1, 1, 1)):\n    return Says(mean=mean, std=std)\n"
    (folder / "whole.py").write_text(CODE + function)
    encoder = load_encoder("custom:whole.py:whole", image_size=16)
    assert encoder.network.got == {"mean": (0, 0, 0), "std": (1, 1, 1)}
    assert encoder.mean.flatten().tolist() == [0, 0, 0] and encoder.std.flatten().tolist() == [1, 1, 1]


def test_a_parameter_called_as_an_option_of_the_plugin_shares_it(folder: Path) -> None:
    provider = find_provider("custom:enc.py:sized")
    assert set(provider.options) == OWN and provider.options["image_size"].default == provider.image_size == 48
    assert got("enc.py:sized") == {"image_size": 48, "mean": IMAGENET_MEAN}
    encoder = load_encoder("custom:enc.py:sized", image_size=16, mean="0.5,0.5,0.5")
    assert encoder.image_size == 16 and encoder.network.got == {"image_size": 16, "mean": (0.5, 0.5, 0.5)}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("backbone", {"wdith": 3}, r"has no option 'wdith'; it has alpha, depths, .*image_size.*, width$"),
        ("backbone", {"act": "relu"}, "has no option 'act'"),
        ("backbone", {"width": "wide"}, r"option width of provider .* is 'wide', but expected a whole number"),
        ("backbone", {"normalise": "perhaps"}, "expected true or false"),
        ("backbone", {"depths": "2.5,3"}, r"option depths of .* is \(2.5, 3.0\), but expected whole numbers"),
        ("typed", {}, r"typed in enc\.py needs depth: give it with --provider-option depth=VALUE"),
        ("needs", {"depth": 1}, r"needs in enc\.py needs mode, but does not say of which type: write mode: int"),
        ("made", {"width": 3}, "has no option 'width'"),
    ],
)
def test_wrong_options_are_one_sentence(folder: Path, name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RCDMError, match=words) as caught:
        load_encoder(f"custom:enc.py:{name}", options=options)
    assert "\n" not in str(caught.value)


def test_a_function_out_of_another_file_is_read_there(folder: Path) -> None:
    package = folder / "pkg_of_nets" / "inner"
    package.mkdir(parents=True)
    (folder / "pkg_of_nets" / "__init__.py").write_text("raise SystemExit('run')\n")
    (package / "__init__.py").write_text("from .nets import build as make\nfrom ..top import other\n")
    (package / "nets.py").write_text("def build(depth: int = 2): ...\n")
    (folder / "pkg_of_nets" / "top.py").write_text("from enc import typed as other\n")
    (folder / "circle.py").write_text("from circle import f\n")
    assert declared("pkg_of_nets.inner:make") == {"depth": ("int", 2)}
    assert declared("pkg_of_nets.inner.nets:build") == {"depth": ("int", 2)}
    assert find_provider("custom:pkg_of_nets.inner:make").source == package / "nets.py"
    # Absolute imports start from the folder of the file that has them, or from what is installed.
    (folder / "pkg_of_nets" / "enc.py").write_text("def typed(a: str = 'x'): ...\n")
    assert declared("pkg_of_nets.inner:other") == {"a": ("str", "x")}
    assert declared("circle.py:f") == {}


def test_show_lists_them_and_runs_nothing(folder: Path) -> None:
    (folder / "loud.py").write_text("raise AssertionError('run')\ndef f(width: int = 3, *, deep=True): ...\n")
    shown = CliRunner().invoke(main, ["providers", "show", "custom:loud.py:f"])
    assert shown.exit_code == 0, shown.output
    assert [line.split()[:4] for line in shown.output.splitlines()[-2:]] == [
        ["width", "int", "default", "3"],
        ["deep", "bool", "default", "True"],
    ]
    entry = json.loads(CliRunner().invoke(main, ["providers", "show", "custom:loud.py:f", "--json"]).output)
    assert entry["source"] == str(folder / "loud.py") and entry["options"][-1]["name"] == "deep"
