"""The probe retention on exact generators of oracles, whose truth is known, and on spoiled ones."""

from __future__ import annotations

import json
import re
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from exact_rcdm import FACTORS_OF, SPOILED, ExactRCDM
from fake_rcdm import FakeRCDM
from PIL import Image

import rcdm_core
from rcdm_core.data.folder import ImageFolder
from rcdm_core.data.shapes import Factors, Shapes, render_batch
from rcdm_core.errors import RCDMError
from rcdm_core.metrics.attributes import measure
from rcdm_core.metrics.bootstrap import Estimate
from rcdm_core.probes import retention, retention_class
from rcdm_core.probes.base import Result
from rcdm_core.probes.retention_class import labels_of, one_hot, usable_labels
from rcdm_core.probes.verdicts import Retained, judge_retention

DATA = Shapes(600, seed=7)
ORACLES = ("shapes-all", "shapes-no-color", "shapes-no-position", "shapes-no-shape")
def run(models: list[Any], out: Path, **arguments: Any) -> Result:
    settings: dict[str, Any] = {"count": 100, "samples": 2, "pool": 60, "rows": 2}
    if arguments.get("judge") != "none":  # which learns from no pictures
        settings["judge_pictures"] = 250
    return rcdm_core.run_probe("retention", models=models, out=out, **({"data": DATA} | settings | arguments))


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run([ExactRCDM(name) for name in ORACLES], tmp_path_factory.mktemp("exact"))


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Result:
    models = [ExactRCDM("shapes-no-position", spoiled=how, name=how) for how in SPOILED]
    models += [ExactRCDM(coded=True, name="coded"), ExactRCDM(constant=True, name="same")]
    models += [ExactRCDM(coded=True, spoiled="deaf", name="coded deaf")]
    return run(models, tmp_path_factory.mktemp("spoiled"))


def verdicts(result: Result, name: str) -> dict[str, str]:
    return {attribute: entry["verdict"] for attribute, entry in result.aggregates[name]["attributes"].items()}


def truth(oracle: str, n: int = 300) -> dict[str, float]:
    """Var(E[a | h]) / Var(a), by pairs of pictures that share what the oracle keeps: Cov(a, a') / Var(a)."""
    rows = np.array([astuple(Shapes(2 * n, seed=99).factors(i)) for i in range(2 * n)])
    pairs = rows[n:].copy()
    names = list(Factors.__dataclass_fields__)
    kept = [
        names.index(field)
        for part, fields in FACTORS_OF.items()
        if part not in ExactRCDM(oracle).forgets
        for field in fields
    ]
    pairs[:, kept] = rows[:n, kept]

    def attributes(table: np.ndarray) -> dict[str, np.ndarray]:
        made = [Factors(int(row[0]), *row[1:]) for row in table]
        shape = np.eye(5)[[one.shape for one in made]]
        return {**measure(render_batch(made, 32) / 255), "class": shape}

    first, second = attributes(rows[:n]), attributes(pairs)
    centred = {name: (first[name] - first[name].mean(0), second[name] - second[name].mean(0)) for name in first}
    return {name: float((a * b).sum() / (a * a).sum()) for name, (a, b) in centred.items()}


@pytest.mark.parametrize("oracle", ORACLES)
def test_verdicts_and_numbers_are_the_truth(exact: Result, oracle: str) -> None:
    expected = truth(oracle)
    for attribute, entry in exact.aggregates[oracle]["attributes"].items():
        if attribute in ("saturation", "sharpness"):  # the same in all pictures of this set
            assert entry["verdict"] == "not measurable" and entry["rendered"] is None
            continue
        assert entry["verdict"] == ("kept" if expected[attribute] > 0.5 else "dropped"), attribute
        assert entry["rendered"]["value"] == pytest.approx(expected[attribute], abs=0.16)
        assert entry["decodable"]["value"] == pytest.approx(expected[attribute], abs=0.16)
        assert entry["sample_variance"]["low"] < 1.05 and entry["sample_variance"]["high"] > 0.95
        assert entry["n"] == 100 and entry["undefined_in_pictures"] == 0


