"""Checkpoints of which it is known what they keep: exact samplers of the oracles' posteriors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from exact_rcdm import ExactRCDM

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes.base import Result
from rcdm_core.probes.training import places

DATA = Shapes(160, seed=4)


def checkpoint(oracle: str, called: str, **changes: Any) -> ExactRCDM:
    """The oracle, as if it were what one encoder knows at some time: weights of its own, and the provider of all."""
    model = ExactRCDM(oracle, name=called)
    vars(model.config.provider).update({"name": "net", "weights_digest": called, **changes})
    return model


def run(models: list[Any], out: Path, **arguments: Any) -> Result:
    settings: dict[str, Any] = {"data": DATA, "count": 60, "samples": 3, "pool": 80, "judge": "none", "rows": 2}
    return rcdm_core.run_probe("training", models=models, out=out, **settings | arguments)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    models = [
        checkpoint("shapes-no-color", "net-ckpt_1"),
        checkpoint("shapes-all", "net-ckpt_5"),
        checkpoint("shapes-no-position", "net-ckpt_50"),
    ]
    return run(models, tmp_path_factory.mktemp("training"))


def test_what_moves_is_what_the_oracles_differ_in(result: Result) -> None:
    moved = {
        (move["attribute"], move["second"][4:], move["first"][4:]): move["difference"]["value"]
        for move in result.aggregates["moves"]
        if move["retention"] == "rendered" and move["p_holm"] < 0.05
    }
    for end in ("ckpt_5", "ckpt_50"):
        assert moved["background color", "ckpt_1", end] > 0.7
    assert moved["position", "ckpt_5", "ckpt_50"] < -0.5 and moved["position", "ckpt_1", "ckpt_50"] < -0.5
    assert not any(key[0] == "position" and key[2] == "ckpt_5" for key in moved)
    assert not any(key[0].endswith("color") and key[1] == "ckpt_5" for key in moved)
    assert not any(key[0] == "size" for key in moved)


def test_the_trend_says_it(result: Result) -> None:
    assert len(result.answer) == 2
    rendered = result.answer[0]
    assert rendered.startswith("From net-ckpt_1 to net-ckpt_50, by rendered retention: more is kept of ")
    more, less = rendered.split("less is kept of ")
    assert "background color" in more and "position (-1." in less and "no move of 0.05 beyond chance in size" in less


def test_the_output(result: Result) -> None:
    stored = json.loads((result.out / "result.json").read_text())
    assert stored["complete"] and stored["files"] == ["training.png", "samples.png", "report.html"]
    names = ["net-ckpt_1", "net-ckpt_5", "net-ckpt_50"]
    assert stored["aggregates"]["checkpoints"] == dict(zip(names, [1, 5, 50], strict=True))
    pairs = {(move["second"], move["first"]) for move in stored["aggregates"]["moves"]}
    assert pairs == {(names[0], names[1]), (names[1], names[2]), (names[0], names[2])}
    page = (result.out / "report.html").read_text()
    assert '<svg class="plot"' in page and "What moved" in page and "rcdm probe training" in page


def test_places() -> None:
    assert places(["a-1", "a-20"], "") == ([1.0, 20.0], False)
    assert places(["a-20", "a-1"], "") == ([1.0, 2.0], True) == places(["early", "late"], "")
    assert places(["x", "y"], "0.5, 3") == ([0.5, 3.0], False)


@pytest.mark.parametrize(("at", "message"), [("1", "expected 2 rising"), ("2,1", "2 rising"), ("a,b", "at is 'a,b'")])
def test_bad_places(tmp_path: Path, at: str, message: str) -> None:
    with pytest.raises(RCDMError, match=message):
        run([checkpoint("shapes-all", name) for name in "ab"], tmp_path, at=at)


def test_one_model_is_no_training(tmp_path: Path) -> None:
    with pytest.raises(RCDMError, match="compares checkpoints"):
        run([ExactRCDM()], tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other"}, "b is of other and a of net"),
        ({"options": {"width": 2}}, "b is of net with other options"),
        ({"weights_digest": "a"}, "b and a have an encoder of the same weights"),
    ],
)
def test_models_that_are_no_checkpoints_of_one_encoder(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RCDMError, match=message):
        run([checkpoint("shapes-all", "a"), checkpoint("shapes-all", "b", **changes)], tmp_path)
