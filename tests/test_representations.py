"""The pass over the images: what is cached, under which key, and what happens to files that cannot be read."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from training_fixtures import write_encoder, write_images

import rcdm_core as rcdm
from rcdm_core import atomic
from rcdm_core.atomic import replacing
from rcdm_core.data.folder import ImageFolder
from rcdm_core.data.shapes import Shapes
from rcdm_core.encoder import Encoder, Fingerprint, fingerprint
from rcdm_core.errors import RCDMError, UnreadableImage
from rcdm_core.progress import Reporter
from rcdm_core.provider_record import ProviderRecord
from rcdm_core.representations import checksums
from rcdm_core.representations.cached import cache_path
from rcdm_core.representations.rows import Rows, RowWriter
from rcdm_core.training.dataset import Dataset, prepare
from rcdm_core.training.pixels import PixelReader
from rcdm_core.training.representations import statistics

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    return rcdm.load_encoder(write_encoder(tmp_path / "e.py"), options={"image_size": 8})


def record(mark: Fingerprint, name: str = "test") -> ProviderRecord:
    return ProviderRecord(name, "backbone", mark.h.shape[1], 8, {}, None, mark.weights_digest, interpolation="bicubic")


def run_pass(source: Any, encoder: Encoder, cache: Path, **changes: Any) -> Dataset:
    mark = fingerprint(encoder)
    settings: dict[str, Any] = {
        "provider": record(mark),
        "fit": "crop",
        "image_size": 16,
        "flip": True,
        "cache": cache,
        "pixel_limit": 2**30,
        "device": torch.device("cpu"),
        "reporter": Reporter(),
    }
    return prepare(source, encoder, mark, **{**settings, **changes})


class Refuses(torch.nn.Module):
    """In the place of an encoder that must not be asked."""

    dim, image_size = 5, 8

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the encoder was run although everything is cached")


def test_rows_come_back_and_other_programs_can_read_them(tmp_path: Path) -> None:
    values = np.random.RandomState(0).randn(50, 2, 3).astype(np.float32)
    path = tmp_path / "rows.safetensors"
    with replacing(path) as temporary, RowWriter(temporary, "h", (2, 3), np.dtype(np.float32)) as writer:
        writer.append(values[:20])
        writer.append(values[20:])
        writer.finish({"note": np.arange(4, dtype=np.uint8)})
    rows = Rows(path)
    picks = np.array([3, 3, 49, 0])
    assert len(rows) == 50 and np.array_equal(rows[picks], values[picks])
    assert rows.beside("note").tolist() == [0, 1, 2, 3]
    with safe_open(str(path), framework="np") as stored:
        assert np.array_equal(stored.get_tensor("h"), values)
        assert stored.get_tensor("note").tolist() == [0, 1, 2, 3]


def test_a_truncated_row_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    with RowWriter(path, "h", (3,), np.dtype(np.float32)) as writer:
        writer.append(np.ones((9, 3), np.float32))
        writer.finish({})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        Rows(path)
    path.write_bytes(bytes(20))
    with pytest.raises(ValueError, match="not a safetensors file"):
        Rows(path)


def test_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    with RowWriter(tmp_path / "rows", "h", (3,), np.dtype(np.float32)) as writer, pytest.raises(ValueError, match="4"):
        writer.append(np.ones((9, 4), np.float32))


def test_damaged_caches_are_computed_again(tmp_path: Path, encoder: Encoder) -> None:
    first = run_pass(Shapes(10), encoder, tmp_path)
    rows = np.arange(10)
    assert first.pixels is not None
    expected = first.h[rows], first.pixels[rows]
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:5000])
    again = run_pass(Shapes(10), encoder, tmp_path)
    assert again.pixels is not None
    assert np.array_equal(again.h[rows], expected[0]) and np.array_equal(again.pixels[rows], expected[1])


def test_rows_hold_the_encoders_h_of_both_flips_in_the_order_of_content(tmp_path: Path, encoder: Encoder) -> None:
    source = ImageFolder(write_images(tmp_path / "images", 37))
    data = run_pass(source, encoder, tmp_path / "cache")
    assert [source.ids[i] for i in data.order] == sorted(source.ids)
    pixels = data.pixels
    assert pixels is not None
    for row, index in enumerate(data.order):
        image = torch.from_numpy(source.get(int(index), 8)).float()[None] / 255
        h = data.h[np.array([row])][0]
        assert np.allclose(h[0], encoder(image)[0], atol=1e-5)
        assert np.allclose(h[1], encoder(image.flip(-1))[0], atol=1e-5)
        assert np.array_equal(pixels[np.array([row])][0], source.get(int(index), 16))


def test_without_flips_there_is_one_h_an_image(tmp_path: Path, encoder: Encoder) -> None:
    data = run_pass(Shapes(10), encoder, tmp_path, flip=False)
    assert data.h.row_shape == (1, 5)


def test_the_second_time_nothing_is_computed_even_under_other_file_names(tmp_path: Path, encoder: Encoder) -> None:
    folder = write_images(tmp_path / "images", 12)
    first = run_pass(ImageFolder(folder), encoder, tmp_path / "cache")
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        shutil.copy(file, renamed / f"{number}.png")
    source = ImageFolder(renamed)
    mark = fingerprint(encoder)
    again = prepare(
        source, Refuses(), mark, provider=record(mark), fit="crop", image_size=16, flip=True,  # type: ignore[arg-type]
        cache=tmp_path / "cache", pixel_limit=2**30, device=torch.device("cpu"), reporter=Reporter(),
    )  # fmt: skip
    rows = np.arange(12)
    assert np.array_equal(first.h[rows], again.h[rows])


def test_same_weights_with_other_preprocessing_are_encoded_again(tmp_path: Path, encoder: Encoder) -> None:
    first = run_pass(Shapes(10), encoder, tmp_path)
    encoder.mean += 0.3
    second = run_pass(Shapes(10), encoder, tmp_path)
    assert first.h.path == second.h.path  # the weights, and so the name, are the same
    assert not np.allclose(first.h[np.arange(10)], second.h[np.arange(10)])


def test_data_encoder_options_and_flips_have_files_of_their_own(tmp_path: Path, encoder: Encoder) -> None:
    mark = fingerprint(encoder)
    variants = [("a", "e", True), ("b", "e", True), ("a", "f", True), ("a", "e", False)]
    paths = {cache_path(tmp_path, data, record(mark, key), mark, flip) for data, key, flip in variants}
    assert len(paths) == len(variants)


@pytest.mark.parametrize("damage", ["pixels", "other rows", "a name", "the end", "all"])
def test_pixels_that_are_not_what_was_written_are_made_again(tmp_path: Path, encoder: Encoder, damage: str) -> None:
    rows = np.arange(10)
    first = run_pass(Shapes(10), encoder, tmp_path)
    assert first.pixels is not None
    known = first.pixels[rows].copy()
    (path,) = tmp_path.glob("pixels-*.safetensors")
    whole = path.read_bytes()
    broken = {
        "pixels": whole.replace(known[3].tobytes(), bytes(known[3].nbytes)),
        "other rows": next(tmp_path.glob("h-*.safetensors")).read_bytes(),
        "a name": whole.replace(b"unreadable", b"unreadible"),
        "the end": whole[:-1] + b"~",
        "all": b"",
    }[damage]
    assert broken != whole
    path.write_bytes(broken)
    again = run_pass(Shapes(10), encoder, tmp_path)
    assert again.pixels is not None and np.array_equal(again.pixels[rows], known)


def test_unreadable_files_are_left_out_and_listed_every_time(tmp_path: Path, encoder: Encoder) -> None:
    folder = write_images(tmp_path / "images", 10)
    (folder / "text.png").write_text("this is no picture")
    whole = (folder / "004.png").read_bytes()
    (folder / "004.png").write_bytes(whole[: len(whole) // 2])
    for _ in range(2):  # computed, then from the cache
        source = ImageFolder(folder)
        data = run_pass(source, encoder, tmp_path / "cache")
        assert data.readable.sum() == 9
        assert sorted(name for name, _ in source.skipped) == ["004.png", "text.png"]
        assert all(reason for _, reason in source.skipped)


def test_a_picture_that_can_be_read_again_is_taken_back(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is shared: what a failing disk or a missing decoder left out once must not be left out for ever."""
    folder = write_images(tmp_path / "images", 10)
    plain = ImageFolder.get

    def failing(self: ImageFolder, index: int, size: int, interpolation: str = "bicubic") -> np.ndarray:
        if self.names[index] == "003.png":
            raise UnreadableImage("the disk failed")
        return plain(self, index, size)

    with monkeypatch.context() as patch:
        patch.setattr(ImageFolder, "get", failing)
        assert run_pass(ImageFolder(folder), encoder, tmp_path / "cache").readable.sum() == 9
    source = ImageFolder(folder)
    data = run_pass(source, encoder, tmp_path / "cache")
    assert data.readable.all() and source.skipped == []
    row = int(np.flatnonzero(data.order == source.names.index("003.png"))[0])
    image = torch.from_numpy(source.get(source.names.index("003.png"), 8)).float()[None] / 255
    assert np.allclose(data.h[np.array([row])][0, 0], encoder(image)[0], atol=1e-5)


