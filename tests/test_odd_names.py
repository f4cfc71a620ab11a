"""Names that only just fit, that break lines, or that belong to something else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import error_of, rcdm
from exact_rcdm import ExactRCDM
from PIL import Image

import rcdm_core
from rcdm_cli import console
from rcdm_core.atomic import replace_text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rcdm_core, "load", lambda *given, **named: ExactRCDM())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_that_only_just_fit(folder: Path) -> None:
    replace_text(folder / ("x" * 255), "whole")
    assert (folder / ("x" * 255)).read_text() == "whole" and len(list(folder.iterdir())) == 1
    for number, name in enumerate(("a" * 251, "a" * 250 + "b", "ü" * 125, "c" * 240)):
        (folder / "in").mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (60 * number, 20, 90)).save(folder / "in" / f"{name}.png")
    found = rcdm("sample", "--model", "m", "--image", "in", "-n", "1", "--sampling-steps", "1", "--out", "out")
    assert found.exit_code == 0, found.output
    made = {"a" * 249, "a" * 247 + "-2", "ü" * 124, "c" * 240}
    assert {path.name for path in (folder / "out").iterdir()} == {"grid.png", *(f"{name}-1.png" for name in made)}


def test_a_file_in_the_way_of_a_folder_is_named(folder: Path) -> None:
    (folder / "afile").write_text("in the way")
    for words in (["sample"], ["probe", "samples"]):
        for out in ("afile", "afile/x", "afile/x/y"):
            message = error_of(*words, "--model", "m", "--out", out)
            assert message == "Error: afile is a file, and a folder is needed there; choose another one with --out."


def test_what_is_said_is_one_line_whatever_files_are_called(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\nError: b\x1b[2J\u2028c.png"
    told = "a\\nError: b\\x1b[2J\\u2028c.png"
    Image.new("RGB", (20, 20)).save(folder / name)
    run = ("--model", "m", "--sampling-steps", "1", "--image")
    found = rcdm("probe", "samples", "--samples", "1", *run, name)
    assert found.exit_code == 0, found.output
    assert f"Note: {told} (20 × 20) is smaller" in found.stdout and "\x1b" not in found.output
    (folder / name).write_text("no picture")
    assert f"Error: {told} cannot be read" in error_of("probe", "samples", *run, name)
    console.PlainReporter().log(name)
    console.print_table(("file",), [(name,)])
    assert [line.rstrip() for line in "".join(capsys.readouterr()).splitlines()] == ["file", told, told]
    assert console.one_line("Gänge – 漢字 \U0001f600") == "Gänge – 漢字 \U0001f600"


@pytest.mark.skipif(
    not os.path.exists("/dev/full"),
    reason="Linux alone has a device that is always full; elsewhere nothing stands for a full disk under stdout",
)
@pytest.mark.parametrize("words", ["--help", "providers --json"])
def test_output_that_cannot_be_written(words: str) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "rcdm_cli.main", *words.split()]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 2
    assert found.stderr == "Error: stdout could not be written (No space left on device); send it somewhere else.\n"
