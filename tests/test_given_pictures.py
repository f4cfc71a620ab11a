"""What can be given with --image: files that are called alike, endings in capitals, folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_rcdm import ExactRCDM
from fake_rcdm import FakeRCDM
from PIL import Image

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes.opening import few
from rcdm_core.probes.pictures import Pictures, choose, held_out

DATA = Shapes(5, seed=1)
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "gray": (120, 120, 120)}


def write(path: Path, colour: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), COLOURS[colour]).save(path)
    return path


def given(*images: Any) -> Pictures:
    return choose(images, None, [ExactRCDM()], count=0)


def colours(pictures: Pictures) -> list[str]:
    """Of the pictures that are read, by name in order."""
    seen = [np.array(picture.open().getpixel((5, 5))) for picture in pictures]
    return [min(COLOURS, key=lambda name: float(np.abs(pixel - COLOURS[name]).sum())) for pixel in seen]


def test_files_that_are_called_alike_have_their_folders_in_front(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one" / "s" / "x.png", "red"), write(tmp_path / "two" / "s" / "x.png", "green")
    other, deeper = write(tmp_path / "y.png", "blue"), write(tmp_path / "two" / "more" / "s" / "x.png", "gray")
    found = given(one, other, two)
    assert [picture.name for picture in found] == ["one/x.png", "y.png", "two/x.png"] and not found.notes
    assert colours(found) == ["red", "blue", "green"]
    # so have those of two folders
    found = given(tmp_path / "two" / "s", tmp_path / "one" / "s", deeper.parent)
    assert [picture.name for picture in found] == ["two/x.png", "one/x.png", "two/more/x.png"]
    assert colours(found) == ["green", "red", "gray"]
    # the same picture under another name is one, and needs no folder
    copy = write(tmp_path / "three" / "x.png", "red")
    found = given(one, copy)
    assert [picture.name for picture in found] == ["x.png"] and "the same as another one" in found.notes[0]


def test_a_probe_tells_files_apart_that_are_called_alike(tmp_path: Path) -> None:
    files = [write(tmp_path / folder / "x.png", colour) for folder, colour in (("one", "red"), ("two", "green"))]
    found = rcdm_core.run_probe("samples", models=[ExactRCDM()], images=files, samples=1, out=tmp_path / "out")
    assert [record["name"] for record in found.images] == ["one/x.png", "two/x.png"]
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert stored["command"].count(f"/x.png --image {tmp_path}/two") == 1
    assert len({record["content_id"] for record in stored["images"]}) == 2


@pytest.mark.parametrize(("fit", "told"), [("crop", True), ("pad", False)])
def test_a_long_picture_is_small_where_a_square_is_cut_from_it(fit: str, told: bool, tmp_path: Path) -> None:
    """The encoder takes 64 pixels, and padded this one has them."""
    Image.new("RGB", (64, 9)).save(tmp_path / "banner.png")
    notes = given(tmp_path / "banner.png").size_note([FakeRCDM("x", fit=fit)])
    assert bool(notes) == told and all("banner.png (64 × 9)" in note for note in notes)


def test_remedies_are_options_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(RCDMError, match=r"give some with --image or --data\."):
        choose([], None, [ExactRCDM()], count=1)
    with pytest.raises(RCDMError, match=r"give some with --image\."):
        choose([], None, [ExactRCDM()], count=1, options=["--image"])
    trained = [ExactRCDM(trained=DATA.ids)]
    with pytest.raises(RCDMError, match=r"was trained on; give others with --image\."):
        choose([], DATA, trained, count=1, options=["--image"])
    with pytest.raises(RCDMError, match=r"was trained on; give others with --data\."):
        held_out(DATA, trained, count=1)


@pytest.mark.parametrize("name", ["X.PNG", "X.JPEG", "x.WebP"])
def test_endings_in_capitals(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / "in" / name, "blue")
    assert colours(given(file)) == ["blue"] and [picture.name for picture in given(file)] == [name]
    assert [picture.id for picture in given(tmp_path / "in")] == [picture.id for picture in given(file)]


def test_a_folder_is_all_of_its_pictures_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name, colour in {"b.png": "red", "a.BMP": "green", "sub/c.png": "gray"}.items():
        write(folder / name, colour)
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.png").write_text("no picture either")
    found = given(folder)
    assert [picture.name for picture in found] == ["a.BMP", "b.png", "sub/c.png"]
    assert colours(found) == ["green", "red", "gray"]
    (note,) = found.notes
    assert note.startswith("1 picture cannot be read and is left out: broken.png (")
    # beside a file that is in it
    both = given(folder / "b.png", folder)
    assert [picture.name for picture in both] == ["b.png", "a.BMP", "sub/c.png"]


def test_a_named_pipe_is_no_picture_and_nobody_waits_for_it(tmp_path: Path) -> None:
    pipe = tmp_path / "p.png"
    os.mkfifo(pipe)
    with pytest.raises(RCDMError, match=r"p\.png is not a regular file; give"):
        given(pipe)


def test_the_note_on_too_few_is_english() -> None:
    group = {"what": "picture in each group", "many": "pictures in each group"}
    notes = [few(1), few(4), few(3, "class", many="classes"), few(1, **group), few(3, **group)]
    assert [note.split(" too few")[0] for (note,) in notes] == [
        "1 picture is",
        "4 pictures are",
        "3 classes are",
        "1 picture in each group is",
        "3 pictures in each group are",
    ]
    assert few(5) == []
