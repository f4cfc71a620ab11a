"""Several checkpoints of one architecture: which are meant, how they are named, and a model for each of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import error_of, rcdm
from training_fixtures import Recorder, write_images

import rcdm_core
from rcdm_core import RCDMError, TrainConfig, each_checkpoint, train_each
from rcdm_core.weights import resolve_weights
from rcdm_core.weights_given import expand_weights, name_weights, one_weights

pytestmark = pytest.mark.usefixtures("one_thread")
Make = Callable[..., TrainConfig]

ENCODER = """
import torch
from torch import nn

def build(weights):
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 5))
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network
"""


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A folder of ckpt_1.pth, ckpt_2.pth, ckpt_10.pth, beside the code of their architecture, net.py."""
    folder = tmp_path / "ckpts"
    folder.mkdir()
    (tmp_path / "net.py").write_text(ENCODER)
    for number in (1, 2, 10):
        network = torch.nn.Linear(12, 5)
        torch.nn.init.normal_(network.weight, generator=torch.Generator().manual_seed(number))
        torch.save({f"2.{name}": value for name, value in network.state_dict().items()}, folder / f"ckpt_{number}.pth")
    return folder


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [str(folder / name) for name in names]


def test_a_pattern_is_expanded_in_natural_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, ten, deep, odd = touch(tmp_path, "c_1.pth", "c_2.pth", "c_10.pth", "a/b/c_3.pth", "c_[1].pt")
    (tmp_path / "c_4.pth").mkdir()  # a folder is no checkpoint
    assert expand_weights([f"{tmp_path}/*.pth"]) == [one, two, ten]
    assert expand_weights([f"{tmp_path}/**/*_3.pth"]) == [deep]
    assert expand_weights([odd]) == [odd]  # the file of that name, not the pattern
    assert expand_weights([ten, f"{tmp_path}/c_?.pth", two]) == [ten, one, two]
    url = "https://example.org/a.pth?download=1"
    assert expand_weights([url, one, url]) == [url, one]
    (tmp_path / "last.pth").symlink_to("c_10.pth")
    assert expand_weights([f"{tmp_path}/*.pth"]) == [one, two, ten]
    monkeypatch.chdir(tmp_path)
    assert expand_weights(["*.pth", one]) == ["c_1.pth", "c_2.pth", "c_10.pth"]
    with pytest.raises(RCDMError, match=r"--weights x/\*\.pth matches no file"):
        expand_weights(["x/*.pth"])
    with pytest.raises(RCDMError, match=r"--weights \[a\] matches folders alone"):
        expand_weights(["[a]"])
    for address in ("s3://bucket/a.pth", "gs://bucket/*.pth", "hf://owner/net"):
        with pytest.raises(RCDMError, match=r"no address that is fetched here: expected a file, .* URL of https"):
            expand_weights([address])
        with pytest.raises(RCDMError, match="no address that is fetched here"):
            resolve_weights(address, None, provider="x")
    with pytest.raises(RCDMError, match="--weights is empty"):
        expand_weights([""])
    with pytest.raises(RCDMError, match=r"~nobody-here/a\.pth does not exist"):
        resolve_weights("~nobody-here/a.pth", None, provider="x")


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        (["a/ckpt_1.pth", "a/ckpt_50.pth.tar"], ["ckpt_1", "ckpt_50"]),
        (["a/epoch=3-loss=0.5.ckpt", "b/v1.5"], ["epoch=3-loss=0.5", "v1.5"]),
        (["run1/models/last.pth", "run2/models/last.pth"], ["run1-last", "run2-last"]),
        (["x/a/last.pth", "x/b/c/last.pth", "x/other.pth"], ["a-last", "b-c-last", "other"]),
        (["x/last.pth", "x/y/last.pth"], ["last", "y-last"]),
        (["x/net.pth", "x/net.pt"], ["net.pth", "net.pt"]),
        (["a-b/c/net.pth", "a/b-c/net.pth"], ["a-b-c-net.pth", "a-b-c-net.pth-2"]),
        (["x/epoch 1.pth", "x/epoch-1.pth"], ["epoch 1.pth", "epoch-1.pth-2"]),  # runs/PROVIDER-epoch-1 of both
        (["https://h/uc?id=A", "https://h/uc?id=B"], ["uc", "uc-2"]),
        (["https://h/uc?id=A", "https://h/uc?id=B", "x/uc-2.pth"], ["uc", "uc-3", "uc-2"]),
        (["x/net (1).pth", "y/net-1.pth"], ["x-net (1)", "y-net-1"]),
        (["https://h/simclr/final.torch", "https://h/moco/final.torch?x=1"], ["simclr-final", "moco-final"]),
        (["https://h1/final.torch", "https://h2/x/final.torch"], ["h1-final", "h2-x-final"]),
        (["/final.pth", "https://h/final.pth"], ["final", "h-final"]),
    ],
)
def test_checkpoints_are_named_by_what_differs(weights: list[str], names: list[str]) -> None:
    assert name_weights(weights) == names


