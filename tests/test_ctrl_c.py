"""Ctrl-C, and Ctrl-C again while the first one is being dealt with: what was done stays, and nothing is half there."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runner import rcdm
from exact_rcdm import ExactRCDM
from test_resume import results
from training_fixtures import Make, Recorder

import rcdm_core
from rcdm_core import bundle
from rcdm_core.data.shapes import Shapes
from rcdm_core.probes import base, keeping
from rcdm_core.training import state, train

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = Shapes(40, seed=7)


_unbroken: dict[str, bytes] = {}


@pytest.fixture
def unbroken(arguments: Make, tmp_path: Path) -> dict[str, bytes]:
    """The results of six steps without a break, computed once."""
    if not _unbroken:
        _unbroken.update(results(train(arguments(steps=6, out=tmp_path / "unbroken"))))
    return _unbroken


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def after(number: int, plain: Callable[..., Any]) -> Callable[..., Any]:
    """`plain`, with Ctrl-C in the middle of its `number`-th call."""
    calls = iter(range(1, 10_000))

    def interrupted(*given: Any, **named: Any) -> Any:
        if next(calls) == number:
            ctrl_c()
        return plain(*given, **named)

    return interrupted


def test_the_first_one_is_answered_at_once(arguments: Make) -> None:
    recorder = Recorder(lambda done: ctrl_c() if done == 3 else None)
    run = train(arguments(steps=6), recorder)
    told = [line for line in recorder.lines if line.startswith("Stopp")]
    assert told == [
        "Stopping after this step, and saving; a second Ctrl-C ends at once, with nothing saved.",
        "Stopped and saved after step 3; the same command with --resume goes on.",
    ]
    again = Recorder(lambda done: ctrl_c() if done == 1 else None)
    train(arguments(steps=6, resume=True), again)
    assert any(line.endswith("ends at once, with what was saved after step 3.") for line in again.lines)
    assert bundle.read(run)[0].step == 4


def test_a_second_one_before_anything_is_saved_ends_at_once(
    arguments: Make, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)
    recorder = Recorder(lambda done: [ctrl_c(), ctrl_c()])
    with pytest.raises(KeyboardInterrupt):
        train(arguments(steps=6), recorder)
    assert recorder.updates == 1 and signal.getsignal(signal.SIGINT) is before
    assert state.find_state(tmp_path / "run") is None
    assert results(train(arguments(steps=6, resume=True))) == unbroken


@pytest.mark.parametrize(("function", "every"), [("fsync", 5), ("rename", 1), ("replace", 1)])
def test_a_second_one_in_the_middle_of_the_saving_leaves_a_state_to_resume(
    arguments: Make, unbroken: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, function: str, every: int
) -> None:
    run = train(arguments(steps=3))
    ended = 0
    for number in range(1, 1000, every):
        recorder = Recorder(lambda done: ctrl_c())
        with monkeypatch.context() as patch:
            patch.setattr(os, function, after(number, getattr(os, function)))
            try:
                train(arguments(steps=6, resume=True), recorder)
                break
            except KeyboardInterrupt:
                ended += 1
        found = state.find_state(run)
        assert found is not None and bundle.read(run)[0].step <= found.counters.step
        assert found.encoder().keys() == {"h_mean", "h_std", "fingerprint.h"}
        if found.counters.step == 5:  # one more would be the last one, and no stop
            break
    assert ended
    train(arguments(steps=6, resume=True))
    assert results(run) == unbroken and bundle.read(run)[0].step == 6
    assert not [file.name for file in run.rglob(".*")]


def test_a_second_one_while_a_probe_writes_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one comes in the middle of a file, the second one while that is removed."""
    monkeypatch.setattr(base, "_bundle_digest", lambda folder: "digest")
    out = tmp_path / "out"
    calls: list[int] = []

    def probe() -> dict[str, Any]:
        model = ExactRCDM("shapes-no-color")
        model.path, model.before_sampling = tmp_path, lambda: calls.append(1)  # type: ignore[assignment]
        settings: dict[str, Any] = {"count": 6, "samples": 32, "pool": 0, "data": DATA}
        rcdm_core.run_probe("variance", models=[model], out=out, **settings)
        return json.loads((out / "result.json").read_text())["images"]

    expected = probe()
    assert len(calls) == 3
    written, savez, unlink = iter(range(10)), np.savez, Path.unlink

    def half(file: Any, **arrays: np.ndarray) -> None:
        if "samples" in arrays and next(written) == 1:  # of the second block
            file.write(b"PK half of it")
            file.flush()
            ctrl_c()
        savez(file, **arrays)  # type: ignore[arg-type]

    def again(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".tmp":
            ctrl_c()
        unlink(path, missing_ok)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests before have left
    with monkeypatch.context() as patch:
        patch.setattr(keeping.np, "savez", half)
        patch.setattr(Path, "unlink", again)
        with pytest.raises(KeyboardInterrupt):
            probe()
    signal.signal(signal.SIGINT, before)
    left = {path.suffix for path in (out / keeping.FOLDER).iterdir()}
    assert {".npz"} <= left <= {".npz", ".tmp"}  # half a file does no harm
    assert not json.loads((out / "result.json").read_text())["complete"]
    calls.clear()
    assert probe() == expected and len(calls) == 2
    assert not (out / keeping.FOLDER).exists()


def test_sigterm_ends_a_probe_as_ctrl_c_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code, a word, and what was drawn: kept."""
    monkeypatch.setattr(base, "_bundle_digest", lambda folder: "digest")
    model: Any = ExactRCDM("shapes-no-color")
    model.path = tmp_path
    calls = iter(range(10))
    model.before_sampling = lambda: signal.raise_signal(signal.SIGTERM) if next(calls) == 1 else None
    monkeypatch.setattr(rcdm_core, "load", lambda *given, **named: model)
    before = signal.getsignal(signal.SIGTERM)
    run = ("--model", tmp_path, "--data", "shapes:40:7", "--count", "6", "--samples", "32", "--pool", "0")
    found = rcdm("probe", "variance", *run, "--out", tmp_path / "out")
    assert found.exit_code == 130 and signal.getsignal(signal.SIGTERM) is before
    assert found.stderr.endswith(f"What was computed is kept in {tmp_path}/out; the same command goes on.\nStopped.\n")
    assert list((tmp_path / "out" / keeping.FOLDER).glob("*.npz")) and not (tmp_path / "out" / keeping.LOCK).exists()
