"""A probe that was stopped goes on where it was, computes nothing twice, and ends on the same bytes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from exact_rcdm import ExactRCDM

import rcdm_core
from rcdm_core.atomic import make_folder
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.metrics import fidelity
from rcdm_core.metrics.attack import Attack
from rcdm_core.probes import base, encoding, inversion, keeping, pictures
from rcdm_core.progress import Reporter

DATA = Shapes(120, seed=7)
# name: (parameters, calls of the model's sample)
PROBES: dict[str, tuple[dict[str, Any], int]] = {
    "samples": ({"count": 10, "samples": 32, "pool": 20}, 5),
    "variance": ({"count": 6, "samples": 32, "pool": 20}, 3),
    "retention": ({"count": 70, "samples": 2, "pool": 0, "judge": "none", "rows": 1}, 3),
    "faithfulness": ({"count": 70, "samples": 2, "rows": 2}, 4),
    "invariance": ({"count": 3, "samples": 2, "pool": 0, "transform": "grayscale"}, 3),
    "quality": ({"count": 130, "inception": "no", "shown": 2, "data": Shapes(300, seed=7)}, 3),
    "interpolation": ({"count": 2, "samples": 2, "points": 3}, 4),
}


class Counting:
    """Counts what the model samples, and stops the run at one of the times."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls, self.stop_at = 0, stop_at

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_bundle_digest", lambda folder: "digest" if folder is not None else None)


def run(name: str, out: Path, counting: Counting, **changes: Any) -> dict[str, bytes]:
    """The files of a run, without what names the time and the folder."""
    model = ExactRCDM("shapes-no-color")
    model.path, model.before_sampling = out.parent, counting
    rcdm_core.run_probe(name, models=[model], out=out, **{"data": DATA, **PROBES.get(name, ({}, 0))[0], **changes})
    found = {path.name: path.read_bytes() for path in out.glob("*.*") if path.is_file() and path.suffix != ".html"}
    result = json.loads(found["result.json"])
    found["result.json"] = json.dumps({k: v for k, v in result.items() if k not in ("started", "command")}).encode()
    return found


@pytest.mark.parametrize("name", PROBES)
def test_a_stopped_run_goes_on_and_ends_on_the_same_bytes(name: str, tmp_path: Path) -> None:
    calls = PROBES[name][1]
    whole = Counting()
    expected = run(name, tmp_path / "whole", whole)
    assert whole.calls == calls
    with pytest.raises(KeyboardInterrupt):
        run(name, tmp_path / "out", Counting(stop_at=calls - 1))
    kept = [np.load(path) for path in (tmp_path / "out" / keeping.FOLDER).iterdir()]
    assert sum("samples" in one.files for one in kept) == calls - 2
    rest = Counting()
    assert run(name, tmp_path / "out", rest) == expected
    assert rest.calls == 2
    assert not (tmp_path / "out" / keeping.FOLDER).exists()


