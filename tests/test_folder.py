"""Folders of images: what is found, copies and links, classes, unreadable files, the split, the caches."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from rcdm_core.data import known_ids
from rcdm_core.data.cache_dir import cache_dir
from rcdm_core.data.folder import ImageFolder, ImageSource, check_readable_share, data_fingerprint, split
from rcdm_core.data.images import content_hash
from rcdm_core.data.shapes import open_data
from rcdm_core.errors import RCDMError, UnreadableImage


def picture(path: Path, seed: int) -> Path:
    """A small file with its own content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(seed).randint(256, size=(12, 16, 3)).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(["cats/one.png", "cats/two.JPG", "dogs/deep/three.webp", "dogs/four.bmp"]):
        picture(tmp_path / "images" / name, seed)
    return tmp_path / "images"


def test_finds_images_of_every_kind_and_nothing_else(folder: Path) -> None:
    (folder / "cats/notes.txt").write_text("text")
    (folder / "cats/.hidden.png").write_bytes((folder / "cats/one.png").read_bytes() + b"x")
    picture(folder / ".thumbnails/five.png", 9)
    (folder / "cats/document.pdf").write_bytes(b"%PDF")  # Pillow writes these but cannot read them
    source = ImageFolder(folder)
    assert isinstance(source, ImageSource)
    assert source.names == ["cats/one.png", "cats/two.JPG", "dogs/deep/three.webp", "dogs/four.bmp"]
    assert source.ids == [content_hash(folder / name) for name in source.names]
    assert len(source) == 4 and source.skipped == [] and source.duplicates == 0
    assert [source.path(index) for index in range(4)] == [folder / name for name in source.names]


def test_other_data_films_and_drawings_are_no_pictures(folder: Path) -> None:
    for ending in ("h5", "hdf", "grib", "bufr", "mpg", "mpeg", "fits", "ps", "eps", "wmf"):
        (folder / f"cats/data.{ending}").write_bytes(b"something else")
    source = ImageFolder(folder)
    assert len(source) == 4 and source.skipped == []


def test_photos_without_a_decoder_are_counted_and_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    for name in ("AVIF", "HEIF"):
        monkeypatch.delitem(Image.OPEN, name, raising=False)
    for name in ("a.heic", "b.HEIF", "c.avif"):
        (folder / "dogs" / name).write_bytes(name.encode())
    source = ImageFolder(folder)
    assert len(source) == 4 and dict(source.skipped) == {
        "dogs/a.heic": "this Pillow has no decoder for .heic files",
        "dogs/b.HEIF": "this Pillow has no decoder for .heif files",
        "dogs/c.avif": "this Pillow has no decoder for .avif files",
    }
    for number in range(2):
        (folder / f"dogs/{number}.heic").write_bytes(b"photo")
    with pytest.raises(RCDMError, match=r"5 of 9 pictures.*0\.heic: this Pillow has no decoder"):
        ImageFolder(folder)


def test_class_folders_become_labels(folder: Path) -> None:
    source = ImageFolder(folder)
    assert source.label_names == ["cats", "dogs"] and source.labels == [0, 0, 1, 1]
    only_one = ImageFolder(folder / "dogs")
    assert only_one.names == ["deep/three.webp", "four.bmp"]
    assert only_one.labels is None and only_one.label_names == []
    picture(folder / "beside.png", 8)
    assert ImageFolder(folder).labels is None


def test_a_single_subfolder_is_no_class(tmp_path: Path) -> None:
    picture(tmp_path / "images/one.png", 0)
    picture(tmp_path / "images/two.png", 1)
    assert ImageFolder(tmp_path).labels is None


def test_reads_pictures_at_any_size_by_its_fit(folder: Path) -> None:
    crop, pad = ImageFolder(folder), ImageFolder(folder, fit="pad")
    assert crop.get(0, 9).shape == (3, 9, 9) and crop.get(0, 9).dtype == np.uint8
    assert (pad.get(0, 16)[:, :2] == 255).all() and not (crop.get(0, 16)[:, :2] == 255).all()
    np.testing.assert_array_equal(
        pad.get(0, 16)[:, 2:14], np.asarray(Image.open(folder / "cats/one.png")).transpose(2, 0, 1)
    )
    with pytest.raises(RCDMError, match="--fit"):
        ImageFolder(folder, fit="stretch")


# -- links and copies --------------------------------------------------------------------------------------------------


def test_links_and_copies_are_one_picture(folder: Path) -> None:
    original = folder / "dogs/four.bmp"
    (folder / "a_link.bmp").symlink_to(original)
    (folder / "dogs/z_copy.bmp").write_bytes(original.read_bytes())
    os.link(original, folder / "dogs/hard.bmp")
    (folder / "linked").symlink_to(folder / "dogs", target_is_directory=True)
    source = ImageFolder(folder)
    assert source.names == ["cats/one.png", "cats/two.JPG", "dogs/deep/three.webp", "dogs/four.bmp"]
    assert source.duplicates == 3 and source.describe()["duplicates"] == 3
    every = ImageFolder(folder, keep_duplicates=True)
    assert set(every.names) == {*source.names, "a_link.bmp", "dogs/z_copy.bmp", "dogs/hard.bmp"}
    assert len(every.ids) == 7 and set(every.ids) == set(source.ids)