def test_spoiled_generators_are_the_limit_and_never_a_reason_for_a_wrong_verdict(spoiled: Result) -> None:
    """h keeps everything but the position, whatever the generator makes of it."""
    kept = ("object color", "background color", "size", "brightness", "class")
    for how in SPOILED:
        found = verdicts(spoiled, how)
        assert not {found[a] for a in kept} & {"dropped", "nonlinear"}, how
        assert found["position"] in ("dropped", "cannot tell"), how
    for how in ("constant", "deaf"):
        found = verdicts(spoiled, how)
        assert {found[a] for a in kept} == {"generator"}
        assert found["position"] == "cannot tell"  # such a generator is no witness
    # half the spread: the readout has what h keeps; what it drops is drawn too much alike to be evidence
    assert {verdicts(spoiled, "narrow")[a] for a in kept} == {"kept"}
    assert verdicts(spoiled, "narrow")["position"] == "cannot tell"
    assert spoiled.aggregates["narrow"]["attributes"]["position"]["sample_variance"]["high"] < 0.5
    # noise in the pixels, or no colour, takes away what it takes away
    assert verdicts(spoiled, "noisy")["position"] == "dropped" and verdicts(spoiled, "noisy")["object color"] == "kept"
    gray = spoiled.aggregates["gray"]["attributes"]["object color"]
    assert gray["verdict"] == "generator" and gray["rendered"] is None and gray["undefined_in_samples"] == 1
    assert verdicts(spoiled, "gray")["position"] == "dropped" and verdicts(spoiled, "gray")["size"] == "kept"


def test_what_no_line_finds(spoiled: Result) -> None:
    assert verdicts(spoiled, "coded")["position"] == "nonlinear" and verdicts(spoiled, "coded")["size"] == "kept"
    # with a generator that ignores h nobody sees the position any more: that does not mean that h has dropped it
    assert verdicts(spoiled, "coded deaf")["position"] == "cannot tell"
    assert set(verdicts(spoiled, "same").values()) == {"dropped", "not measurable"}
    assert spoiled.aggregates["same"]["h_in_samples"] is None


def test_intervals_over_pictures_hold_the_truth() -> None:
    """Subsets of pictures with partial retention: the background's hue explains most of the brightness, not all."""
    from rcdm_core.metrics.retention import Observed, rendered_retention

    rng = np.random.default_rng(0)
    n = 700
    rows = np.array([astuple(Shapes(2 * n, seed=98).factors(i)) for i in range(2 * n)])
    pairs = rows[n:].copy()
    pairs[:, 2] = rows[:n, 2]  # the hue of the background is kept, all else drawn anew
    made = [[Factors(int(row[0]), *row[1:]) for row in table] for table in (rows[:n], pairs)]
    real, drawn = (measure(render_batch(table, 32) / 255)["brightness"] for table in made)
    whole = rendered_retention(Observed(real, drawn, np.zeros(n), 0.0), seed=0)
    assert whole is not None and 0.1 < whole.value < 0.95
    hits = 0
    for trial in range(100):
        chosen = rng.choice(n, 70, replace=False)
        found = rendered_retention(Observed(real[chosen], drawn[chosen], np.zeros(70), 0.0), seed=trial)
        assert found is not None and found.low is not None and found.high is not None
        hits += found.low <= whole.value <= found.high
    assert 86 <= hits <= 100


def test_models_are_compared_on_the_same_pictures(exact: Result, spoiled: Result) -> None:
    comparisons = {
        (one["attribute"], one["retention"], one["first"], one["second"]): one
        for one in exact.aggregates["comparisons"]
    }
    assert len(comparisons) == 6 * 6 * 2  # pairs, attributes, retentions
    position = comparisons["position", "rendered", "shapes-all", "shapes-no-position"]
    assert position["p_holm"] < 0.05 and position["difference"]["value"] == pytest.approx(1, abs=0.15)
    of = {name: exact.aggregates[name]["attributes"] for name in ORACLES}
    for (attribute, what, first, second), one in comparisons.items():  # each is the difference of what the table shows
        expected = of[first][attribute][what]["value"] - of[second][attribute][what]["value"]
        assert one["difference"]["value"] == pytest.approx(expected, abs=1e-9)
    same = comparisons["position", "decodable", "shapes-all", "shapes-no-color"]
    assert same["p_holm"] > 0.05 or abs(same["difference"]["value"]) < 0.01
    assert all(one["p"] <= one["p_holm"] <= 1 for one in comparisons.values())
    assert not [
        one
        for one in spoiled.aggregates["comparisons"]
        if "gray" in (one["first"], one["second"])
        and one["attribute"] == "object color"
        and one["retention"] == "rendered"
    ]