ENCODINGS: dict[str, dict[str, Any]] = {  # of more than one block where that is where the time goes
    "faithfulness": {"count": 4, "samples": 2, "rows": 0},
    "distances": {"count": 3, "samples": 2, "pool": 10},
    "invariance": {"count": 3, "samples": 2, "pool": 10, "transform": "grayscale,blur"},
    "neighbours": {"count": 3, "samples": 1, "pool": 40, "training": 40},
    "unconditional": {"count": 3, "training": 40, "pool": 40},
    "linear-probe": {"test": 40, "count": 4, "samples": 1, "folds": 2},
    "quality": {"count": 70, "inception": "weights.pth", "shown": 1, "data": Shapes(300, seed=7)},
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_nothing_is_encoded_twice(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at the last time that an encoder, or Inception, is asked: that alone is left to do."""
    plain, counting = ExactRCDM.encode, Counting()

    def encode(self: ExactRCDM, images: torch.Tensor) -> torch.Tensor:
        counting()
        return plain(self, images)

    class Glance:
        def __init__(self, *_: Any) -> None:
            pass

        def look(self, pictures: np.ndarray) -> fidelity.Seen:
            counting()
            flat = pictures[:, :, ::8, ::8].reshape(len(pictures), -1).astype(np.float32)
            return fidelity.Seen(flat, flat)

    (tmp_path / "weights.pth").write_bytes(b"-")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ExactRCDM, "encode", encode)
    monkeypatch.setattr(fidelity, "Inception", Glance)
    monkeypatch.setattr(ExactRCDM, "trained_on", lambda self, content_id: int(content_id[:2], 16) < 96)

    def once(out: str, stop_at: int | None = None) -> dict[str, bytes]:
        counting.calls, counting.stop_at = 0, stop_at
        return run(name, tmp_path / out, Counting(), **ENCODINGS[name])

    expected = once("whole")
    calls = counting.calls
    assert calls > 2
    with pytest.raises(KeyboardInterrupt):
        once("out", calls)
    assert once("out") == expected and counting.calls == 1
    assert not (tmp_path / "out" / keeping.FOLDER).exists()


def test_encodings_are_known_by_pictures_encoder_and_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = ExactRCDM("shapes-no-color")
    other: Any = ExactRCDM("shapes-no-size")
    chosen = pictures.held_out(DATA, [], count=4)
    read: list[Any] = []
    plain = encoding.read_arrays
    monkeypatch.setattr(encoding, "read_arrays", lambda *given: (read.append(given[1:]), plain(*given))[1])
    context: Any = SimpleNamespace(out=tmp_path, precision="float32", progress=Reporter(), kept=set())
    context.shared, context.places, context.known = None, {}, {}

    def reads(model: Any, chosen: Any, digest: str = "digest") -> int:
        monkeypatch.setattr(base, "_bundle_digest", lambda folder: digest)
        model.path = tmp_path
        before = len(read)
        np.testing.assert_array_equal(encoding.h_of(model, chosen, context), encoding.h_of(model, chosen))
        return len(read) - before - 1

    assert reads(model, chosen) == 1 and reads(model, chosen) == 0
    assert reads(model, chosen, "another generator") == 0
    assert reads(other, chosen) == 1
    assert reads(model, chosen[:3]) == 0  # h is kept picture by picture
    monkeypatch.setattr(encoding, "fit_of", lambda model: "pad")
    assert reads(model, chosen) == 1
    monkeypatch.setattr(model.encoder, "interpolation", "bilinear")
    assert reads(model, chosen) == 1


def test_other_settings_and_broken_files_are_drawn_anew(tmp_path: Path) -> None:
    name, out = "samples", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(name, out, Counting(stop_at=4))
    for changes in ({"seed": 1}, {"steps": 3}, {"sampler": "ddim"}, {"samples": 33}):
        with pytest.raises(KeyboardInterrupt):
            run(name, out, Counting(stop_at=1), **changes)
    broken = next(path for path in (out / keeping.FOLDER).iterdir() if "samples" in np.load(path).files)
    broken.write_bytes(b"PK broken")
    rest = Counting()
    assert run(name, out, rest) == run(name, tmp_path / "whole", Counting())
    assert rest.calls == 3  # two that were missing, and the broken one


def test_of_a_model_in_memory_nothing_is_kept(tmp_path: Path) -> None:
    model = ExactRCDM("shapes-no-color")
    model.before_sampling = Counting(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        rcdm_core.run_probe("samples", models=[model], data=DATA, out=tmp_path, **PROBES["samples"][0])
    assert not (tmp_path / keeping.FOLDER).exists()


FEW = {"count": 4, "samples": 32, "pool": 0}


def test_only_files_of_the_run_are_removed(tmp_path: Path) -> None:
    """What another run that was stopped has kept stays, and it goes on from there."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run("samples", out, Counting(stop_at=2), seed=1, **FEW)
    # what does not depend on the seed serves, and goes with, the run that is done first
    stopped = {path for path in (out / keeping.FOLDER).iterdir() if "samples" in np.load(path).files}
    (out / keeping.FOLDER / "notes.txt").write_text("by hand")
    whole, rest = Counting(), Counting()
    run("samples", out, whole, **FEW)
    assert stopped == {path for path in (out / keeping.FOLDER).iterdir() if path.suffix == ".npz"}
    run("samples", out, rest, seed=1, **FEW)
    assert rest.calls == whole.calls - 1
    assert [path.name for path in (out / keeping.FOLDER).iterdir()] == ["notes.txt"]


def test_a_folder_that_another_run_removes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter(range(100))

    def removed(path: Path) -> Path:
        make_folder(path)
        if path.name == keeping.FOLDER and next(made) < 2:
            path.rmdir()
        return path

    monkeypatch.setattr(keeping, "make_folder", removed)
    with pytest.raises(KeyboardInterrupt):
        run("samples", tmp_path, Counting(stop_at=2), **FEW)
    assert list((tmp_path / keeping.FOLDER).glob("*.npz"))


def test_one_probe_at_a_time_in_a_folder(tmp_path: Path) -> None:
    refusal = "out is being written by another probe; wait for it, or choose another --out"
    with keeping.alone(make_folder(tmp_path / "out")), pytest.raises(RCDMError, match=refusal):
        run("samples", tmp_path / "out", Counting(), **FEW)
    assert not list((tmp_path / "out").iterdir())
    run("samples", tmp_path / "out", Counting(), **FEW)
    assert not (tmp_path / "out" / keeping.LOCK).exists()


class Clock:
    """Stands still but for what a descent is said to take: so many seconds as its picture's id begins with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize("stop_at", [2, 3])  # the first picture's second descent, the second picture's first
def test_finished_descents_are_kept_with_their_seconds(
    stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, counting = Clock(monkeypatch), Counting()

    def counted(descend: Any) -> Any:
        def timed(encoder: Any, h: Any, descent: inversion.Descent) -> Any:
            counting()
            clock.now += int(descent.stream[:3], 16)
            return descend(encoder, h, descent)

        return timed

    for name in ("match_pixels", "deep_image_prior"):
        monkeypatch.setattr(inversion, name, counted(getattr(inversion, name)))
    settings: dict[str, Any] = {"count": 2, "samples": 1, "pool": 4, "iterations": 3}

    def descents(out: str, stop_at: int | None = None, **changes: Any) -> dict[str, bytes]:
        counting.calls, counting.stop_at = 0, stop_at
        return run("baselines", tmp_path / out, Counting(), **{**settings, **changes})

    expected = descents("whole")
    assert counting.calls == 4
    with pytest.raises(KeyboardInterrupt):
        descents("out", stop_at)
    for changes in ({"rate": 0.2, "prior_rate": 0.02}, {"tv": 1.0}, {"iterations": 2}, {"seed": 1}, {"pool": 5}):
        with pytest.raises(KeyboardInterrupt):  # which the kept ones are not good for
            descents("out", 1, **changes)
    assert descents("out") == expected and counting.calls == 4 - (stop_at - 1)
    images = json.loads(expected["result.json"])["images"]
    for picture in images:
        for method in ("pixels", "prior"):
            seconds = picture["models"]["shapes-no-color"][method]["seconds"]
            assert seconds == int(picture["content_id"][:3], 16)


def test_finished_attacks_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, counting = Attack.__call__, Counting()

    def counted(self: Attack, *arguments: Any) -> Any:
        counting()
        return plain(self, *arguments)

    monkeypatch.setattr(Attack, "__call__", counted)
    settings: dict[str, Any] = {"attack": "pgd", "attack_steps": 2, "epsilons": "0,0.1", "attacked": 40, "count": 2}
    settings |= {"samples": 1, "rows": 1, "fit": 60, "test": 40}

    def attacks(out: str, stop_at: int | None = None, **changes: Any) -> dict[str, bytes]:
        counting.calls, counting.stop_at = 0, stop_at
        return run("adversarial", tmp_path / out, Counting(), **{**settings, **changes})

    expected = attacks("whole")
    assert counting.calls == 2  # of 32 pictures and of 8
    with pytest.raises(KeyboardInterrupt):
        attacks("out", 2)
    for changes in ({"epsilons": "0,0.2"}, {"target": "away"}, {"attack_steps": 3}, {"fit": 30}):
        with pytest.raises(KeyboardInterrupt):
            attacks("out", 1, **changes)
    assert attacks("out") == expected and counting.calls == 1