def test_the_same_png_under_another_title_is_one_picture(folder: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "again")
    Image.open(folder / "cats/one.png").save(folder / "cats/retitled.png", pnginfo=info)
    assert ImageFolder(folder).duplicates == 1


def test_links_out_of_the_folder_are_followed(folder: Path, tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere/five.png", 5)
    (folder / "cats/out.png").symlink_to(picture(tmp_path / "six.png", 6))
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    assert {"cats/out.png", "more/five.png"} <= set(ImageFolder(folder).names)


def test_loops_end(folder: Path) -> None:
    (folder / "dogs/up").symlink_to(folder)
    (folder / "itself.png").symlink_to(folder / "itself.png")
    for keep in (False, True):
        source = ImageFolder(folder, keep_duplicates=keep)
        assert len(source) == 4 and source.skipped == [("itself.png", "it is a link to nothing")]


# -- unreadable files --------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_opened_are_skipped_with_a_reason(folder: Path) -> None:
    (folder / "cats/gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "cats/pipe.png")
    source = ImageFolder(folder)
    assert len(source) == 4
    assert dict(source.skipped) == {
        "cats/gone.png": "it is a link to nothing",
        "cats/pipe.png": "it is not a regular file",
    }
    assert source.describe()["skipped"] == 2


def test_unreadable_pictures_show_when_they_are_read(folder: Path) -> None:
    (folder / "cats/text.png").write_text("not a picture")
    source = ImageFolder(folder)
    assert source.skipped == [] and len(source) == 5
    index = source.names.index("cats/text.png")
    with pytest.raises(UnreadableImage) as caught:
        source.get(index, 8)

    def report() -> None:
        source.report_unreadable(index, caught.value.reason)

    threads = [threading.Thread(target=report) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.skipped == [("cats/text.png", "it is not an image that Pillow knows")]
    assert source.describe()["skipped"] == 1
    source.check_readable()
    for other in (0, 2, 3):
        source.report_unreadable(other, "damaged")
    with pytest.raises(RCDMError, match=r"4 of 5 pictures.*cats/text\.png: it is not an image"):
        source.check_readable()


def test_files_of_the_same_bytes_are_unreadable_each(folder: Path) -> None:
    """Such as downloads that failed: empty files, or one page of an error under many names."""
    for number in range(20):
        (folder / f"cats/empty{number}.png").touch()
    source = ImageFolder(folder)
    readable = len(source) - 1
    before = source.duplicates
    index = next(i for i, name in enumerate(source.names) if "empty" in name)
    for _ in range(2):  # which counts once
        source.report_unreadable(index, "it is empty")
    assert before - source.duplicates == 19
    assert sorted(source.skipped) == sorted((f"cats/empty{number}.png", "it is empty") for number in range(20))
    with pytest.raises(RCDMError, match=f"20 of {readable + 20} pictures"):
        source.check_readable()


def test_more_than_half_unreadable_is_an_error() -> None:
    check_readable_share(0, 0)
    check_readable_share(5, 10)
    with pytest.raises(RCDMError, match="6 of 10 pictures"):
        check_readable_share(6, 10)


def test_mostly_broken_links_is_an_error_at_once(folder: Path) -> None:
    for number in range(5):
        (folder / f"cats/{number}.png").symlink_to(folder / f"nowhere{number}")
    with pytest.raises(RCDMError, match="5 of 9 pictures"):
        ImageFolder(folder)


# -- folders that will not do ------------------------------------------------------------------------------------------


def test_missing_empty_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(RCDMError, match=r"missing.*does not exist"):
        ImageFolder(tmp_path / "missing")
    (tmp_path / "empty/below").mkdir(parents=True)
    (tmp_path / "empty/notes.txt").touch()
    with pytest.raises(RCDMError, match="empty holds no image files"):
        ImageFolder(tmp_path / "empty")
    with pytest.raises(RCDMError, match="it is a file"):
        ImageFolder(picture(tmp_path / "a.png", 0))


def test_no_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Permissions do not hold for root, under which tests may run.
    scandir = os.scandir

    def refusing(path: str | Path) -> object:
        if Path(path) == refused:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for refused in (folder, folder / "dogs"):
        with pytest.raises(RCDMError, match=f"{refused} cannot be read .Permission denied"):
            ImageFolder(folder)


def test_open_data_opens_folders(folder: Path) -> None:
    source = open_data(str(folder), fit="pad", keep_duplicates=True)
    assert isinstance(source, ImageFolder) and source.fit == "pad" and source.keep_duplicates
    description = source.describe()
    assert description["kind"] == "folder" and description["path"] == str(folder) and description["count"] == 4
    assert description["fingerprint"] == data_fingerprint(source.ids)


# -- the split ---------------------------------------------------------------------------------------------------------


def make_ids(count: int) -> list[str]:
    return [f"{number:064x}" for number in np.random.RandomState(0).permutation(count)]


def test_split_depends_on_the_set_of_ids_alone() -> None:
    ids = make_ids(200)
    training, held_out = split(ids, 30)
    assert len(held_out) == 30 and sorted(training + held_out) == list(range(200))
    assert training == sorted(training) and held_out == sorted(held_out)
    shuffled = [ids[index] for index in np.random.RandomState(1).permutation(200)]
    assert {shuffled[index] for index in split(shuffled, 30)[1]} == {ids[index] for index in held_out}
    # A smaller held-out part is inside the larger one, and a share counts like its number.
    assert set(split(ids, 10)[1]) < set(held_out) and split(ids, 0.15) == (training, held_out)
    assert split(ids, 0) == split(ids, 0.0) == (list(range(200)), [])
    # Not the order of the ids themselves, and no other split than it always was.
    assert [ids[index] for index in held_out] != sorted(ids)[:30]
    assert sorted(ids[index][-2:] for index in split(ids, 5)[1]) == RECORDED_SPLIT


RECORDED_SPLIT = ["2d", "66", "aa", "b6", "ba"]


def test_copies_never_lie_on_both_sides() -> None:
    ids = make_ids(50) * 2 + make_ids(50)[:10]
    training, held_out = split(ids, 12)
    assert not {ids[index] for index in training} & {ids[index] for index in held_out}
    assert len({ids[index] for index in held_out}) == 12


@pytest.mark.parametrize("held_out", [-1, 50, 51, 1.0, 1.5, -0.1, float("nan"), float("inf"), 0.999])
def test_split_refuses_to_leave_nothing(held_out: int | float) -> None:
    with pytest.raises(RCDMError, match="held-out"):
        split(make_ids(50), held_out)


def test_fingerprint_is_of_the_set() -> None:
    ids = make_ids(20)
    assert data_fingerprint(ids) == data_fingerprint(reversed(ids)) and len(data_fingerprint(ids)) == 64
    assert data_fingerprint(ids) != data_fingerprint(ids[1:]) != data_fingerprint([*ids, ids[0]])


# -- the memory of content ids -----------------------------------------------------------------------------------------


def test_unchanged_files_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_ids, "_SETTLED_NS", -1)  # what was just written counts as old
    read: list[str] = []

    def counting(path: Path) -> str:
        read.append(path.name)
        return content_hash(path)

    monkeypatch.setattr(known_ids, "content_hash", counting)
    first = ImageFolder(folder)
    assert sorted(read) == ["four.bmp", "one.png", "three.webp", "two.JPG"]
    read.clear()
    assert ImageFolder(folder).ids == first.ids and read == []
    picture(folder / "cats/one.png", 77)
    changed = ImageFolder(folder)
    assert read == ["one.png"] and changed.ids[0] != first.ids[0] and changed.ids[1:] == first.ids[1:]


def test_new_files_are_read_again_in_case_they_still_change(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCDM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known_ids, "_SETTLED_NS", 3600 * 10**9)
    ImageFolder(folder)
    assert list(cache_dir("content-ids").iterdir()) == []
    monkeypatch.setattr(known_ids, "_SETTLED_NS", -1)
    ids = ImageFolder(folder).ids
    (memory,) = cache_dir("content-ids").iterdir()
    assert sorted(entry[-1] for entry in json.loads(memory.read_text())["ids"]) == sorted(ids)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 99}', '{"version": 1, "ids": [[1, 2]]}'])
def test_a_damaged_memory_is_ignored(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(known_ids, "_SETTLED_NS", -1)
    ids = ImageFolder(folder).ids
    known_ids.KnownIds(folder)._path().write_text(text)
    assert ImageFolder(folder).ids == ids


def test_a_cache_that_cannot_be_written_does_not_matter(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RCDM_CACHE", str(tmp_path / "file"))
    assert len(ImageFolder(folder)) == 4
    with pytest.raises(RCDMError, match="RCDM_CACHE"):
        cache_dir("anything")


def test_without_a_home_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: Any) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("RCDM_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(RCDMError, match=r"no such home directory: set the environment variable RCDM_CACHE"):
        cache_dir("anything")
    monkeypatch.setattr(Path, "expanduser", nowhere)
    monkeypatch.setenv("RCDM_CACHE", "~nobody-here/x")
    with pytest.raises(RCDMError, match=r"folder ~nobody-here/x is nowhere"):
        cache_dir("anything")


def test_cache_dir_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCDM_CACHE", str(tmp_path / "here"))
    assert cache_dir("a", "b") == tmp_path / "here/a/b" and (tmp_path / "here/a/b").is_dir()
    monkeypatch.delenv("RCDM_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_dir() == tmp_path / ".cache/rcdm"
