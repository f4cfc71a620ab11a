"""Parameters of probes that make no sense: refused before a model is loaded, each by its name."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from cli_runner import error_of
from fake_rcdm import FakeRCDM
from PIL import Image

import rcdm_core
from rcdm_cli.probe import parameter_option
from rcdm_core import registry
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes import PROBES
from rcdm_core.probes.base import Context
from rcdm_core.progress import Reporter
from rcdm_core.provider import Option

SWITCHES = {f"--{no}{name}" for name in ("deep", "fast", "same") for no in ("", "no-")}


@pytest.mark.parametrize(
    ("name", "params", "sentence"),
    [
        ("samples", {"seeds": -3}, "seeds is -3, but expected a whole number of at least 1"),
        ("variance", {"top": -1.0}, "top is -1, but expected a variance above 0"),
        ("interpolation", {"path": "around"}, "There is no path 'around'"),
        ("quality", {"space_weights": "nosuch.pth"}, "--space-weights is for --space NAME"),
        ("quality", {"space": "resnet50"}, "no provider 'resnet50'"),
        ("quality", {"std": 0.5}, "--std is for --drawing unconditional"),
        ("quality", {"source": "nowhere", "drawing": "unconditional"}, "source is 'nowhere'"),
        ("unconditional", {"std": -1.0}, "std is -1"),
        ("manipulation", {"partner": "x.png"}, "--partner is for --mode swap"),
        ("manipulation", {"training": 10}, "--training is for --among training"),
        ("adversarial", {"attack_steps": 3}, "--attack-steps is for --attack pgd"),
        ("linear-probe", {"folds": 3, "fit": 40}, "--fit is for --folds 0"),
        ("retention", {"judge": "none", "judge_pictures": 40}, "--judge-pictures is for a --judge other than none"),
        ("faithfulness", {"gallery": 1}, "gallery is 1, but a gallery takes at least 2"),
        ("class-mean", {"classes": " , "}, "names no class"),
        ("retention", {"count": 4}, "count is 4, but expected a whole number of at least 20"),
    ],
)
def test_one_sentence_before_anything_is_loaded(
    name: str, params: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    for probe, given in ((name, params), ("all", {"set": [f"{name}.{key}={value}" for key, value in params.items()]})):
        model: Any = FakeRCDM("a") if probe == "all" else "no such folder"
        data = Shapes(8, seed=3) if probe == "all" else None
        with pytest.raises(RCDMError, match=sentence):
            rcdm_core.run_probe(probe, models=[model], data=data, out=tmp_path / "out", **given)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_is_read_only_without_pictures_is_checked_only_there(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(2):
        Image.new("RGB", (32, 32), (40 * i, 90, 200)).save(folder / f"{i}.png")
    with pytest.raises(RCDMError, match="at least 20 different pictures"):  # of the pictures, not of count
        rcdm_core.run_probe("retention", models=[FakeRCDM("a")], images=[folder], out=tmp_path / "out", count=4)
    retention = PROBES["retention"]
    retention.accept(retention.complete({"count": 4}), given=True)
    with pytest.raises(RCDMError, match="samples is 0"):
        retention.accept(retention.complete({"samples": 0}), given=True)


def test_the_command_ends_with_2(tmp_path: Path) -> None:
    sentence = error_of("probe", "quality", "--model", "nowhere", "--space-weights", "nosuch.pth")
    assert "--space-weights is for --space NAME" in sentence


def test_the_command_that_repeats_a_run_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a plugin that is only tried, and with switches."""
    monkeypatch.setenv(registry.TRY, str(tmp_path / "round_trip.py"))
    switches = {"deep": Option(bool, False, "x"), "fast": Option(bool, True, "x"), "same": Option(bool, True, "x")}
    probe = dataclasses.replace(PROBES["samples"], name="round-trip", parameters=switches, least={}, unless_given=())
    context = Context(
        **{"probe": probe, "models": [FakeRCDM("m")], "names": ["m"], "images": [], "data": None, "out": Path("out")},
        **{"seed": 0, "precision": "auto", "sampler": "ddim", "steps": 2, "progress": Reporter()},
        params={"deep": True, "fast": False, "same": True},
    )
    told = shlex.split(context.command())
    assert told[:5] == ["rcdm", "probe", "round-trip", "--plugin", str(tmp_path / "round_trip.py")]
    options = [parameter_option(name, option) for name, option in switches.items()]
    parsed = click.Command("x", params=options).make_context("x", [word for word in told if word in SWITCHES])
    assert parsed.params == {"deep": True, "fast": False, "same": None} and "--same" not in told


def test_a_declaration_that_contradicts_itself() -> None:
    for change in ({"check": True}, {"unless_given": "count"}, {"unless_given": ("other",)}):
        with pytest.raises(TypeError, match=next(iter(change))):
            dataclasses.replace(PROBES["samples"], **change)
