"""Results among the pictures that are read: refused before anything is written, whoever writes them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from cli_runner import error_of, rcdm
from exact_rcdm import ExactRCDM
from PIL import Image

import rcdm_core
from rcdm_core.errors import RCDMError
from rcdm_core.out_folder import refuse_among_pictures


def write(path: Path, colour: tuple[int, int, int] = (220, 30, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), colour).save(path)
    return path


def content(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """img with a picture and two in img/sub, one of them called as a result is; models are found without a file."""
    folder = tmp_path / "img"
    for number, name in enumerate(("p.png", "sub/p-1.png", "sub/grid.png")):
        write(folder / name, (60 * number, 100, 30))
    monkeypatch.setattr(rcdm_core, "load", lambda *given, **named: ExactRCDM())
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("out", ["img", "img/sub", "img/new/deep", "link/new", "img/linked/new", "elsewhere/a/new"])
@pytest.mark.parametrize("command", ["sample", "samples", "all", "evaluate"])
def test_nothing_is_written_among_the_pictures(command: str, out: str, pictures: Path) -> None:
    write(pictures.parent / "elsewhere" / "a" / "b.png")
    (pictures.parent / "link").symlink_to(pictures)
    (pictures / "linked").symlink_to(pictures.parent / "elsewhere")
    before = content(pictures.parent)
    option = "--data" if command == "evaluate" else "--image"
    words = [command] if command in ("sample", "evaluate") else ["probe", command]
    message = error_of(*words, "--model", "m", option, "img", "--out", out)
    assert f"--out {out} is " in message and "folder of pictures img, where results" in message
    assert message.endswith("choose another --out.")
    assert content(pictures.parent) == before and not (pictures / "new").exists()


def test_of_a_picture_only_its_own_folder_is_spared(pictures: Path) -> None:
    run = ("--model", "m", "--image", "img/p.png", "--sampling-steps", "1")
    for words in (["sample", "-n", "1"], ["probe", "samples", "--samples", "1"]):
        assert "--out img is the folder of img/p.png" in error_of(*words, *run, "--out", "img")
        found = rcdm(*words, *run, "--out", "img/results")
        assert found.exit_code == 0, found.output


def test_the_pictures_of_the_training_are_spared_too(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = ExactRCDM()
    description = {"kind": "folder", "path": str(pictures)}
    model.config.data.description = description
    monkeypatch.setattr(rcdm_core, "load", lambda *given, **named: model)
    before = content(pictures)
    for words in (["sample"], ["probe", "samples"], ["evaluate"]):
        assert f"in the folder of pictures {pictures}" in error_of(*words, "--model", "m", "--out", "img/sub/x")
    assert content(pictures) == before
    one = ("sample", "--model", "m", "--image", "img/p.png", "-n", "1", "--sampling-steps", "1", "--out")
    assert "folder of pictures" in error_of(*one, "img/x")
    found = rcdm(*one, "x")
    assert found.exit_code == 0, found.output


def test_a_training_leaves_no_preview_among_its_pictures(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(pictures)
    train = ("train", "--provider", "shapes-all", "--steps", "1")
    inside = error_of(*train, "--data", "img", "--out", "img/run")
    assert "--out img/run is in the folder of pictures img, where" in inside
    monkeypatch.chdir(pictures)
    assert "--out runs/shapes-all is in the folder of pictures ., where" in error_of(*train, "--data", ".")
    assert content(pictures) == before and not (pictures / "runs").exists() and not (pictures / "run").exists()


def test_the_folder_of_an_earlier_run_can_be_used_again(pictures: Path) -> None:
    run = ("--model", "m", "--image", "img", "--samples", "1", "--sampling-steps", "1")
    for _ in range(2):
        found = rcdm("probe", "samples", *run)  # into out/samples
        assert found.exit_code == 0, found.output
    # but not where its own pictures would be read
    message = error_of("probe", "samples", *run[:2], "--data", ".")
    assert "--out out/samples is in the folder of pictures ., where" in message


def test_a_file_of_representations_may_lie_beside_the_pictures(pictures: Path) -> None:
    encode = ("encode", "--provider", "shapes-all", "--data", "img", "--out")
    assert "in the folder of pictures img" in error_of(*encode, "img/h.png")
    found = rcdm(*encode, "img/h.safetensors")
    assert found.exit_code == 0, found.output


def test_sets_that_are_no_folders_have_no_place(tmp_path: Path) -> None:
    described = {"kind": "shapes", "path": str(tmp_path)}
    missing = {"kind": "folder", "path": str(tmp_path / "no")}
    refuse_among_pictures(tmp_path / "out", [object()], [None, described, missing])
    with pytest.raises(RCDMError, match="is the folder of pictures"):
        refuse_among_pictures(str(tmp_path), [], [described | {"kind": "folder"}])