def test_a_model_for_each_checkpoint(arguments: Make, checkpoints: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    base = arguments(provider=f"custom:{tmp_path}/net.py:build", steps=2, out=tmp_path / "runs")
    configs = each_checkpoint(base, [f"{checkpoints}/*.pth"])
    paths = train_each(configs, recorder)
    names = [f"net.py-build-ckpt_{number}" for number in (1, 2, 10)]
    assert paths == [tmp_path / "runs" / name for name in names]
    assert recorder.lines[0] == f"3 checkpoints, a model for each: {', '.join(names)}."
    models = [rcdm_core.load(path) for path in paths]
    assert [model.name for model in models] == [model.config.provider.label for model in models] == names
    assert [Path(str(model.config.provider.weights)).name for model in models] == [f"ckpt_{n}.pth" for n in (1, 2, 10)]
    # Each h is that of its own checkpoint, by the definition of the network.
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    normalised = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    pooled = normalised.unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2)).flatten(1)
    for model, number in zip(models, (1, 2, 10), strict=True):
        state = torch.load(checkpoints / f"ckpt_{number}.pth", weights_only=True)
        torch.testing.assert_close(model.encode(images), pooled @ state["2.weight"].T + state["2.bias"])
    # The pixels are read once, the representations once for each.
    kinds = [file.name.partition("-")[0] for file in (tmp_path / "cache").iterdir()]
    assert sorted(kinds) == ["h", "h", "h", "pixels"]

    again = Recorder()
    with pytest.raises(RCDMError, match=r"net\.py-build-ckpt_1 already holds a training; go on with it by --resume"):
        each_checkpoint(base, [f"{checkpoints}/*.pth"])
    before = {path: (path / "model.safetensors").stat().st_mtime_ns for path in paths}
    more = each_checkpoint(TrainConfig(**{**vars(base), "resume": True}), [f"{checkpoints}/*.pth"])
    assert train_each(more, again) == paths and again.updates == 0
    assert before == {path: (path / "model.safetensors").stat().st_mtime_ns for path in paths}


def test_a_checkpoint_keeps_the_name_of_its_model(arguments: Make, tmp_path: Path) -> None:
    """Whatever it is given with: by its name alone it would be called otherwise, and trained again."""
    files = touch(tmp_path, "a/last.pth", "b/last.pth", "c/b/last.pth")
    base = arguments(provider="none", steps=1, out=tmp_path / "runs", resume=True)

    def labels(*given: str) -> list[str | None]:
        return [one.label for one in each_checkpoint(base, given)]

    def pretend(label: str, file: str) -> None:
        (tmp_path / "runs" / label / "training").mkdir(parents=True)
        (tmp_path / "runs" / label / "training" / "lock").touch()
        record = {"provider": {"label": label, "weights": file}}
        (tmp_path / "runs" / label / "config.json").write_text(json.dumps(record))

    assert labels(f"{tmp_path}/a/*.pth") == ["none-last"]
    pretend("none-last", files[0])
    assert labels(files[0], files[1]) == ["none-last", "none-b-last"]
    assert labels(f"{tmp_path}/b/*.pth") == ["none-b-last"]  # not that of the other's model
    pretend("none-b-last", files[1])
    assert labels(*files)[:2] == ["none-last", "none-b-last"] and len(set(labels(*files))) == 3
    (tmp_path / "runs" / "none-b-last" / "config.json").write_text("[]")
    assert len(set(labels(*files))) == 3  # one that is damaged is no hindrance


def test_one_that_fails_does_not_stop_the_others(arguments: Make, checkpoints: Path, tmp_path: Path) -> None:
    good = (checkpoints / "ckpt_2.pth").read_bytes()
    (checkpoints / "ckpt_2.pth").write_bytes(b"broken")
    base = arguments(provider=f"custom:{tmp_path}/net.py:build", steps=2, out=tmp_path / "runs", resume=True)
    recorder = Recorder()
    with pytest.raises(RCDMError) as caught:
        train_each(each_checkpoint(base, [f"{checkpoints}/*.pth"]), recorder)
    message = str(caught.value)
    first, failed, last = (tmp_path / "runs" / f"net.py-build-ckpt_{number}" for number in (1, 2, 10))
    assert f"{failed.name} failed: " in message and "ckpt_2.pth" in message and "\n" not in message
    assert f"trained so far: {first}, {last}; the same command with --resume" in message
    assert not (failed / "model.safetensors").exists()
    (checkpoints / "ckpt_2.pth").write_bytes(good)
    recorder = Recorder()
    assert train_each(each_checkpoint(base, [f"{checkpoints}/*.pth"]), recorder) == [first, failed, last]
    assert recorder.updates == 2  # of the one that had failed


