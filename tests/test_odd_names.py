"""Names that only just fit, that break lines, or that belong to something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import error_of, rcdm
from exact_rcdm import ExactRCDM
from PIL import Image

import rcdm_core
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
