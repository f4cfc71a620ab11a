"""A probe that was stopped goes on where it was, computes nothing twice, and ends on the same bytes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from exact_rcdm import ExactRCDM

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.metrics.attack import Attack
from rcdm_core.probes import base, inversion, keeping

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
    found = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".html"}
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
    kept = list((tmp_path / "out" / keeping.FOLDER).iterdir())
    assert len(kept) == calls - 2
    rest = Counting()
    assert run(name, tmp_path / "out", rest) == expected
    assert rest.calls == 2
    assert not (tmp_path / "out" / keeping.FOLDER).exists()


def test_other_settings_and_broken_files_are_drawn_anew(tmp_path: Path) -> None:
    name, out = "samples", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(name, out, Counting(stop_at=4))
    for changes in ({"seed": 1}, {"steps": 3}, {"sampler": "ddim"}, {"samples": 33}):
        with pytest.raises(KeyboardInterrupt):
            run(name, out, Counting(stop_at=1), **changes)
    broken, *_ = (out / keeping.FOLDER).iterdir()
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


def test_only_own_files_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    others = [out / "drawn" / "by-hand.npz", out / keeping.FOLDER / "notes.txt"]
    own = [out / keeping.FOLDER / f"{'0a' * 16}.npz", out / keeping.FOLDER / f".{'0a' * 16}.npz.machine.1.tmp"]
    for path in (*others, *own):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    keeping.forget(out)
    assert all(path.exists() for path in others) and not any(path.exists() for path in own)
    others[1].unlink()
    keeping.forget(out)
    assert not (out / keeping.FOLDER).exists() and others[0].exists()


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
    assert not (tmp_path / "out" / keeping.FOLDER).exists()


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
    assert not (tmp_path / "out" / keeping.FOLDER).exists()