@pytest.mark.parametrize(
    ("pressed", "steps", "left"),
    [
        (4, [3, 1], "ckpt_10"),  # in the first step of the second model
        (3, [3], "ckpt_2, net.py-build-ckpt_10"),  # in the last one of the first, which is finished all the same
    ],
)
def test_ctrl_c_ends_the_series_and_says_what_is_left(
    pressed: int, steps: list[int], left: str, arguments: Make, checkpoints: Path, tmp_path: Path
) -> None:
    base = arguments(provider=f"custom:{tmp_path}/net.py:build", steps=3, out=tmp_path / "runs", resume=True)
    configs = each_checkpoint(base, [f"{checkpoints}/*.pth"])

    def interrupt(updates: int) -> None:
        if updates == pressed:
            import signal

            signal.raise_signal(signal.SIGINT)

    recorder = Recorder(interrupt)
    paths = train_each(configs, recorder)
    assert [json.loads((path / "config.json").read_text())["step"] for path in paths] == steps
    assert f"Not begun: net.py-build-{left}; trained so far: {paths[0]}; the same command" in recorder.lines[-1]
    recorder = Recorder()
    assert len(train_each(configs, recorder)) == 3 and recorder.updates == 9 - sum(steps)


def test_a_missing_file_is_found_before_the_first_training(arguments: Make, checkpoints: Path) -> None:
    with pytest.raises(RCDMError, match=r"ckpt_3\.pth does not exist"):
        each_checkpoint(arguments(), [str(checkpoints / "ckpt_1.pth"), str(checkpoints / "ckpt_3.pth")])
    with pytest.raises(RCDMError, match="--label names one representation"):
        each_checkpoint(arguments(label="mine"), [f"{checkpoints}/*.pth"])
    (only,) = each_checkpoint(arguments(label="mine"), [str(checkpoints / "ckpt_1.pth")])
    assert only == arguments(label="mine", weights=str(checkpoints / "ckpt_1.pth"))
    assert each_checkpoint(arguments(), []) == [arguments()]


def test_the_commands_take_several_or_say_that_they_take_one(
    micro: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 30)
    run = ["train", "--provider", "custom:net.py:build", "--provider-option", "image_size=8", "--data", "images"]
    run += ["--steps", "1", "--preset", micro, "--cache", "cache", "--preview-every", "0", "--held-out", "8"]
    result = rcdm(*run, "--weights", "ckpts/ckpt_2.pth", "--weights", "ckpts/ckpt_1*.pth")
    assert result.exit_code == 0, result.output
    labels = [f"net.py-build-ckpt_{number}" for number in (2, 1, 10)]
    models = [word for label in labels for word in ("--model", f"runs/{label}")]
    assert f"rcdm probe invariance {' '.join(models)}" in result.output
    ranked = rcdm("evaluate", *models, "--sampling-steps", "1", "--out", "out", "--json")
    assert ranked.exit_code == 0, ranked.output
    found: dict[str, Any] = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [model["name"] for model in found["models"]] == list(found["aggregates"])[:-1] == labels
    assert list(found["aggregates"])[-1] == "differences"

    assert "--weights ckpts/*.pt matches no file" in error_of(*run, "--weights", "ckpts/*.pt")
    words = error_of(*run, "--weights", "ckpts/ckpt_1.pth", "ckpts/ckpt_2.pth")  # as a shell expands a bare pattern
    assert "put a pattern of --weights between quotes" in words
    for command in (["sample", *models[:2]], ["providers", "check", "custom:net.py:build"]):
        message = error_of(*command, "--weights", "ckpts/*.pth")
        assert f"rcdm {' '.join(command[: 1 + (command[0] == 'providers')])}" in message and "takes one" in message
    # Checkpoints that have moved: one for each model, in their order, or the fingerprint tells.
    checkpoints.rename(tmp_path / "moved")
    moved = [word for n in (2, 1, 10) for word in ("--weights", f"moved/ckpt_{n}.pth")]
    again = ("evaluate", *models, "--sampling-steps", "1", "--out", "again")
    result = rcdm(*again, *moved)
    assert result.exit_code == 0, result.output
    repeated = json.loads((tmp_path / "again" / "result.json").read_text())
    assert repeated["aggregates"] == found["aggregates"] and " ".join(moved) in repeated["command"]
    assert "net.py-build-ckpt_2 was trained for another encoder" in error_of(*again, "--weights", "moved/*.pth")
    assert "--weights names 2 checkpoints for 3 models" in error_of(*again, "--weights", "moved/ckpt_1*.pth")
    (tmp_path / "moved").rename(checkpoints)
    assert one_weights(["ckpts/ckpt_2*"], "x") == "ckpts/ckpt_2.pth" and one_weights([], "x") is None
