"""Stopping, killing, filling the disk, and going on: the end is the same, bit for bit."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runner import error_of
from training_fixtures import Make, Recorder, results, write_encoder, write_images

from rcdm_core import bundle
from rcdm_core.data.known_ids import KnownIds
from rcdm_core.errors import RCDMError
from rcdm_core.presets import PRESETS
from rcdm_core.training import state, stopped, train
from rcdm_core.training.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


_unbroken: dict[str, bytes] = {}


@pytest.fixture
def unbroken(arguments: Make, tmp_path: Path) -> dict[str, bytes]:
    """The results of twelve steps without a break: the same for every test, so computed once."""
    if not _unbroken:
        _unbroken.update(results(train(arguments(out=tmp_path / "unbroken", steps=12))))
    return _unbroken


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    arguments: Make, unbroken: dict[str, bytes], which: signal.Signals
) -> None:
    before = signal.getsignal(which)
    recorder = Recorder(lambda done: os.kill(os.getpid(), which) if done == 5 else None)
    run = train(arguments(steps=12), recorder)
    assert bundle.read(run)[0].step == 5 and signal.getsignal(which) is before
    assert "Stopped and saved after step 5" in recorder.lines[-1] and "--resume" in recorder.lines[-1]
    assert results(run) != unbroken
    train(arguments(steps=12, resume=True))
    assert results(run) == unbroken
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [5, 10, 12]


def test_dropout_accumulation_and_embedding_resume_alike(
    arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = PRESETS["micro"]
    monkeypatch.setitem(PRESETS, "micro", replace(preset, unet={**preset.unet, "dropout": 0.3}, weight_decay=0.1))
    changes = {"accumulate": 2, "conditioning": "embedding", "lr_schedule": "cosine", "steps": 8, "seed": 3}
    changes |= {"h_lr": 0.3}
    whole = results(train(arguments(out=tmp_path / "whole", **changes)))
    torch.rand(5)  # whatever the caller's generators do meanwhile
    run = train(arguments(**changes), Recorder(lambda done: os.kill(os.getpid(), signal.SIGINT) if done == 3 else None))
    np.random.rand(5)
    train(arguments(**changes, resume=True))
    assert results(run) == whole


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads({threads})
from rcdm_core.diffusion import DiffusionConfig
from rcdm_core.presets import PRESETS, Preset
from rcdm_core.training import TrainConfig, train
from training_fixtures import Recorder
unet = dict(image_size=8, model_channels=32, num_res_blocks=1, channel_mult=(1, 1), attention_resolutions=(4,))
PRESETS["micro"] = Preset("micro", "for tests", unet, DiffusionConfig(), batch_size=8, steps=15, lr=1e-3, warmup=2)
values = {values!r}
train(TrainConfig(**values), Recorder(lambda done: os.kill(os.getpid(), signal.SIGKILL) if done == 9 else None))
"""