def test_the_interval_of_a_difference_resamples_both_models_and_few_pictures_are_not_compared() -> None:
    from rcdm_core.metrics.retention import Observed
    from rcdm_core.probes.retention import Found, compare

    rng = np.random.default_rng(0)
    real, zeros = rng.standard_normal((30, 1)), np.zeros(30)
    drawn = {"kept": real, "lost": 0.1 * rng.standard_normal((30, 1)), "rare": real.copy()}
    drawn["rare"][5:] = np.nan
    found = {
        name: {"size": Found({}, {"rendered": Observed(real, values, zeros, 0.0).rendered()})}
        for name, values in drawn.items()
    }
    (one,) = compare(found, seed=0)
    assert (one["attribute"], one["first"], one["second"]) == ("size", "kept", "lost") and one["p_holm"] < 0.01
    # whatever the variance of the pictures drawn: all of it is kept, and next to nothing
    assert one["difference"]["low"] > 0.9 and one["difference"]["high"] < 1.1


def test_the_output(exact: Result) -> None:
    stored = json.loads((exact.out / "result.json").read_text())
    assert stored["complete"] and stored["files"] == ["retention.png", "samples.png", "report.html"]
    assert len(stored["images"]) == 100 and stored["images"][0]["label"] in DATA.label_names
    assert set(stored["images"][0]["models"]["shapes-all"]["position"]) == {"real", "drawn", "spread", "undefined"}
    with Image.open(exact.out / "retention.png") as bars:
        assert bars.width > 1000 and len(bars.convert("RGB").getcolors(1 << 24) or []) > 100
    page = (exact.out / "report.html").read_text()
    first, table, numbers, how, limits, command = (
        page.index(words)
        for words in (
            "shapes-no-position keeps object color",
            "<h2>Verdicts",
            "<h2>The numbers",
            "<h2>How it was computed",
            "<h2>What this cannot tell",
            "rcdm probe retention",
        )
    )
    assert first < table < numbers < how < limits < command
    assert exact.answer[1].startswith("shapes-no-color keeps size, position and class; drops object color")
    words = re.sub(r"data:[^\"']*", "", page)  # a picture's letters may be any
    assert page.count("dropped</span>") >= 2 * 5 and "NaN" not in words and "nan" not in page.split("<body>")[1][:3000]


