"""What nobody means to ask for: one sentence each, and nothing of the user's is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_runner import error_of, rcdm
from safetensors.torch import save_file
from test_bundle import make_bundle
from training_fixtures import Make, write_encoder, write_images

from rcdm_core import bundle, memory
from rcdm_core.errors import RCDMError
from rcdm_core.training import TrainConfig, train
from rcdm_core.training.loop import Trainer
from rcdm_core.training.state import find_state

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["config.json", "training/notes.txt"])
def test_a_folder_with_other_files_is_not_trained_into(
    arguments: Make, tmp_path: Path, name: str, resume: bool
) -> None:
    mine = tmp_path / "run" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(RCDMError, match=rf"run is not empty.*{name.partition('/')[0]}.*another --out"):
        train(arguments(resume=resume))
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"


def test_an_empty_folder_and_one_with_hidden_files_are_trained_into(arguments: Make, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".gitignore").write_text("*")
    assert train(arguments(steps=1)) == tmp_path / "run"


def test_a_run_that_was_killed_before_its_first_save_is_begun_again(arguments: Make, tmp_path: Path) -> None:
    (tmp_path / "run" / "training").mkdir(parents=True)
    (tmp_path / "run" / "training" / "lock").touch()
    (tmp_path / "run" / "skipped.txt").write_text("a.png: it is empty\n")
    (tmp_path / "run" / "log.jsonl").touch()
    assert train(arguments(steps=1)) == tmp_path / "run"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"steps": 10**30}, "--steps 1"),
        ({"batch_size": 10**19}, "--batch-size 1"),
        ({"lr": float("nan")}, "--lr nan must be a positive number"),
        ({"label": "two\nlines"}, "--label must be a name on one line"),
    ],
)
def test_values_out_of_range(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(RCDMError, match=sentence):
        TrainConfig("shapes-all", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["meta", "xpu", "cuda:99", "nonsense", ""])
def test_devices_that_are_none(device: str) -> None:
    sentence = error_of("train", "--provider", "shapes-all", "--data", "shapes:8", "--device", device)
    assert sentence.startswith(f"Error: --device {device} is not") and "cpu" in sentence


def test_more_pictures_a_step_than_fit_into_the_machine(arguments: Make, tmp_path: Path) -> None:
    with pytest.raises(RCDMError, match=r"--batch-size 1000000000000 .* GiB .* smaller --batch-size.*--accumulate"):
        train(arguments(batch_size=10**12))


def test_more_samples_than_fit_into_the_machine(tmp_path: Path) -> None:
    model = bundle.load(make_bundle(tmp_path / "run", write_encoder(tmp_path / "encoder.py")), check_encoder=False)
    with pytest.raises(RCDMError, match=r"1000000000000 samples of each of 2 h .* GiB .* ask for fewer"):
        model.sample(torch.zeros(2, model.h_dim), 10**12)


def test_memory_that_nothing_is_known_of_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(memory.os, "sysconf", unknown)
    memory.require_memory(10**30, "This", "do that")


def test_a_gpu_without_enough_memory_ends_a_training_with_its_last_state(
    arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient = Trainer._gradient

    def full(self: Trainer, batch: object) -> dict[str, float]:
        if self.counters.step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return gradient(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_gradient", full)
    with pytest.raises(RCDMError, match=r"^A step of --batch-size 8 .* needs more than the GPU's memory"):
        train(arguments(save_every=2))
    saved = find_state(tmp_path / "run")
    assert saved is not None and saved.counters.step == 2


def test_what_a_cpu_has_no_memory_for_and_what_is_another_error() -> None:
    with pytest.raises(RCDMError, match=r"^This needs more than the memory that is free; do that\.$"):  # noqa: SIM117
        with memory.explain_shortage("This", "do that"):
            torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="something else"), memory.explain_shortage("This", "do that"):
        raise RuntimeError("something else")


def test_versions_of_bundles_that_are_no_numbers(arguments: Make, tmp_path: Path) -> None:
    text = json.dumps({"format_version": "two"})
    save_file({}, tmp_path / "model.safetensors", {"config": text, "digest": bundle._digest(text, {})})
    with pytest.raises(RCDMError, match=r"model\.safetensors has a config that this version of rcdm cannot read"):
        bundle.read(tmp_path)


def test_names_of_files_that_are_no_text(arguments: Make, tmp_path: Path) -> None:
    odd = {"two\nlines.png": "nottwo\\nlines.png"}
    if sys.platform == "linux":  # others refuse names that are not UTF-8
        odd[os.fsdecode(b"caf\xe9\x1b.png")] = "notcaf\\udce9\x1b.png"
    data = write_images(tmp_path / "images", 20)
    for number, name in enumerate(odd):
        (data / f"{number:03d}.png").rename(data / name)
        (data / f"not{name}").write_text(f"no picture {number}")
    out = train(arguments(steps=1))
    skipped = (out / "skipped.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(line.partition(": ")[0] for line in skipped) == sorted(odd.values())
    common = ("--model", out, "--sampling-steps", 1, "--device", "cpu", "--image", data)
    result = rcdm("probe", "invariance", *common, "--samples", 1, "--transform", "flip", "--out", tmp_path / "probe")
    assert result.exit_code == 0, result.output
    names = [record["name"] for record in json.loads((tmp_path / "probe" / "result.json").read_text())["images"]]
    assert set(odd) & set(names) and (tmp_path / "probe" / "report.html").read_text(encoding="utf-8")


def test_a_folder_that_is_no_text_is_refused_at_once(arguments: Make, tmp_path: Path) -> None:
    with pytest.raises(RCDMError, match=r"is not UTF-8; choose another folder with --out"):
        train(arguments(out=tmp_path / os.fsdecode(b"r\xfcn")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.py", "images"]


def test_a_name_that_is_no_text_can_be_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rcdm_cli.main", "providers", "show", b"caf\xe9"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 2 and done.stderr.startswith(b"Error: there is no provider 'caf\\udce9'")


@pytest.mark.parametrize("identity", [{}, {"arguments": {}}])
def test_states_that_lack_what_they_belong_to(arguments: Make, tmp_path: Path, identity: dict[str, object]) -> None:
    state = tmp_path / "run" / "training" / "state-00000002"
    state.mkdir(parents=True)
    (state.parent / "latest").write_text("state-00000002")
    (state / "state.json").write_text(json.dumps({"format": 1, "counters": {"step": 2}, "identity": identity}))
    with pytest.raises(RCDMError, match=r"state-00000002 cannot be read .* another --out"):
        train(arguments(resume=True))


def test_a_pointer_to_the_state_that_is_no_text(arguments: Make, tmp_path: Path) -> None:
    (tmp_path / "run" / "training").mkdir(parents=True)
    (tmp_path / "run" / "training" / "latest").write_bytes(b"\xff\xfe")
    with pytest.raises(RCDMError, match=r"training/latest is damaged; start anew with another --out"):
        train(arguments(resume=True))


@pytest.mark.parametrize("given", ["nan", "inf", "few"])
def test_a_number_of_held_out_pictures_that_is_none(given: str) -> None:
    sentence = error_of("train", "--provider", "shapes-all", "--data", "shapes:8", "--held-out", given)
    assert f"'{given}' is neither a number of pictures, such as 512, nor a share" in sentence
