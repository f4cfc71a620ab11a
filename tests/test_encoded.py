"""Files of representations where an encoder would be: trainings, samples and probes that take h from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runner import error_of, rcdm
from training_fixtures import Recorder, write_encoder, write_images

from rcdm_core import RCDMError, Representations, TrainConfig, encode, load, train
from rcdm_core.bundle import read
from rcdm_core.data.folder import ImageFolder
from rcdm_core.training import dataset

pytestmark = pytest.mark.usefixtures("one_thread")


def run(provider: str, images: Path, out: Path, **changes: Any) -> Representations:
    return encode(provider, images, out, **{"options": {"image_size": 8}, "device": "cpu", **changes})


def test_a_training_from_a_file_is_the_one_without_it(
    arguments: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = arguments()
    file = run(config.provider, Path(str(config.data)), tmp_path / "h.safetensors", flip=True)
    without = train(config)
    def refuse(*_: object) -> None:
        raise AssertionError("h was computed although it is in the file")

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "BatchEncoder", refuse)
        given = train(arguments(out=tmp_path / "given", representations=file.path, cache=tmp_path / "fresh"))
    (_, before), (record, after) = read(without), read(given)
    assert record.representations is not None and record.representations["path"] == str(file.path)
    for name, value in before.named().items():
        assert torch.equal(value, after.named()[name]), name
    resumed = arguments(out=tmp_path / "given", cache=tmp_path / "fresh", steps=8, resume=True)
    assert read(train(resumed))[0].step == 8  # the file is not needed any more


def test_a_file_that_does_not_fit_a_training_is_refused(arguments: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = arguments()
    images = Path(str(config.data))
    file = run(config.provider, images, tmp_path / "h.safetensors").path
    with pytest.raises(RCDMError, match="encode them with --flip, or train with --no-flip"):
        train(arguments(representations=file))
    with pytest.raises(RCDMError, match=r"encoded with --fit crop, but --provider .* has pad"):
        train(arguments(representations=file, flip=False, fit="pad"))
    other = write_encoder(tmp_path / "other.py", seed=1)
    with pytest.raises(RCDMError, match="made by another encoder"):
        train(arguments(representations=file, flip=False, provider=other))
    write_images(images, 41, seed=5)
    with pytest.raises(RCDMError, match=r"41 of 41 pictures are not in .*h\.safetensors, such as 0"):
        train(arguments(representations=file, flip=False))
    with pytest.raises(RCDMError, match="There is no"):
        train(arguments(representations=tmp_path / "none.safetensors"))


def test_from_the_command_line_to_samples(arguments: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = arguments(flip=False)
    images, out = Path(str(config.data)), tmp_path / "h.safetensors"
    common = ("--provider", config.provider, "--provider-option", "image_size=8", "--device", "cpu")
    result = rcdm("encode", *common, "--data", images, "--out", out)
    assert result.exit_code == 0 and "40 representations with 5 numbers each" in result.output
    assert "is a folder" in error_of("encode", *common, "--data", images, "--out", tmp_path)
    train(config)
    (tmp_path / "encoder.py").unlink()  # what the file holds needs no encoder
    sample = ("sample", "--model", tmp_path / "run", "-n", "1", "--sampling-steps", "1", "--device", "cpu")
    given = (*sample, "--image", images / "003.png", "--out", tmp_path / "drawn")
    assert rcdm(*given, "--representations", out).exit_code == 0
    assert "cannot be loaded" in error_of(*given)
    write_images(tmp_path / "new", 1, seed=9)
    missing = (*sample, "--image", tmp_path / "new" / "000.png", "--out", tmp_path / "new-drawn")
    assert "cannot be loaded" in error_of(*missing, "--representations", out)


def test_probes_take_the_gallery_from_the_file(arguments: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = arguments(flip=False, held_out=20)
    images, out = Path(str(config.data)), tmp_path / "h.safetensors"
    file = run(config.provider, images, out)
    model = train(config)
    faith = ("evaluate", "--model", model, "--data", images, "--sampling-steps", "1", "--precision", "float32")
    for name, more in (("with", ("--representations", out)), ("without", ())):
        result = rcdm(*faith, "--out", tmp_path / name, *more)
        assert result.exit_code == 0, result.output
    found = {name: json.loads((tmp_path / name / "result.json").read_text()) for name in ("with", "without")}
    assert found["with"]["images"] == found["without"]["images"]
    assert found["with"]["models"][0]["representations"]["path"] == str(out)
    assert f"--representations {out}" in found["with"]["command"]
    loaded = load(model)
    loaded.use_representations(file)
    source = ImageFolder(images)
    assert np.allclose(loaded.encode_files(source), load(model).encode_files(source), atol=1e-6)
    other = run(write_encoder(tmp_path / "other.py", seed=1), images, tmp_path / "other.safetensors")
    assert "made by another encoder" in error_of(*faith, "--out", tmp_path / "o", "--representations", other.path)


def test_a_training_from_bf16_says_so_or_refuses(
    arguments: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = arguments(flip=False)
    file = run(config.provider, Path(str(config.data)), tmp_path / "h.safetensors", precision="bf16")
    assert file.about.deviation > 0
    given = arguments(flip=False, representations=file.path)
    recorder = Recorder()
    record = read(train(given, progress=recorder))[0]
    assert any("computed in bf16" in line for line in recorder.lines)
    assert record.representations is not None and record.representations["precision"] == "bf16"
    with pytest.raises(RCDMError, match="representations in bf16, and these are in float32"):
        train(arguments(flip=False, resume=True, steps=8))
    monkeypatch.setattr("rcdm_core.training.representations.MOST_DEVIATION", file.about.deviation / 2)
    with pytest.raises(RCDMError, match="encode with --precision float32"):
        train(arguments(flip=False, representations=file.path, out=tmp_path / "other"))


def test_a_damaged_cache_is_computed_again(arguments: Callable[..., TrainConfig]) -> None:
    train(arguments())
    (cached,) = Path(str(arguments().cache)).glob("h-*.safetensors")
    content = cached.read_bytes()
    cached.write_bytes(content[:4100] + bytes([content[4100] ^ 1]) + content[4101:])
    train(arguments(resume=True, steps=7))
    assert Representations(cached).h().tobytes() == content[4096 : 4096 + Representations(cached).h().nbytes]
