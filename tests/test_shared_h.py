"""h of a picture is computed once: a training's is taken from its cache, and the probes of `all` share theirs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_rcdm import ExactRCDM
from PIL import Image
from training_fixtures import Make, write_encoder, write_images

import rcdm_core as rcdm
from rcdm_core import RCDM
from rcdm_core.data.folder import ImageFolder
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes import base
from rcdm_core.probes.encoding import h_of
from rcdm_core.probes.keeping import FOLDER
from rcdm_core.probes.pictures import from_source
from rcdm_core.progress import Reporter
from rcdm_core.training import train


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of `RCDM.encode` was given."""
    sizes: list[int] = []
    plain = RCDM.encode

    def counting(self: RCDM, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(RCDM, "encode", counting)
    return sizes


def look(run: Path, folder: Path) -> np.ndarray:
    """h of the folder's pictures, as a probe of a model that has just been loaded asks for it."""
    model = rcdm.load(run)
    source = ImageFolder(folder)
    return h_of(model, [from_source(source, index) for index in range(len(source))])


@pytest.mark.parametrize("flip", [True, False])
def test_pictures_of_the_training_are_not_encoded_again(
    arguments: Make, tmp_path: Path, encoded: list[int], flip: bool
) -> None:
    run, images, cache = train(arguments(flip=flip)), tmp_path / "images", tmp_path / "cache"
    known = look(run, images)
    assert encoded == [] and known.shape == (40, 5)

    # one that the training has not seen is encoded, and it alone
    shutil.copytree(images, tmp_path / "more")
    write_images(tmp_path / "other", 1, seed=9)
    shutil.copy(tmp_path / "other" / "000.png", tmp_path / "more" / "new.png")
    np.testing.assert_array_equal(look(run, tmp_path / "more")[:40], known)
    assert encoded == [1]

    cache.rename(tmp_path / "moved")
    np.testing.assert_allclose(look(run, images), known, atol=1e-5)
    assert encoded == [1, 32, 8]


def test_a_cache_that_is_broken_or_of_another_encoder_is_not_read(
    arguments: Make, tmp_path: Path, encoded: list[int]
) -> None:
    run = train(arguments())
    (file,) = (tmp_path / "cache").glob("h-*.safetensors")
    whole, known = file.read_bytes(), look(run, tmp_path / "images")
    of_h = known[0].tobytes()
    assert whole.count(of_h) == 1
    for broken in (whole.replace(of_h, (known[0] + 1).tobytes()), whole[:-9], b"nothing"):
        encoded.clear()
        file.write_bytes(broken)
        np.testing.assert_allclose(look(run, tmp_path / "images"), known, atol=1e-5)
        assert encoded == [32, 8]
    # the same options and data by another encoder, whose file has come into this one's place
    encoded.clear()
    other = train(arguments(out=tmp_path / "second", cache=tmp_path / "elsewhere",
                            provider=write_encoder(tmp_path / "another.py", seed=1)))  # fmt: skip
    shutil.copy(next((tmp_path / "elsewhere").glob("h-*.safetensors")), file)
    np.testing.assert_allclose(look(run, tmp_path / "images"), known, atol=1e-5)
    assert encoded == [32, 8] and not np.allclose(look(other, tmp_path / "images"), known, atol=0.1)


def test_a_cache_that_may_not_be_entered_is_not_there(
    arguments: Make, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, exists = train(arguments()), Path.exists

    def refusing(self: Path, **more: Any) -> bool:
        if self.parent == tmp_path / "cache":
            raise PermissionError(13, "Permission denied", str(self))
        return exists(self, **more)

    monkeypatch.setattr(Path, "exists", refusing)
    assert look(run, tmp_path / "images").shape == (40, 5) and encoded == [32, 8]


def test_copies_that_were_trained_on_are_no_change(arguments: Make, tmp_path: Path) -> None:
    data = write_images(tmp_path / "copied", 20)
    for name in ("000", "001", "002"):
        (data / f"copy-{name}.png").write_bytes((data / f"{name}.png").read_bytes())
    run = train(arguments(data=str(data), keep_duplicates=True, steps=1, conditioning="embedding"))
    settings: dict[str, Any] = {"models": [run], "samples": 1, "steps": 1, "count": 1, "pool": 2, "out": tmp_path / "a"}
    for given in (None, data):
        notes = rcdm.run_probe("samples", data=given, **settings).notes
        assert not any("is not what it was" in note for note in notes)


def test_a_folder_that_has_changed_since_is_told(arguments: Make, tmp_path: Path) -> None:
    run, images = train(arguments(held_out=8)), tmp_path / "images"
    settings: dict[str, Any] = {"models": [run], "data": images, "samples": 1, "steps": 1, "count": 2}
    assert not any("is not what it was" in n for n in rcdm.run_probe("samples", out=tmp_path / "a", **settings).notes)
    for file in sorted(images.iterdir())[:10]:
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    notes = rcdm.run_probe("samples", out=tmp_path / "b", **settings).notes
    (note,) = [one for one in notes if "is not what it was when run was trained" in one]
    assert "10 of its 40 pictures are new and count as held out" in note and "and 10 of then are gone" in note


def test_the_encoder_is_still_checked(arguments: Make, tmp_path: Path) -> None:
    run = train(arguments())
    write_encoder(tmp_path / "encoder.py", seed=2)
    with pytest.raises(RCDMError, match="trained for another encoder"):
        look(run, tmp_path / "images")


def test_the_probes_of_all_encode_a_picture_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_bundle_digest", lambda folder: "digest" if folder is not None else None)
    data, only = Shapes(80, seed=7), ("linear-probe", "confidence", "class-mean")

    def count(name: str, out: Path, **more: Any) -> int:
        """Pictures encoded that are larger than samples are: the originals."""
        model, seen = ExactRCDM("shapes-all", trained=data.ids[:40]), []
        model.path = tmp_path
        model.encoder.image_size = 48  # originals can be told from samples, whose side is 32
        plain = model.encode

        def encode(images: torch.Tensor) -> torch.Tensor:
            if images.shape[-1] == 48:
                seen.append(len(images))
            return plain(images)

        model.encode = encode  # type: ignore[method-assign]
        rcdm.run_probe(name, models=[model], data=data, out=out, samples=1, count=4, **more)
        return sum(seen)

    class Stopped(Reporter):
        def log(self, message: str) -> None:
            if "confidence:" in message:
                raise KeyboardInterrupt

    alone = {name: count(name, tmp_path / name) for name in only}
    together = count("all", tmp_path / "all", only=",".join(only))
    assert max(alone.values()) <= together <= len(data) < sum(alone.values())
    assert not list(tmp_path.rglob(FOLDER))  # nothing of it is left

    # one that goes on takes with it what probes have left that are done
    with pytest.raises(KeyboardInterrupt):
        count("all", tmp_path / "stopped", only="class-mean,confidence", progress=Stopped())
    assert list((tmp_path / "stopped" / FOLDER).glob("h-*"))
    count("all", tmp_path / "stopped", only="class-mean,confidence")
    assert not list(tmp_path.rglob(FOLDER))
