"""The command line: exit codes, one sentence an error, and that the commands do what they say."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from cli_runner import error_of, rcdm
from click.testing import CliRunner, Result

import rcdm_core
from rcdm_cli import console, train
from rcdm_cli.main import COMMANDS, LazyGroup, main
from rcdm_cli.options import parse_assignments

HEAVY = ("torch", "torchvision", "timm", "matplotlib", "scipy", "rich", "jinja2")


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


def test_leaving_is_no_success() -> None:
    assert raising(SystemExit(0))().exit_code == 1


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
    assert parse_assignments(("a=1", "a=1")) == {"a": "1"}
    for wrong in (["a"], ["=1"], ["a=1", "b=2", " a =3"]):
        with pytest.raises(click.BadParameter):
            parse_assignments(tuple(wrong))


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