def test_a_killed_run_loses_no_more_than_save_every(
    arguments: Make, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    config = arguments(steps=12, save_every=4)
    script = KILLED.format(
        tests=str(Path(__file__).parent), threads=torch.get_num_threads(), values={**config.to_dict()}
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    run = tmp_path / "run"
    found = state.find_state(run)
    assert found is not None and found.counters.step == 8
    train(arguments(steps=12, save_every=4, resume=True))
    assert results(run) == unbroken


def test_resume_with_nothing_saved_starts_anew(arguments: Make, unbroken: dict[str, bytes], tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "training").mkdir(parents=True)
    (run / "training" / "lock").touch()
    (run / "log.jsonl").write_text('{"step": 10, "loss": 1}\n')  # of a run that was killed before its first save
    recorder = Recorder()
    train(arguments(steps=12, resume=True), recorder)
    assert f"There is nothing to go on with in {run} yet: starting at step 0." in recorder.lines
    assert results(run) == unbroken
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [10, 12]
    assert "mse" in (run / "log.jsonl").read_text().splitlines()[0]


def test_two_trainings_do_not_share_a_folder(arguments: Make, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    refused = []

    def begin_another(done: int) -> None:
        if done == 2:
            for resume in (False, True):
                with pytest.raises(RCDMError, match=r"run is being trained by another process; wait for it, or"):
                    train(arguments(resume=resume))
                refused.append(resume)

    run = train(arguments(steps=4), Recorder(begin_another))
    assert refused == [False, True]
    with pytest.raises(RCDMError, match="another --out"):  # an error lets go of the folder too
        train(arguments(steps=4))
    train(arguments(steps=5, resume=True))
    assert bundle.read(run)[0].step == 5


def test_resume_of_a_finished_run_says_so(arguments: Make) -> None:
    run = train(arguments(steps=4))
    recorder, before = Recorder(), results(run)
    stamp = (run / "model.safetensors").stat().st_mtime_ns
    assert train(arguments(steps=4, resume=True), recorder) == run
    assert "is finished: 4 steps" in recorder.lines[-1] and recorder.updates == 0
    assert results(run) == before and (run / "model.safetensors").stat().st_mtime_ns == stamp


def test_more_steps_continue_a_finished_run(arguments: Make, unbroken: dict[str, bytes]) -> None:
    run = train(arguments(steps=7))
    train(arguments(steps=12, resume=True))
    assert results(run) == unbroken


def test_minutes_count_what_was_trained_before(arguments: Make) -> None:
    run = train(arguments(steps=None, minutes=0.02))
    recorder = Recorder()
    train(arguments(steps=None, minutes=0.02, resume=True), recorder)
    assert "is finished" in recorder.lines[-1] and recorder.updates == 0
    step = bundle.read(run)[0].step
    train(arguments(steps=None, minutes=0.04, resume=True))
    assert bundle.read(run)[0].step > step


def test_arguments_that_matter_may_not_change(arguments: Make, tmp_path: Path) -> None:
    train(arguments(steps=4))
    with pytest.raises(RCDMError, match=r"--seed \(was 0, now 1\), --warmup \(was 2, now 5\)"):
        train(arguments(steps=8, warmup=5, seed=1, resume=True))
    with pytest.raises(RCDMError, match=r"--provider-option \(was"):
        train(arguments(steps=8, provider_options={"image_size": 12}, resume=True))
    assert train(arguments(steps=5, save_every=2, resume=True, cache=tmp_path / "elsewhere")) == tmp_path / "run"


def test_remedies_may_be_changed_and_are_told(arguments: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stopping and going on with other values ends on the bits of a run whose values change on the way."""
    remedies: dict[str, Any] = {"lr": 1e-4, "h_lr": 0.5, "clip": 0.1, "accumulate": 2}
    plain = Trainer._step

    def changing(self: Trainer, batch: Any) -> None:
        if self.counters.step == 3:
            self.recipe = replace(self.recipe, **remedies)
            for group in (group for optimizer in self.optimizers for group in optimizer.param_groups[1:]):
                group["share"] = 0.5
        plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", changing)
        whole = results(train(arguments(steps=6, out=tmp_path / "whole", conditioning="embedding")))
    train(arguments(steps=3, conditioning="embedding"))
    recorder = Recorder()
    run = train(arguments(steps=6, conditioning="embedding", resume=True, **remedies), recorder)
    assert results(run) == whole
    assert recorder.lines[0] == "Going on after step 3 with --accumulate 2, before 1."
    assert "Going on after step 3 with --lr 0.0001, before 0.001." in recorder.lines and len(recorder.lines) == 4
    # A second resume that spells them out changes nothing; one that says nothing goes back, and may not.
    train(arguments(steps=7, conditioning="embedding", resume=True, **remedies))
    config = bundle.read(run)[0]
    assert {change["option"]: change["now"] for change in config.changes} == {
        "--lr": 1e-4, "--h-lr": 0.5, "--clip": 0.1, "--accumulate": 2,
    }  # fmt: skip
    assert {change["step"] for change in config.changes} == {3} and config.recipe["lr"] == 1e-4
    with pytest.raises(RCDMError, match=r"--lr \(was 0.0001, now 0.001\)"):
        train(arguments(steps=8, conditioning="embedding", resume=True))


def test_another_batch_size_and_precision_are_told(arguments: Make) -> None:
    train(arguments(steps=2))
    recorder = Recorder()
    run = train(arguments(steps=4, batch_size=4, precision="auto", resume=True), recorder)
    assert recorder.lines == [
        "Going on after step 2 with --precision auto, before float32.",
        "Going on after step 2 with --batch-size 4, before 8; the pictures come in another order from here.",
    ]
    config = bundle.read(run)[0]
    assert config.images_seen == 2 * 8 + 2 * 4 and config.recipe["batch_size"] == 4 and len(config.changes) == 2


def test_parts_and_precision_that_are_left_out_are_not_changed(arguments: Make, tmp_path: Path) -> None:
    """Whether they were asked for is seen on the command line too, where they have defaults to show."""
    given = arguments(steps=2, accumulate=2)
    train(given)
    silent = replace(given, steps=4, resume=True, precision=None, accumulate=None)
    with pytest.raises(RCDMError, match=r"--precision \(was float32, now auto\), --accumulate \(was 2, now 1\)"):
        train(silent)
    run = ["train", "--provider", given.provider, "--provider-option", "image_size=8", "--data", str(given.data)]
    run += ["--preset", given.preset, "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    told = error_of(*run, "--steps", "4", "--resume", "--accumulate", "2")
    assert "--precision (was float32, now auto)" in told and "--accumulate" not in told


def test_a_recipe_may_not_change_by_itself(arguments: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Spelling out what the preset said is no change; a preset that was edited, or a lost decay, is one."""
    preset = PRESETS["micro"]
    monkeypatch.setitem(PRESETS, "micro", replace(preset, lr_schedule="cosine"))
    run = train(arguments(steps=4))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert bundle.read(run)[0].recipe == arguments(steps=4).recipe().to_dict()
    with pytest.raises(RCDMError, match=r"--lr-schedule \(was cosine, now constant\)"):
        train(arguments(steps=None, minutes=5, resume=True))
    with monkeypatch.context() as patch:
        patch.setitem(PRESETS, "micro", replace(PRESETS["micro"], betas=(0.9, 0.95), ema_decay=0.5, lr=1e-4))
        expected = r"--lr \(was 0.001, now 0.0001\), .*--betas \(was \[0.9, 0.999\], .*--ema \(was 0.9999, now 0.5\)"
        with pytest.raises(RCDMError, match=expected):
            train(arguments(steps=8, resume=True))
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    train(arguments(steps=5, lr=1e-3, batch_size=8, lr_schedule="cosine", resume=True))
    assert bundle.read(run)[0].step == 5


def test_an_architecture_may_not_change_by_itself(
    arguments: Make, monkeypatch: pytest.MonkeyPatch, micro: str
) -> None:
    train(arguments(steps=2))
    edited = {**PRESETS[micro].unet, "channel_mult": (1, 2)}
    monkeypatch.setitem(PRESETS, micro, replace(PRESETS[micro], unet=edited))
    with pytest.raises(RCDMError, match=r"preset micro has changed .*channel_mult \(was \[1, 1\], now \[1, 2\]\)"):
        train(arguments(steps=4, resume=True))


def test_a_learning_rate_that_rises_again_is_told(arguments: Make) -> None:
    train(arguments(steps=4, lr_schedule="cosine"))
    recorder = Recorder()
    train(arguments(steps=4, lr_schedule="cosine", resume=True), recorder)
    assert not any("rises" in line for line in recorder.lines)
    train(arguments(steps=10, lr_schedule="cosine", resume=True), recorder)
    (line,) = (line for line in recorder.lines if "rises" in line)
    assert "rises again, from 0 to 0.000854: it was to reach zero at step 4, and does so at step 10 now" in line


def test_resume_alone_goes_to_the_end_that_the_run_had(arguments: Make, unbroken: dict[str, bytes]) -> None:
    run = train(arguments(steps=12), Recorder(lambda done: os.kill(os.getpid(), signal.SIGINT) if done == 5 else None))
    recorder, again = Recorder(), arguments(steps=None, resume=True)
    assert stopped(again, run)
    train(again, recorder)
    assert recorder.started[-1] == (12, "training", 5) and recorder.updates == 7
    assert results(run) == unbroken and not stopped(again, run)


def test_a_model_without_its_training_is_not_written_over(arguments: Make) -> None:
    run = train(arguments(steps=2))
    shutil.rmtree(run / "training")
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(RCDMError, match=r"holds a trained model, but not what --resume goes on from"):
        train(arguments(steps=4, resume=True))
    assert (run / "model.safetensors").read_bytes() == before


def test_paths_hold_in_every_folder(arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = {"provider": "custom:encoder.py:build", "data": "images"}
    run = train(arguments(**relative, steps=2))
    config = bundle.read(run)[0]
    assert config.provider.name == "custom:encoder.py:build"
    assert config.provider.resolved == f"custom:{tmp_path / 'encoder.py'}:build"
    assert config.data is not None and config.data.description["path"] == str(tmp_path / "images")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert bundle.load(run).encode(torch.zeros(1, 3, 8, 8)).shape == (1, 5)
    train(arguments(provider="custom:../encoder.py:build", data="../images", steps=3, resume=True))
    write_encoder(tmp_path / "elsewhere" / "encoder.py")
    with pytest.raises(RCDMError, match=r"--provider \(was custom:/.*/encoder.py:build, now custom:encoder.py:build\)"):
        train(arguments(**relative, steps=4, resume=True))


def test_sigterm_during_the_first_pass_leaves_nothing(arguments: Make, tmp_path: Path) -> None:
    class Terminates(Recorder):
        def update(self, advance: float = 1, **numbers: float) -> None:
            assert list((tmp_path / "cache").glob(".*.tmp"))
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(arguments(), Terminates())
    assert signal.getsignal(signal.SIGTERM) is before and list((tmp_path / "cache").iterdir()) == []
    assert train(arguments()) == tmp_path / "run"


def test_other_images_or_another_encoder_are_noticed(arguments: Make, tmp_path: Path) -> None:
    train(arguments(steps=4))
    write_encoder(tmp_path / "encoder.py", seed=9)
    with pytest.raises(RCDMError, match=r"The encoder of .* has changed since it was started: .*other weights"):
        train(arguments(steps=8, resume=True))
    write_encoder(tmp_path / "encoder.py")
    write_images(tmp_path / "images", 41, seed=0)
    with pytest.raises(RCDMError, match=r"The images of .* have changed"):
        train(arguments(steps=8, resume=True))


def failing_at(number: int, plain: Callable[..., object]) -> Callable[..., object]:
    """`plain`, but its `number`-th call meets a full disk."""
    calls = iter(range(1, 10_000))

    def limited(*given: object) -> object:
        if next(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*given)

    return limited


@pytest.mark.parametrize("function", ["fsync", "rename", "replace"])
def test_a_full_disk_at_any_moment_leaves_a_state_to_resume(
    arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """The n-th call fails, for every n there is: the older or the newer state is whole, and goes on to the same end."""
    monkeypatch.setattr(KnownIds, "save", lambda self: None)  # which may fail, and would use up a failure
    run = train(arguments(steps=4))
    whole = results(train(arguments(steps=6, out=tmp_path / "whole")))
    for failing in range(1, 1000):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, failing_at(failing, getattr(os, function)))
            try:
                train(arguments(steps=6, resume=True))
                break
            except RCDMError as error:
                assert "disk is full" in str(error)
        found = state.find_state(run)
        assert found is not None and found.counters.step in (4, 6)
        assert bundle.read(run)[0].step in (4, 6)
        assert found.encoder().keys() == {"h_mean", "h_std", "fingerprint.h"}
    assert failing > 1 and results(run) == whole
    assert not stopped(arguments(steps=6), run)  # by config.json, which is written last
    assert not [file.name for file in run.rglob(".*")]


def test_a_kill_between_state_and_bundle_is_made_good(
    arguments: Make, unbroken: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(self: Trainer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_bundle", killed)
        with pytest.raises(KeyboardInterrupt):
            train(arguments(steps=12))
    assert not (tmp_path / "run" / "model.safetensors").exists()
    train(arguments(steps=12, resume=True))
    assert results(tmp_path / "run") == unbroken


def test_a_damaged_state_is_named(arguments: Make, tmp_path: Path) -> None:
    run = train(arguments(steps=4))
    folder = run / "training" / "state-00000004"
    weights = (folder / "optimizer.safetensors").read_bytes()
    (folder / "optimizer.safetensors").write_bytes(weights[:-9])
    with pytest.raises(RCDMError, match=r"state-00000004 cannot be read"):
        train(arguments(steps=8, resume=True))
    (folder / "state.json").write_text("{")
    with pytest.raises(RCDMError, match=r"state-00000004 cannot be read"):
        train(arguments(steps=8, resume=True))


def test_a_state_of_another_version_or_owner_is_named(
    arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(arguments(steps=2))
    file = run / "training" / "state-00000002" / "state.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(RCDMError, match="saved by another version"):
        train(arguments(steps=4, resume=True))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RCDMError, match=r"latest cannot be read \(Permission denied\)"):
        train(arguments(steps=4, resume=True))


def test_no_file_of_a_state_is_a_pickle(arguments: Make) -> None:
    run = train(arguments(steps=2))
    for file in (run / "training").rglob("*"):
        if file.is_file():
            assert file.suffix in (".json", ".safetensors", "")
            assert not file.read_bytes().startswith((b"\x80", b"PK"))