def test_labels_missing(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(24):
        Image.fromarray(DATA.get(i, 40).transpose(1, 2, 0)).save(folder / f"{i}.png")
    for arguments in ({"data": ImageFolder(folder)}, {"data": None, "images": [folder]}):
        result = run([FakeRCDM("fake")], tmp_path / "out", pool=0, **arguments)
        assert "class" not in result.aggregates["fake"]["attributes"]
        assert any("no labels" in note for note in result.notes)
        assert result.images[0]["label"] is None


def test_one_class_and_a_class_with_one_picture() -> None:
    labels, notes = usable_labels(np.array([3] * 30))
    assert (labels == -1).all() and "fewer than two classes" in notes[0]
    labels, notes = usable_labels(np.array([0, 0, 1, 1, 2, -1]))
    assert labels.tolist() == [0, 0, 1, 1, -1, -1]
    assert "1 of the 6 pictures have no label" in notes[0] and "Of 1 of the 3 classes" in notes[1]
    labels, notes = usable_labels(np.array([0, 0, 1]))
    assert (labels == -1).all() and len(notes) == 2
    assert np.isnan(one_hot(np.array([-1, 4]), [4, 5])[0]).all() and one_hot(np.array([4]), [4, 5]).tolist() == [[1, 0]]
    assert labels_of([], None).shape == (0,)


def test_a_picture_given_twice_and_pictures_trained_on(tmp_path: Path) -> None:
    files = []
    for i in range(26):
        files.append(tmp_path / f"{i:02d}.png")
        Image.fromarray(DATA.get(i, 40).transpose(1, 2, 0)).save(files[-1])
    again = tmp_path / "again.png"
    again.write_bytes(files[0].read_bytes())
    model = FakeRCDM("fake")
    result = run([model], tmp_path / "out", images=[*files, again], data=None, pool=0)
    assert len(result.images) == 26 and any("the same as another" in note for note in result.notes)
    # the crop of a file of 40 x 40 has fewer pixels than the encoder takes
    assert any("00.png (40 × 40), 01.png" in note and "smaller than the 64 pixels" in note for note in result.notes)
    model.trained = {image["content_id"] for image in result.images[:5]}
    result = run([model], tmp_path / "out", images=files, data=None, pool=0)
    assert len(result.images) == 21 and any("5 of the 26 pictures were trained on" in note for note in result.notes)
    model.trained |= {image["content_id"] for image in result.images[:2]}
    with pytest.raises(RCDMError, match=r"at least 20 different pictures .* there are 19"):
        run([model], tmp_path / "out", images=files, data=None, pool=0)


def test_bad_parameters_and_judges(tmp_path: Path) -> None:
    model = ExactRCDM("shapes-no-color")
    for name in ("samples", "count", "pool", "rows", "judge_pictures"):
        with pytest.raises(RCDMError, match=f"{name} is -1"):
            run([model], tmp_path, **{name: -1})
    with pytest.raises(RCDMError, match="without a representation"):
        run([FakeRCDM("blind", forgets=["object", "background", "size", "position"])], tmp_path)
    with pytest.raises(RCDMError, match="the encoder of shapes-no-color"):
        run([model], tmp_path, judge="shapes-no-color")


@pytest.mark.parametrize(("fit", "border"), [("crop", 0.0), ("pad", 1.0)])
def test_a_judge_learns_from_pictures_that_are_made_square_as_the_models_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: str, border: float
) -> None:
    """Wide black pictures: padding puts white above them, whatever the fit of the data is."""
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(12):
            Image.new("RGB", (40 + number, 20), (0, 0, number if label == "a" else 40 + number)).save(
                tmp_path / label / f"{number}.png"
            )
    learnt: list[np.ndarray] = []
    monkeypatch.setattr(retention_class, "fit_judge", lambda pictures, *_, **__: learnt.append(pictures))
    model: Any = SimpleNamespace(image_size=16, config=SimpleNamespace(data=SimpleNamespace(fit=fit)))
    retention_class.train_judge("pixels", model, [], ImageFolder(tmp_path), [0, 1], skip=[], count=24, seed=0)
    (pictures,) = learnt
    assert pictures.shape == (24, 3, 16, 16) and (pictures[:, :2, 0] == border).all()


def test_another_encoder_as_the_judge_and_none(tmp_path: Path) -> None:
    small = {"count": 60, "pool": 0}
    found = run([ExactRCDM("shapes-no-color")], tmp_path, judge="shapes-all", **small)
    assert verdicts(found, "shapes-no-color")["class"] == "kept"
    nobody = run([ExactRCDM("shapes-no-color")], tmp_path, judge="none", **small)
    entry = nobody.aggregates["shapes-no-color"]["attributes"]["class"]
    assert entry["verdict"] == "not measurable" and entry["decodable"]["value"] > 0.9
    blind = run([ExactRCDM("shapes-no-color")], tmp_path, judge="shapes-no-shape", **small)  # it cannot see the class
    assert verdicts(blind, "shapes-no-color")["class"] == "not measurable"


@pytest.mark.parametrize("judge", ["pixels", "none"])
def test_classes_of_fewer_pictures_than_the_readouts_have_folds(tmp_path: Path, judge: str) -> None:
    """Classes of 2 to 4 pictures, told by the background's hue, with as many more for the judge."""
    sizes, files = [2, 3, 4] * 3, []
    rng = np.random.default_rng(0)
    for label, size in enumerate(sizes):
        folder = tmp_path / "data" / f"{label}"
        folder.mkdir(parents=True)
        hues = label / len(sizes) + 0.02 * rng.random(2 * size)
        made = [Factors(0, 0.5, hue, 0.2, *rng.uniform(0.45, 0.55, 2), 0.0) for hue in hues]
        for i, pixels in enumerate(render_batch(made, 32)):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{i}.png")
        files += [folder / f"{i}.png" for i in range(size)]
    few: dict[str, Any] = {"data": ImageFolder(tmp_path / "data"), "images": files, "samples": 1, "pool": 0, "rows": 0}
    result = run([ExactRCDM("shapes-all")], tmp_path / "out", judge=judge, **few)
    attributes = result.aggregates["shapes-all"]["attributes"]
    assert attributes["background color"]["verdict"] == "kept" and attributes["background color"]["n"] == 27
    one = attributes["class"]
    assert one["decodable"]["n"] == 27 and one["decodable"]["low"] > 0  # of so few pictures not much, but something
    if judge == "none":
        assert one["verdict"] == "not measurable" and "no judge" in one["why"]
    else:
        assert one["rendered"]["low"] > 0.8


