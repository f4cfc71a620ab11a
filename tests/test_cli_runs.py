"""The commands that compute: train, sample, probe and evaluate do what they say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from cli_runner import error_of, rcdm
from PIL import Image
from training_fixtures import SMALL_UNET

import rcdm_core
from rcdm_cli import train
from rcdm_core.probes.base import Context


def test_every_argument_of_a_training_is_an_option_and_no_more() -> None:
    from rcdm_core.training.config import TrainConfig

    options = {parameter.name for parameter in train.command.params if parameter.expose_value}
    assert options == {field.name for field in dataclasses.fields(TrainConfig)}


def test_the_help_of_train_tells_the_real_defaults_and_choices() -> None:
    from rcdm_core.presets import PRESETS
    from rcdm_core.training.config import CONDITIONINGS, TrainConfig

    by_name = {parameter.name: parameter for parameter in train.command.params}
    fields = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    defaults = {**fields, "accumulate": TrainConfig("none").recipe().accumulate}
    for name in ("save_every", "preset", "accumulate"):
        assert f"[default: {defaults[name]}]" in getattr(by_name[name], "help")  # noqa: B009
    assert ", ".join(PRESETS) in getattr(by_name["preset"], "help")  # noqa: B009
    assert all(word in getattr(by_name["conditioning"], "help") for word in CONDITIONINGS)  # noqa: B009
    for name in ("seed", "device", "fit"):
        assert by_name[name].default == fields[name]
    assert by_name["precision"].default == TrainConfig("none").to_dict()["precision"]


def test_the_samplers_are_those_of_the_core() -> None:
    from rcdm_cli import sample
    from rcdm_core import samplers

    option = next(parameter for parameter in sample.command.params if parameter.name == "sampler")
    assert isinstance(option.type, click.Choice) and set(option.type.choices) == set(samplers.SAMPLERS)
    assert option.default == samplers.DEFAULT_SAMPLER == "dpm++"
    (steps,) = (parameter for parameter in sample.command.params if parameter.name == "sampling_steps")
    assert steps.default == 20
    assert samplers.DEFAULT_SAMPLER in samplers.SAMPLERS


def test_bad_data_and_folders_of_a_training(tmp_path: Path) -> None:
    def start(*more: str | Path) -> str:
        return error_of("train", "--provider", "shapes-all", "--cache", tmp_path / "cache", *more)

    (tmp_path / "empty").mkdir()
    run = ("--steps", "1", "--out", tmp_path / "run", "--data")
    assert str(tmp_path / "empty") in start(*run, tmp_path / "empty")
    assert str(tmp_path / "missing") in start(*run, tmp_path / "missing")
    (tmp_path / "bad").mkdir()
    for name in ("a.png", "b.png", "c.jpg"):
        (tmp_path / "bad" / name).write_text("not an image")
    assert "more than half" in start(*run, tmp_path / "bad")
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in start("--steps", "1", "--data", "shapes:8", "--out", tmp_path / "file" / "run")


def test_no_permission_to_write_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:  # a mode would not stop root
        if path.is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied", str(path))
        make(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    message = error_of("train", "--provider", "shapes-all", "--steps", "1", "--out", tmp_path / "run")
    assert "permission" in message.lower() and "--out" in message


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with runs/first, a small model that was hardly trained."""
    from rcdm_core.presets import PRESETS

    folder = tmp_path_factory.mktemp("work")
    small = dataclasses.replace(PRESETS["tiny-32"], name="small", unet=SMALL_UNET)
    arguments = "--provider shapes-no-color --data shapes:40 --steps 1 --batch-size 2 --held-out 20 --preview-every 0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small", small)
        run = ("--preset", "small", "--cache", folder / "cache", "--out", folder / "runs" / "first")
        result = rcdm("train", *arguments.split(), *run)
    assert result.exit_code == 0, result.output
    assert str(folder / "runs" / "first") in result.output
    return folder


def test_a_training_that_was_stopped_is_exit_code_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: Any, progress: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps({"step": 3, "seconds": 1.0}))
        return tmp_path

    monkeypatch.setattr("rcdm_core.training.series.train", interrupted)
    stopped = rcdm("train", "--provider", "shapes-all", "--steps", "4")
    assert stopped.exit_code == 130 and "No --data: training on the embedded shapes." in stopped.output
    assert rcdm("train", "--provider", "shapes-all", "--steps", "3").exit_code == 0


