"""The command line: exit codes, one sentence an error, and that the commands do what they say."""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import rcdm_core
from rcdm_cli import console, train
from rcdm_cli.main import COMMANDS, LazyGroup, main
from rcdm_cli.options import parse_assignments

HEAVY = ("torch", "torchvision", "timm", "matplotlib", "scipy", "rich", "jinja2")


def rcdm(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def error_of(*arguments: str | Path) -> str:
    """The sentence that bad input ends with."""
    result = rcdm(*arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and result.output.rstrip().endswith(lines[0]), result.output
    assert "Traceback" not in result.output
    return lines[0]


def imported_by(*arguments: str) -> set[str]:
    """Which of the heavy packages a command imports, in a process of its own."""
    program = (
        "import sys\n"
        "from rcdm_cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('\\n' + ' '.join(sorted(set(name.partition('.')[0] for name in sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()) & set(HEAVY)


def test_help_answers_within_half_a_second_of_computing() -> None:
    # CPU time: what else the machine does must not decide
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "rcdm_cli.main", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["providers", "--json"], ["providers", "show", "dino-vitb16"]])
def test_what_answers_without_heavy_imports(arguments: list[str]) -> None:
    assert imported_by(*arguments) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_imports_no_torch(command: str) -> None:
    assert "torch" not in imported_by(command, "--help")


def test_help_of_a_probe_shows_its_own_parameters_without_torch() -> None:
    assert "torch" not in imported_by("probe", "invariance", "--help")
    text = rcdm("probe", "invariance", "--help").output
    for name in rcdm_core.registry.probes()["invariance"].parameters:  # type: ignore[attr-defined]
        assert f"--{name.replace('_', '-')}" in text


def test_version() -> None:
    assert rcdm("--version").output.split()[-1] == rcdm_core.__version__


# errors


def raising(error: BaseException) -> Callable[..., Result]:
    """A group whose only command raises `error`."""

    @click.command("work")
    def work() -> None:
        raise error

    class Group(LazyGroup):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return ["work"]

        def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
            return work

    group = Group("rcdm", params=list(main.params))
    return lambda *arguments: CliRunner().invoke(group, [*arguments, "work"])


def test_a_users_error_is_one_sentence_and_exit_code_2() -> None:
    run = raising(rcdm_core.RCDMError("x.png is no image; give one."))
    assert (run().exit_code, run().output) == (2, "Error: x.png is no image; give one.\n")
    assert "Traceback" in run("--debug").output and run("--debug").exit_code == 2
    assert raising(rcdm_core.RCDMError("x.png is no image"))().output == "Error: x.png is no image.\n"


def test_an_unexpected_error_says_how_to_see_the_traceback_and_is_exit_code_1() -> None:
    run = raising(ZeroDivisionError("float division\nby zero"))
    assert run().exit_code == 1
    assert (
        run().output
        == "Error: Unexpected ZeroDivisionError: float division; the same command with --debug shows where.\n"
    )
    assert "Traceback" in run("--debug").output and "--debug" not in run("--debug").output.splitlines()[-1]


def test_an_error_of_the_system_names_the_file() -> None:
    result = raising(PermissionError(13, "Permission denied", "/root/x"))()
    assert (result.exit_code, result.output) == (2, "Error: Cannot use /root/x: Permission denied.\n")


def test_ctrl_c_is_exit_code_130() -> None:
    result = raising(KeyboardInterrupt())()
    assert (result.exit_code, result.output) == (130, "Stopped.\n")


def test_errors_go_to_stderr() -> None:
    command = [sys.executable, "-m", "rcdm_cli.main", "providers", "show", "dino-vitb17"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and "dino-vitb16" in done.stderr


def test_wrong_usage_is_one_sentence_too() -> None:
    assert "rcdm train --help" in error_of("train", "--no-such-option")
    assert "--provider" in error_of("train")
    assert "there are demo, providers" in error_of("nonsense")
    assert "did you mean sample?" in error_of("sampel")
    assert "did you mean check?" in error_of("providers", "chek")
    assert "NAME=VALUE" in error_of("train", "--provider", "none", "--provider-option", "size")


# providers


def test_the_listing_has_every_provider_and_its_plugin() -> None:
    listing = json.loads(rcdm("providers", "list", "--json").output)
    entries = {entry["name"]: entry for entry in listing["providers"]}
    assert set(entries) == set(rcdm_core.providers())
    assert entries["dino-vitb16"]["plugin"]["distribution"] == "rcdm"
    assert entries["shapes-no-color"]["forgets"] == ["background color", "object color"]
    assert listing == json.loads(rcdm("providers", "--json").output)
    assert all(plugin["error"] is None for plugin in listing["plugins"])


def test_the_plain_listing_is_one_line_a_provider() -> None:
    lines = rcdm("providers").output.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(rcdm_core.providers())


def test_show_says_where_weights_come_from() -> None:
    text = rcdm("providers", "show", "dino-vitb16").output
    assert "https://dl.fbaipublicfiles.com" in text and "ICCV 2021" in text and "image size" in text


def test_the_nearest_provider_is_named() -> None:
    assert "shapes-no-color" in error_of("train", "--provider", "shapes-no-colour", "--steps", "1")


def test_check_passes_for_an_oracle_and_reports_what_it_did() -> None:
    report = json.loads(rcdm("providers", "check", "shapes-all", "--json").output)
    assert report["passed"] and len(report["checks"]) > 5


def test_check_of_a_provider_that_breaks_the_contract_is_exit_code_1(tmp_path: Path) -> None:
    file = tmp_path / "noisy.py"
    file.write_text(
        "import torch\n"
        "class Noisy(torch.nn.Module):\n"
        "    def forward(self, x): return x.mean((2, 3)) + torch.rand(len(x), 3)\n"
        "def encoder(): return Noisy()\n"
    )
    result = rcdm("providers", "check", f"custom:{file}:encoder")
    assert result.exit_code == 1 and "FAILED" in result.output


def test_what_an_encoder_prints_is_no_part_of_the_json(tmp_path: Path) -> None:
    file = tmp_path / "chatty.py"
    file.write_text(
        "import torch\n"
        "class Chatty(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        print('here I am')\n"
        "        return x.mean((2, 3))\n"
        "def encoder(): return Chatty()\n"
    )
    result = rcdm("providers", "check", f"custom:{file}:encoder", "--provider-option", "image_size=16", "--json")
    assert json.loads(result.stdout)["checks"] and "here I am" in result.stderr


# train, sample, probe


def test_every_argument_of_a_training_is_an_option_and_no_more() -> None:
    from rcdm_core.training.config import TrainConfig

    options = {parameter.name for parameter in train.command.params if parameter.expose_value}
    assert options == {field.name for field in dataclasses.fields(TrainConfig)}


def test_the_help_of_train_tells_the_real_defaults_and_choices() -> None:
    from rcdm_core.presets import PRESETS
    from rcdm_core.training.config import CONDITIONINGS, TrainConfig

    by_name = {parameter.name: parameter for parameter in train.command.params}
    fields = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for name in ("save_every", "preset", "accumulate"):
        assert f"[default: {fields[name]}]" in getattr(by_name[name], "help")  # noqa: B009
    assert ", ".join(PRESETS) in getattr(by_name["preset"], "help")  # noqa: B009
    assert all(word in getattr(by_name["conditioning"], "help") for word in CONDITIONINGS)  # noqa: B009
    for name in ("seed", "device", "precision", "fit"):
        assert by_name[name].default == fields[name]


def test_the_samplers_are_those_of_the_core() -> None:
    from rcdm_cli import sample
    from rcdm_core import samplers

    option = next(parameter for parameter in sample.command.params if parameter.name == "sampler")
    assert isinstance(option.type, click.Choice) and set(option.type.choices) == set(samplers.SAMPLERS)
    assert option.default == samplers.DEFAULT_SAMPLER
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
    unet = {
        "image_size": 16,
        "model_channels": 32,
        "num_res_blocks": 1,
        "channel_mult": (1,),
        "attention_resolutions": (),
    }
    small = dataclasses.replace(PRESETS["tiny-32"], name="small", unet=unet)
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

    monkeypatch.setattr("rcdm_core.training.train", interrupted)
    assert rcdm("train", "--provider", "shapes-all", "--steps", "4").exit_code == 130
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
        assert "your pictures; choose another --out" in error_of(*run, image, "--out", given / "." / "x" / "..")
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


def test_evaluate_is_the_faithfulness_of_a_model(trained: Path, tmp_path: Path) -> None:
    run = ("evaluate", "--model", trained / "runs" / "first", "--sampling-steps", "1", "--out", tmp_path, "--json")
    result = rcdm(*run)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["probe"] == "faithfulness" and found["complete"]


# what is shown on the way


def test_plain_progress_tells_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = console.PlainReporter(every=0)
    reporter.start(4, "encoding", unit="picture")
    reporter.update(2, loss=0.25)
    reporter.finish()
    reporter.finish()
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == "" and len(lines) == 3
    assert lines[0] == "encoding: 4 picture"
    assert "2/4 picture" in lines[1] and "picture/s" in lines[1] and "left" in lines[1] and "loss 0.25" in lines[1]


def test_the_bar_is_taken_down_when_work_ends(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = console.BarReporter()
    reporter.start(None, "reading [all]", unit="picture")
    reporter.update(1, loss=0.5)
    reporter.log("a [line] that stays")
    reporter.finish()
    assert reporter.progress is None
    assert "a [line] that stays" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3600, "1:00:00"), (-3, "0:00")])
def test_clock(seconds: float, text: str) -> None:
    assert console.clock(seconds) == text


def test_assignments() -> None:
    assert parse_assignments(("a=1", " b = x=y")) == {"a": "1", "b": " x=y"}
    for wrong in ("a", "=1"):
        with pytest.raises(click.BadParameter):
            parse_assignments((wrong,))


@pytest.mark.parametrize(("text", "value"), [("512", 512), ("0.1", 0.1)])
def test_held_out_is_a_count_or_a_share(text: str, value: Any) -> None:
    found = train.CountOrShare().convert(text, None, None)
    assert found == value and type(found) is type(value)


def test_verbose_lets_the_library_speak_for_one_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    from rcdm_core import registry

    def speaking() -> dict[str, Any]:
        logging.getLogger("rcdm_core.weights").info("left out: fc.weight")
        return {}

    monkeypatch.setattr(registry, "providers", speaking)
    for arguments, said in (
        (["providers"], False),
        (["providers", "--verbose"], True),
        (["--verbose", "providers"], True),
        (["--verbose", "providers", "list", "--verbose"], True),
        (["providers"], False),
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0 and result.stderr.count("left out: fc.weight") == said