def estimate(value: float, width: float = 0.05) -> Estimate:
    return Estimate(value, value - width, value + width, 100)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (Retained(estimate(0.9), estimate(0.8), heard=estimate(0.9)), "kept"),
        (Retained(estimate(0.0), estimate(0.8), heard=estimate(0.9)), "generator"),
        (Retained(estimate(0.4), estimate(0.8), heard=estimate(0.9)), "generator"),
        (Retained(None, estimate(0.8), heard=estimate(0.9)), "generator"),
        (Retained(None, estimate(0.0), heard=estimate(0.9)), "cannot tell"),
        (Retained(estimate(0.5), estimate(0.8), heard=estimate(0.9)), "cannot tell"),
        (Retained(estimate(0.0), estimate(0.0), variance=estimate(1), heard=estimate(0.9)), "dropped"),
        # a readout worse than the mean has learnt nothing; samples that go against the picture know what it is
        (Retained(estimate(0.0, 0.1), estimate(-0.3, 0.2), variance=estimate(1), heard=estimate(0.9)), "dropped"),
        (Retained(estimate(-0.6, 0.1), estimate(-0.3, 0.2), variance=estimate(1), heard=estimate(0.9)), "cannot tell"),
        (Retained(estimate(0.0, 0.3), estimate(0.0), variance=estimate(1), heard=estimate(0.9)), "cannot tell"),
        (Retained(estimate(0.0), estimate(0.0, 0.3), variance=estimate(1), heard=estimate(0.9)), "cannot tell"),
        (Retained(estimate(0.0), estimate(0.0), variance=estimate(0.2), heard=estimate(0.9)), "cannot tell"),
        (Retained(estimate(0.0), estimate(0.0), variance=estimate(3), heard=estimate(0.9)), "cannot tell"),
        (Retained(estimate(0.0), estimate(0.0), variance=estimate(1), heard=estimate(0.0)), "cannot tell"),
        (Retained(estimate(0.0), estimate(0.1), variance=estimate(1), growth=0.1, heard=estimate(0.9)), "cannot tell"),
        (Retained(estimate(0.9), estimate(0.1), estimate(0.8), estimate(1), heard=estimate(0.9)), "nonlinear"),
        (Retained(estimate(0.9), estimate(0.1), estimate(0.3), estimate(1), heard=estimate(0.9)), "cannot tell"),
        (Retained(estimate(0.9), estimate(0.1), estimate(0.8), estimate(3), heard=estimate(0.9)), "cannot tell"),
        (Retained(estimate(0.9), estimate(0.5), estimate(0.8), estimate(1), heard=estimate(0.9)), "cannot tell"),
        (Retained(estimate(0.4), estimate(0.4), variance=estimate(1), heard=estimate(0.9)), "cannot tell"),
    ],
)
def test_judgement(found: Retained, code: str) -> None:
    assert judge_retention(found).code == code


def test_readouts_are_fitted_on_no_measured_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, plain = [], retention.held_out
    monkeypatch.setattr(retention, "held_out", lambda *a, **k: chosen.append(plain(*a, **k)) or chosen[-1])
    found = run([ExactRCDM("shapes-no-color")], tmp_path, count=40, pool=40, samples=1, judge="none", rows=0)
    (pool,) = chosen
    assert len(pool) == 40 and not {one.id for one in pool} & {one["content_id"] for one in found.images}


def test_what_more_pictures_would_add_to_a_readout_is_measured(tmp_path: Path) -> None:
    """From 12 pictures instead of 24, for an h of 16 numbers."""
    found = run([ExactRCDM()], tmp_path, count=30, pool=0, samples=1, judge="none", rows=0)
    assert found.aggregates["shapes-all"]["attributes"]["position"]["growth"] > 0.01