def test_train_refuses_to_write_over_a_run(trained: Path) -> None:
    message = error_of("train", "--provider", "shapes-all", "--steps", "1", "--out", trained / "runs" / "first")
    assert "--resume" in message


def test_sample_takes_the_newest_model_and_names_it(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    Image.fromarray(np.full((40, 50, 3), 200, np.uint8)).save("gray.png")
    result = rcdm("sample", "--image", "gray.png", "-n", "2", "--sampling-steps", "1", "--out", "drawn")
    assert result.exit_code == 0, result.output
    assert "runs/first" in result.output
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["gray-1.png", "gray-2.png", "grid.png"]
    with Image.open("drawn/gray-1.png") as picture:
        assert picture.size == (16, 16)


def test_samples_depend_on_the_picture_and_the_seed_alone(trained: Path, tmp_path: Path) -> None:
    def drawn(name: str, *more: str | Path) -> np.ndarray:
        common = ("--model", trained / "runs" / "first", "--sampling-steps", "1", "--deterministic", "-n", "1")
        result = rcdm("sample", *common, "--out", tmp_path / name, *more)
        assert result.exit_code == 0, result.output
        return np.asarray(Image.open(tmp_path / name / "red-1.png"))

    for name, colour in (("red", (220, 40, 40)), ("blue", (40, 40, 220))):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
    alone = drawn("alone", "--image", tmp_path / "red.png")
    np.testing.assert_array_equal(
        alone, drawn("both", "--image", tmp_path / "blue.png", "--image", tmp_path / "red.png")
    )
    assert not np.array_equal(alone, drawn("other", "--image", tmp_path / "red.png", "--seed", "1"))


def test_sample_without_a_picture_takes_held_out_ones(trained: Path, tmp_path: Path) -> None:
    common = ("--model", trained / "runs" / "first", "--sampling-steps", "1", "-n", "1", "--out", tmp_path)
    result = rcdm("sample", *common)
    assert result.exit_code == 0 and "trained on" not in result.output, result.output
    assert len(list(tmp_path.glob("shapes-*.png"))) == 4


def test_an_encoder_that_has_moved(trained: Path, tmp_path: Path) -> None:
    """Its new name and place can be given, and its fingerprint decides."""
    model = ("--model", trained / "runs" / "first", "--out", tmp_path)
    for command in (["sample"], ["probe", "invariance"], ["evaluate"]):
        assert "another encoder" in error_of(*command, *model, "--provider", "shapes-all")
        assert "missing.pth" in error_of(*command, *model, "--weights", "missing.pth")


def test_sample_says_which_pictures_it_left_out_and_spares_those_given(trained: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    Image.new("RGB", (32, 32), (220, 40, 40)).save(given / "red-1.png")
    (given / "broken.png").write_text("hello")
    before = {file.name: file.read_bytes() for file in given.iterdir()}
    run = ("sample", "--model", trained / "runs" / "first", "--sampling-steps", "1", "-n", "1", "--image")
    for image in (given, given / "red-1.png"):
        assert "; choose another --out" in error_of(*run, image, "--out", given / "." / "x" / "..")
    message = error_of(*run, given, "--out", tmp_path / "out", "--sampling-steps", "5000")
    assert "--sampling-steps 5000: between 1 and" in message and not (tmp_path / "out").exists()
    result = rcdm(*run, given, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "broken.png" in result.stderr, result.output
    assert {file.name: file.read_bytes() for file in given.iterdir()} == before


def test_an_unconditional_model_takes_no_picture() -> None:
    from rcdm_core.sampling import sample_images

    model: Any = SimpleNamespace(name="free", h_dim=0)
    with pytest.raises(rcdm_core.RCDMError, match="free was trained without a representation"):
        sample_images(model, ["x.png"], n=1, out=Path("nowhere"))


def test_what_is_no_picture_and_no_model(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ("--model", trained / "runs" / "first")
    (tmp_path / "text.png").write_text("hello")
    assert "text.png" in error_of("sample", *model, "--image", tmp_path / "text.png")
    assert "missing.png" in error_of("sample", *model, "--image", tmp_path / "missing.png")
    assert str(tmp_path) in error_of("sample", "--model", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "rcdm train" in error_of("sample")


def test_probe_lists_and_runs(trained: Path, tmp_path: Path) -> None:
    listed = json.loads(rcdm("probe", "--json").output)
    assert {"invariance", "faithfulness"} <= {entry["name"] for entry in listed}
    assert "figures 3, 25 and 26" in rcdm("probe").output
    small = ["--transform", "flip", "--samples", "1", "--count", "1", "--pool", "2", "--sampling-steps", "1"]
    run = ("probe", "invariance", "--model", trained / "runs" / "first", *small, "--out", tmp_path)
    result = rcdm(*run)
    assert result.exit_code == 0 and str(tmp_path / "report.html") in result.output, result.output
    assert json.loads((tmp_path / "result.json").read_text())["complete"]
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_bad_arguments_of_a_probe(trained: Path, tmp_path: Path) -> None:
    run = ("probe", "invariance", "--model", trained / "runs" / "first", "--out", tmp_path)
    assert "horizontal-shift" in error_of(*run, "--transform", "horizontal-shit")
    assert "strength" in error_of(*run, "--strength", "much")
    assert "--sampler" in error_of(*run, "--sampler", "euler")
    assert "invariance" in error_of("probe", "invarianz")
    attack = ("probe", "adversarial", "--model", trained / "runs" / "first", "--out", tmp_path)
    for text in ("0.1,much", "0.1;0.2", ""):
        message = error_of(*attack, "--epsilons", text)
        assert "psilons" in message and f"'{text}'" in message and "numbers with commas" in message


def test_a_picture_that_goes_away_during_a_probe(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, begin = tmp_path / "red.png", Context.begin
    Image.new("RGB", (32, 32), (220, 40, 40)).save(file)

    def then_gone(*given: Any, **named: Any) -> Any:
        result = begin(*given, **named)
        file.unlink()
        return result

    monkeypatch.setattr(Context, "begin", then_gone)
    run = ("--model", trained / "runs" / "first", "--sampling-steps", "1", "--samples", "1", "--out", tmp_path / "out")
    message = error_of("probe", "samples", *run, "--pool", "0", "--image", file)
    assert message.startswith(f"Error: {file} could be read when this began, and cannot be read any more (No such")
    assert not json.loads((tmp_path / "out" / "result.json").read_text())["complete"]


def test_evaluate_is_the_faithfulness_and_the_quality_of_a_model(trained: Path, tmp_path: Path) -> None:
    run = ("evaluate", "--model", trained / "runs" / "first", "--sampling-steps", "1", "--out", tmp_path, "--json")
    result = rcdm(*run)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["probe"] == "faithfulness" and found["complete"]
    good = json.loads((tmp_path / "quality" / "result.json").read_text())
    assert good["probe"] == "quality" and good["complete"] and good["aggregates"]["first"]["relative"]["samples"]
    assert json.loads(result.stdout) == {**found, "quality": good}
    text = rcdm(*run[:-1], "--inception", "no").output
    assert "at rank" in text and "Fréchet distance" in text and str(tmp_path / "quality" / "report.html") in text
    assert "weights are not at hand" not in text
    early = tmp_path / "early"
    assert "missing.pth" in error_of(*run[:5], "--out", early, "--inception", "missing.pth")
    assert not early.exists()  # before anything is drawn


def test_probe_all_runs_what_can_run_and_goes_on(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    words = "probe --model runs/first --all --only variance,class-mean --count 2 --samples 2 --sampling-steps 1"
    first = rcdm(*words.split(), "--out", "report", "--json")
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    entries = found["aggregates"]["probes"]
    assert list(entries) == ["class-mean", "variance"] and entries["variance"]["status"] == "done"
    assert "probe all --model runs/first" in found["command"] and "--only variance,class-mean" in found["command"]
    assert Path("report/report.html").is_file() and Path("report/variance/report.html").is_file()
    again = rcdm(*words.split(), "--out", "report")
    assert again.exit_code == 0 and "variance: done before." in again.output and "report/report.html" in again.output
    assert "the nearest is variance" in error_of("probe", "--all", "--model", "runs/first", "--only", "varianc")
