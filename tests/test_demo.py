"""The demonstration: what it concludes, what it says, and that a wrong conclusion is exit code 1."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from training_fixtures import SMALL_UNET

from rcdm_cli.main import main
from rcdm_core import RCDMError, demo, registry
from rcdm_core.presets import PRESETS
from rcdm_core.progress import Reporter
from rcdm_core.training import TrainConfig, train
from rcdm_core.training.pace import seconds_a_step
from rcdm_core.unet import UNetConfig

NO_COLOR, NO_POSITION = "shapes-no-color", "shapes-no-position"


def aggregates(**codes: str) -> dict[str, Any]:
    """What the probe would have found: attribute (with _ for blanks) -> verdict, for every transform that moves it."""
    transforms: dict[str, Any] = {}
    for attribute, names in demo.TESTS.items():
        code = codes[attribute.replace(" ", "_")]
        for name in names:
            responses = transforms.setdefault(name, {"responses": {}})["responses"]
            responses[attribute] = {"verdict": code, "rendered": {"value": 0.5, "low": 0.4, "high": 0.6}}
    return {"transforms": transforms}


def claims_of(name: str, **codes: str) -> list[demo.Claim]:
    return demo.conclude(registry.find_provider(name), aggregates(**codes))


BLIND = {"object_color": "ignores", "background_color": "ignores", "position": "follows", "size": "follows"}
SEEING = {"object_color": "follows", "background_color": "follows", "position": "ignores", "size": "follows"}


def test_the_truth_is_concluded_and_said() -> None:
    claims = [*claims_of(NO_COLOR, **BLIND), *claims_of(NO_POSITION, **SEEING)]
    assert all(claim.correct for claim in claims)
    assert demo.sentence(NO_COLOR, claims) == (
        "shapes-no-color forgot the colour of the object and the colour of the background, "
        "and kept the position and the size."
    )
    assert "forgot the position, and kept the colour" in demo.sentence(NO_POSITION, claims)
    assert demo.check(claims).startswith("All 8 conclusions")
    assert demo.headline(NO_POSITION, claims) == "shapes-no-position: forgot position"
    assert demo.headline(NO_POSITION, []) == "shapes-no-position"


@pytest.mark.parametrize("code", ["follows", "partly", "generator", "cannot tell", "not moved", "not measurable"])
def test_anything_but_ignores_is_not_forgotten(code: str) -> None:
    claims = claims_of(NO_COLOR, **{**BLIND, "object_color": code})
    (claim,) = [claim for claim in claims if not claim.correct]
    assert (claim.attribute, claim.truth) == ("object color", "forgot")
    assert claim.conclusion == ("kept" if code == "follows" else "cannot tell")
    assert "1 of 4 conclusions" in demo.check(claims) and "colour of the object" in demo.check(claims)


def test_swapped_representations_are_found_out() -> None:
    assert [claim.correct for claim in claims_of(NO_COLOR, **SEEING)] == [False, False, False, True]


def test_transforms_that_disagree_leave_it_open() -> None:
    found = aggregates(**BLIND)
    found["transforms"]["vertical-shift"]["responses"]["position"]["verdict"] = "ignores"
    by_name = {c.attribute: c for c in demo.conclude(registry.find_provider(NO_COLOR), found)}
    assert by_name["position"].conclusion == "cannot tell"
    assert "leaves the position open" in demo.sentence(NO_COLOR, list(by_name.values()))


def test_the_oracles_are_found_by_what_they_forget() -> None:
    assert [provider.name for provider in demo.choose_oracles()] == [NO_COLOR, NO_POSITION]
    assert [p.name for p in demo.choose_oracles(["shapes-all", "shapes-no-size"])] == ["shapes-all", "shapes-no-size"]


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["shapes-all"], "exactly two"),
        (["shapes-all", "shapes-all"], "forget the same"),
        (["shapes-all", "none"], "none"),
        (["shapes-all", "shapes-no-colour"], "shapes-no-color"),
    ],
)
def test_oracles_that_cannot_be_compared(names: list[str], word: str) -> None:
    with pytest.raises(RCDMError, match=word):
        demo.choose_oracles(names)


def test_tests_use_transforms_and_attributes_that_exist() -> None:
    from rcdm_core.metrics.attributes import ATTRIBUTES
    from rcdm_core.probes.transforms import TRANSFORMS

    for attribute, transforms in demo.TESTS.items():
        assert attribute in ATTRIBUTES and attribute in demo.IN_WORDS
        assert all(attribute in TRANSFORMS[name].targets for name in transforms)


@pytest.mark.parametrize(("codes", "exit_code"), [(BLIND, 0), (SEEING, 1)])
def test_a_wrong_conclusion_is_exit_code_1(
    codes: dict[str, str], exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = tuple(claims_of(NO_COLOR, **codes))
    opened: list[str] = []
    monkeypatch.setattr(demo, "run", lambda **arguments: demo.Outcome(tmp_path / "report.html", claims, ("Said.",)))
    monkeypatch.setattr("click.launch", opened.append)
    monkeypatch.setattr("rcdm_cli.demo.has_display", lambda: True)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == exit_code and "Said." in result.output
    assert opened == [str(tmp_path / "report.html")]
    CliRunner().invoke(main, ["demo", "--no-open"])
    assert len(opened) == 1


def test_the_whole_way_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCDM_CACHE", str(tmp_path / "cache"))
    for name, value in {
        "DATA": "shapes:80",
        "PICTURES": 1,
        "SAMPLES": 1,
        "SAMPLING_STEPS": 1,
        "SHOWN_SAMPLES": 1,
    }.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setitem(PRESETS, demo.PRESET, replace(PRESETS[demo.PRESET], unet=SMALL_UNET, batch_size=2))
    arguments = ["demo", "--steps", "1", "--no-open", "--out", str(tmp_path / "demo")]
    result = CliRunner().invoke(main, arguments)
    # models that have seen a single batch ignore everything, and the demonstration has to notice
    assert result.exit_code == 1, result.output
    assert "conclusions are not the truth" in result.output
    page = (tmp_path / "demo" / "report.html").read_text()
    assert NO_COLOR in page and "✗" in page and "data:image/png;base64," in page
    assert "http://" not in page and "https://" not in page
    with Image.open(tmp_path / "demo" / "demo.png") as picture:
        assert picture.width > 200
    before = json.loads((tmp_path / "demo" / NO_COLOR / "config.json").read_text())
    again = CliRunner().invoke(main, arguments)
    assert "is finished" in again.output and again.exit_code == 1
    assert json.loads((tmp_path / "demo" / NO_COLOR / "config.json").read_text()) == before


def test_the_command_has_the_defaults_of_the_core() -> None:
    from rcdm_cli.demo import command

    (steps,) = (parameter for parameter in command.params if parameter.name == "steps")
    assert isinstance(steps, click.Option) and not steps.required
    few, many = min(demo.STEPS), max(demo.STEPS)
    assert f"[default: {few} to {many}, as fit into {demo.MINUTES} minutes]" in (steps.help or "")


@pytest.mark.parametrize(
    ("pace", "expected"), [(0.01, 1400), (0.17, 1400), (0.18, 1000), (0.25, 700), (0.35, 450), (9.0, 300)]
)
def test_a_faster_machine_pays_for_more_steps(
    pace: float, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def interrupted(config: Any, progress: Any) -> Path:
        asked.append(config.steps)
        raise KeyboardInterrupt

    monkeypatch.setattr("rcdm_core.training.train_or_stop", interrupted)
    monkeypatch.setattr("rcdm_core.training.pace.seconds_a_step", lambda config, unet: pace)
    with pytest.raises(KeyboardInterrupt):
        demo.run(out=tmp_path, device="cpu")
    assert asked == [expected]


def test_a_stopped_demonstration_keeps_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCDM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "DATA", "shapes:80")
    monkeypatch.setitem(PRESETS, demo.PRESET, replace(PRESETS[demo.PRESET], unet=SMALL_UNET, batch_size=2))
    config = TrainConfig(
        provider=NO_POSITION, data="shapes:80", out=tmp_path / NO_POSITION, preset=demo.PRESET, steps=1
    )
    train(config)
    providers = demo.choose_oracles([NO_COLOR, NO_POSITION])
    again = [replace(config, provider=NO_COLOR, out=tmp_path / NO_COLOR), replace(config, resume=True, steps=None)]
    assert demo.choose_steps(again, providers, tmp_path, Reporter()) == 1


def test_the_pace_is_that_of_a_real_step_and_leaves_the_generators_alone() -> None:
    config = TrainConfig(provider=NO_COLOR, preset=demo.PRESET, batch_size=2)
    unet = UNetConfig(**SMALL_UNET, conditioning="embedding", h_dim=4)
    state = torch.get_rng_state()
    slow = UNetConfig(**{**SMALL_UNET, "model_channels": 96}, conditioning="embedding", h_dim=4)
    assert 0 < seconds_a_step(config, unet) < seconds_a_step(replace(config, batch_size=16), slow)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("finished", [False, True])
def test_ctrl_c_in_a_training_ends_the_demonstration(
    finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the last step of the first one, which is then complete."""

    def interrupted(config: Any, progress: Any) -> tuple[Path, bool]:
        run = Path(config.out)
        run.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps({"step": config.steps if finished else 3, "seconds": 3.0}))
        return run, finished

    monkeypatch.setattr("rcdm_core.training.train_or_stop", interrupted)
    result = CliRunner().invoke(main, ["demo", "--no-open", "--steps", "300", "--out", str(tmp_path)])
    assert result.exit_code == 130 and not (tmp_path / NO_POSITION).exists()