def test_what_killed_passes_left_is_removed_and_what_others_write_is_not(tmp_path: Path, encoder: Encoder) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    machine = atomic._MACHINE
    dead = tmp_path / f".h-0.safetensors.{machine}.{ended.pid}.tmp"
    kept = {
        f".h-1.safetensors.{machine}.{os.getppid()}.tmp",  # of a process that is running
        f".h-2.safetensors.elsewhere.{ended.pid}.tmp",  # of another machine, of which nothing is known
        f"h-3.safetensors.{machine}.{ended.pid}.tmp",  # of the user
    }
    for name in (dead.name, *kept):
        (tmp_path / name).touch()
    run_pass(Shapes(4), encoder, tmp_path)
    assert not dead.exists() and kept < {file.name for file in tmp_path.iterdir()}


def test_a_full_disk_names_the_option_of_the_cache(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RCDMError, match=r"disk is full.*--cache or RCDM_CACHE"):
        run_pass(Shapes(4), encoder, tmp_path / "cache")
    (tmp_path / "file").touch()
    with pytest.raises(RCDMError, match="--cache or RCDM_CACHE"):
        run_pass(Shapes(4), encoder, tmp_path / "file" / "cache")


def test_a_folder_that_is_mostly_unreadable_is_an_error_and_nothing_is_cached(tmp_path: Path, encoder: Encoder) -> None:
    folder = write_images(tmp_path / "images", 2)
    for number in range(3):
        (folder / f"bad{number}.png").write_text(f"no picture {number}")
    with pytest.raises(RCDMError, match="3 of 5"):
        run_pass(ImageFolder(folder), encoder, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_h_that_is_not_finite_is_an_error(tmp_path: Path, encoder: Encoder) -> None:
    encoder.network[2].weight.data[0, 0] = float("inf")  # type: ignore[index,union-attr,operator]
    with pytest.raises(RCDMError, match="not finite"):
        run_pass(Shapes(4), encoder, tmp_path)


def test_pixels_above_the_limit_are_decoded_when_needed_and_are_the_same(tmp_path: Path, encoder: Encoder) -> None:
    source = ImageFolder(write_images(tmp_path / "images", 9))
    cached = run_pass(source, encoder, tmp_path / "cache")
    lazy = run_pass(source, encoder, tmp_path / "other", pixel_limit=9 * 3 * 16 * 16 - 1)
    assert cached.pixels is not None and lazy.pixels is None
    rows = np.array([8, 0, 3, 3])
    readers = [PixelReader(data, np.arange(9), threads=2) for data in (cached, lazy)]
    (fast, fast_rows), (slow, slow_rows) = (reader(rows) for reader in readers)
    for reader in readers:
        reader.close()
    assert np.array_equal(fast, slow) and np.array_equal(fast_rows, rows) and np.array_equal(slow_rows, rows)


def test_a_file_that_goes_away_during_the_training_is_replaced_by_a_training_image(
    tmp_path: Path, encoder: Encoder
) -> None:
    source = ImageFolder(write_images(tmp_path / "images", 6))
    data = run_pass(source, encoder, tmp_path / "cache", pixel_limit=0)
    reader = PixelReader(data, np.array([0, 1, 4]), threads=2)
    source.path(int(data.order[1])).unlink()
    pixels, rows = reader(np.array([1, 0]))
    assert rows.tolist() == [4, 0]  # neither 2 nor 3, which are held out
    assert np.array_equal(pixels[0], source.get(int(data.order[4]), 16))
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(RCDMError, match="can no longer be read"):
        reader(np.array([0]))
    reader.close()


def test_statistics_are_those_of_numpy_and_dead_dimensions_stay_quiet(tmp_path: Path) -> None:
    scales = [1, 100, 1e4, 1e-3, 0, 0]  # the fourth is small beside the others, and informative all the same
    values = np.random.RandomState(0).randn(2500, 2, 6).astype(np.float32) * scales + [0, 5, -3, 1, 7, 0]
    values[..., 4] += 1e-6 * np.random.RandomState(1).randn(2500, 2)  # constant but for rounding
    path = tmp_path / "h.safetensors"
    with RowWriter(path, "h", (2, 6), np.dtype(np.float32)) as writer:
        writer.append(values)
        writer.finish({})
    rows = np.random.RandomState(2).permutation(2500)[:2100]
    mean, std = statistics(Rows(path), rows)
    used = values[rows].astype(np.float32).reshape(-1, 6).astype(np.float64)
    assert np.allclose(mean, used.mean(0), rtol=1e-5, atol=1e-4)
    assert np.allclose(std[:4], used.std(0)[:4], rtol=1e-5)
    assert std[4:].tolist() == [1, 1]


def test_memory_does_not_grow_with_the_number_of_images(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 2**14)  # which is held at a time, and larger than these few pictures
    peaks = []
    for count in (100, 700):
        source = Shapes(count)
        assert source.ids  # what the source itself keeps is not counted
        tracemalloc.start()
        data = run_pass(source, encoder, tmp_path)
        statistics(data.h, np.arange(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    per_image = (peaks[1] - peaks[0]) / 600
    assert per_image < 400, f"{per_image:.0f} bytes an image; one picture of 16 x 16 alone has 768"


def test_h_is_of_pictures_resized_as_the_encoder_asks(tmp_path: Path) -> None:
    options = {"image_size": 8, "interpolation": "nearest"}
    nearest = rcdm.load_encoder(write_encoder(tmp_path / "e.py"), options=options)
    source = ImageFolder(write_images(tmp_path / "images", 5, size=(40, 40)))
    data = run_pass(source, nearest, tmp_path / "cache")
    pixels = np.stack([source.get(int(i), 8, "nearest") for i in data.order])
    with torch.no_grad():
        expected = nearest(torch.from_numpy(pixels).float() / 255).numpy()
    assert np.allclose(data.h[np.arange(5)][:, 0], expected, atol=1e-5)
