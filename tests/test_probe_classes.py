"""The probes linear-probe, confidence and adversarial, on oracles whose class is planted and an exact generator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_rcdm import ExactRCDM
from PIL import Image

import rcdm_core
from rcdm_core.data.folder import ImageFolder
from rcdm_core.data.shapes import POSITIONS, SHAPES, Factors, Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes.base import Result
from rcdm_core.probes.classifying import Classifier, Divided, accuracy
from rcdm_core.probes.pictures import Pictures

DATA = Shapes(200, seed=5)
TRAINED = sorted(DATA.ids)[:120]


def run(name: str, models: list[Any], out: Path, **arguments: Any) -> Result:
    return rcdm_core.run_probe(name, models=models, out=out, **({"data": DATA} | arguments))


def write(folder: Path, classes: dict[str, list[int]], size: int = 40) -> Path:
    """Pictures of DATA as files, in a subfolder a class."""
    for name, places in classes.items():
        (folder / name).mkdir(parents=True)
        for i in places:
            Image.fromarray(DATA.get(i, size).transpose(1, 2, 0)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Result:
    models = [
        ExactRCDM("shapes-no-color", trained=TRAINED),
        ExactRCDM("shapes-no-shape", trained=TRAINED),
        ExactRCDM("shapes-no-color", spoiled="deaf", trained=TRAINED),
    ]
    return run("linear-probe", models, tmp_path_factory.mktemp("linear"), count=20, samples=2)


def test_what_is_planted_is_told_and_what_is_forgotten_is_not(linear: Result) -> None:
    shape, none, deaf = (
        linear.aggregates[name] for name in ("shapes-no-color", "shapes-no-shape", "shapes-no-color deaf")
    )
    assert shape["accuracy"]["value"] > 0.95 and shape["accuracy"]["n"] == 80 and shape["fitted_on"] == 120
    assert none["accuracy"]["low"] < 0.4 and shape["chance"]["value"] < 0.35
    assert shape["rendered"]["value"] > 0.9 and none["rendered"]["value"] < 0.5
    assert deaf["accuracy"] == shape["accuracy"] and deaf["rendered"]["value"] < 0.5  # h has it, the generator not
    assert shape["small"]["value"] > 0.9
    first, second, _, *drawn = linear.aggregates["differences"]
    assert [d["first"].split(", ")[1] for d in drawn] == ["samples"] * 3 and drawn[0]["difference"]["n"] == 20
    # the same h, and a generator that does not use it
    assert drawn[1]["difference"]["value"] == pytest.approx(shape["rendered"]["value"] - deaf["rendered"]["value"])
    assert drawn[1]["p_holm"] < 0.05
    assert first["p_holm"] < 0.001 and first["difference"]["low"] > 0.3
    assert second["difference"]["value"] == 0 and second["p_holm"] == 1
    assert "tells the class of" in linear.answer[0]


def test_the_accuracy_is_scikit_learns(linear: Result) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = ExactRCDM("shapes-no-shape")
    h = model.encode(torch.from_numpy(DATA.get_batch(range(200), 32)).float() / 255).numpy()
    place = {content_id: i for i, content_id in enumerate(DATA.ids)}
    fit = [place[content_id] for content_id in linear.provenance["fitted_on"]]
    test = [place[record["content_id"]] for record in linear.images]
    assert not set(fit) & set(test) and sorted(fit) == sorted(place[content_id] for content_id in TRAINED)
    labels = np.array(DATA.labels)
    entry = linear.aggregates["shapes-no-shape"]
    other = make_pipeline(StandardScaler(), LogisticRegression(C=entry["penalty"][0], max_iter=2000))
    expected = other.fit(h[fit], labels[fit]).score(h[test], labels[test])
    assert entry["accuracy"]["value"] == pytest.approx(expected, abs=0.02)


def test_the_output_of_linear_probe(linear: Result) -> None:
    stored = json.loads((linear.out / "result.json").read_text())
    assert stored["complete"] and len(stored["images"]) == 80 and stored["classes"] == sorted(SHAPES)
    assert {"linear-probe-001.png", "report.html"} <= set(stored["files"])
    assert set(stored["images"][0]["models"]["shapes-no-color"]["samples"]) <= set(SHAPES)
    page = (linear.out / "report.html").read_text()
    assert 'class="framed"' in page and "Accuracy by class" in page and "the most frequent class" in page


def test_chance_is_the_most_frequent_class_of_what_is_tested() -> None:
    """The pictures fitted on are as many of each class, where there are enough."""
    test = np.array([0, 1, 1, 1])
    divided = Divided(["cat", "dog"], [], np.array([0, 1, 0, 1]), Pictures([]), test)
    told = Classifier([], np.zeros(4, np.int64), np.zeros((4, 1)), test, np.ones(4))
    found = accuracy(told, divided)
    assert found["majority_class"] == "dog" and found["chance"]["value"] == 0.75 and found["accuracy"]["value"] == 1


def test_cross_validation(tmp_path: Path) -> None:
    found = run("linear-probe", [ExactRCDM("shapes-no-color")], tmp_path, folds=4, test=60, count=2, samples=1)
    entry = found.aggregates["shapes-no-color"]
    assert entry["accuracy"]["n"] == 60 and len(entry["penalty"]) == 4 and entry["accuracy"]["value"] > 0.9
    with pytest.raises(RCDMError, match="folds is 1"):
        run("linear-probe", [ExactRCDM("shapes-no-color")], tmp_path, folds=1)


def test_more_folds_than_the_largest_class_has_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do for a cross-validation, up to one for each picture; more are refused before a picture is encoded."""
    by_class = {name: [i for i in range(200) if DATA.label_names[DATA.labels[i]] == name][:4] for name in SHAPES[:3]}
    data = ImageFolder(write(tmp_path / "data", by_class))
    model = ExactRCDM("shapes-no-color")
    for number in (5, 12):
        found = run("linear-probe", [model], tmp_path / "out", data=data, folds=number, count=1, samples=1)
        entry = found.aggregates["shapes-no-color"]
        assert entry["accuracy"]["n"] == 12 and len(entry["penalty"]) == number and entry["accuracy"]["value"] > 0.9
    monkeypatch.setattr(ExactRCDM, "encode", lambda *_: pytest.fail("a picture was encoded"))
    with pytest.raises(RCDMError, match=r"--folds is 13, but .*data has 12 held-out pictures .* give 2 to 12, or 0"):
        run("linear-probe", [model], tmp_path / "out", data=data, folds=13)


@pytest.mark.parametrize("trained", [(), TRAINED])
@pytest.mark.parametrize("fit", [10, 60])
def test_a_small_fit_has_all_classes(fit: int, trained: list[str], tmp_path: Path) -> None:
    """Also where no picture was trained on, and those to fit on are held-out ones."""
    model = ExactRCDM("shapes-no-color", trained=trained)
    found = run("linear-probe", [model], tmp_path, fit=fit, test=60, count=1, samples=1)
    assert found.aggregates["shapes-no-color"]["classes"] == len(DATA.label_names)
    assert found.aggregates["shapes-no-color"]["fitted_on"] == fit
    assert not any("left out" in note for note in found.notes)


def test_a_fit_that_is_too_small_is_named(tmp_path: Path) -> None:
    model = ExactRCDM("shapes-no-color", trained=TRAINED)
    with pytest.raises(RCDMError, match=r"--fit 4 is too few to learn the 5 classes of .*; give 10\."):
        run("linear-probe", [model], tmp_path, fit=4, test=60, count=1, samples=1)
    found = run("linear-probe", [model], tmp_path, fit=9, test=60, count=1, samples=1)
    assert any("among the 9 of --fit" in note for note in found.notes)


def test_confident_pictures_have_samples_of_one_class(tmp_path: Path) -> None:
    models = [ExactRCDM("shapes-no-shape", trained=TRAINED), ExactRCDM("shapes-no-color", trained=TRAINED)]
    found = run("confidence", models, tmp_path, count=8, samples=2)
    for name in ("shapes-no-shape", "shapes-no-color"):
        most, least = found.aggregates[name]["groups"].values()
        assert most["probability"]["value"] > least["probability"]["value"]
        assert most["agreement"]["n"] == 8 and most["distance"]["low"] is not None
    assert most["agreement"]["value"] > 0.9 and most["accuracy"]["value"] == 1
    differences = found.aggregates["differences"]
    assert len(differences) == 2 * 3 + 2 * 3 and all(d["p_holm"] >= d["p"] for d in differences)
    stored = json.loads((tmp_path / "result.json").read_text())
    assert len(stored["images"]) == 2 * 2 * 8 and {r["group"] for r in stored["images"]} == {
        "most confident",
        "least confident",
    }
    page = (tmp_path / "report.html").read_text()
    assert "Most against least confident" in page and "Models against each other" in page


class Sides(Shapes):
    """Shapes whose class is the side on which the object is."""

    def __init__(self, n: int, seed: int) -> None:
        super().__init__(n, seed)
        self.label_names = ["left", "right"]
        self.labels = [int(self.factors(i).x > sum(POSITIONS) / 2) for i in range(n)]


class Unsteady(ExactRCDM):
    """Its samples miss the place that h tells by 0.05 of the picture's side."""

    def _factors(self, rng: np.random.Generator, told: dict[str, Any]) -> Factors:
        drawn = super()._factors(rng, told)
        return replace(drawn, x=drawn.x + 0.05 * rng.standard_normal())


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Near the middle a small miss of the place changes the class, and far from it none does."""
    data = Sides(200, seed=5)
    trained = sorted(data.ids)[:100]
    models = [
        Unsteady("shapes-no-color", trained=trained, name="unsteady"),
        ExactRCDM("shapes-no-color", trained=trained, name="steady"),
        ExactRCDM("shapes-no-color", trained=trained, name="deaf", spoiled="deaf"),
        Unsteady("shapes-no-shape", trained=trained, name="other unsteady"),
    ]
    return run("confidence", models, tmp_path_factory.mktemp("sides"), data=data, count=20, samples=4)


def test_a_difference_between_the_groups_is_found_where_there_is_one(sides: Result) -> None:
    found = {d["first"]: d for d in sides.aggregates["differences"] if d["second"] == "least confident"}
    assert len(found) == 4 * 3
    for name in ("unsteady", "other unsteady"):
        most, least = sides.aggregates[name]["groups"].values()
        # beyond 0.1 from the middle a miss by 0.05 seldom crosses it; at the middle half of them do
        assert most["agreement"]["value"] > 0.95 and 0.4 < least["agreement"]["value"] < 0.75
        apart = found[f"{name}: samples of the probe's class, most confident"]
        assert apart["p_holm"] < 0.01 and apart["difference"]["low"] > 0.15
        assert found[f"{name}: samples of the picture's class, most confident"]["p_holm"] < 0.01
        # they miss by as much in both groups
        assert found[f"{name}: samples from h, most confident"]["p_holm"] > 0.05
    for name in ("steady", "deaf"):  # no miss, and one that has nothing to do with the picture
        assert all(d["p_holm"] > 0.05 for first, d in found.items() if first.startswith(f"{name}:"))
        for one in sides.aggregates[name]["groups"].values():
            assert (one["agreement"]["value"] > 0.97) == (name == "steady")


def test_models_are_compared_within_each_group(sides: Result) -> None:
    between = {(d["first"], d["second"]): d for d in sides.aggregates["differences"] if d["second"] in sides.aggregates}
    assert len(between) == 6 * 2 * 3
    least, most = (
        between[f"unsteady: samples of the probe's class, {group} confident", "steady"] for group in ("least", "most")
    )
    assert least["p_holm"] < 0.01 and least["difference"]["high"] < -0.2
    assert most["p_holm"] > 0.05 and abs(most["difference"]["value"]) < 0.05
    # the same h, so that both have the same pictures: they are pairs
    groups = {
        name: [image["content_id"] for image in sides.images if image["model"] == name]
        for name in ("unsteady", "steady", "other unsteady")
    }
    assert groups["unsteady"] == groups["steady"] != groups["other unsteady"]
    # two encoders that both tell the side, and generators that miss it alike, on pictures that are the same in part
    for group in ("least", "most"):
        same = between[f"unsteady: samples of the probe's class, {group} confident", "other unsteady"]
        assert same["p_holm"] > 0.05 and same["difference"]["low"] < 0.05 and same["difference"]["high"] > -0.05
    assert "by swapping the models of pictures" in (sides.out / "report.html").read_text()


@pytest.mark.parametrize("name", ["linear-probe", "confidence", "adversarial"])
def test_labels_that_there_are_not(name: str, tmp_path: Path) -> None:
    model = [ExactRCDM("shapes-all")]
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.fromarray(DATA.get(0, 40).transpose(1, 2, 0)).save(flat / "0.png")
    single = write(tmp_path / "single", {"only": [0, 1, 2]})
    lonely = write(tmp_path / "lonely", {"a": [0, 1, 2, 3], "b": [4]})
    for data, message in (
        (flat, "has no labels"),
        (single, "has one class only"),
        (lonely, "Fewer than two classes of .* have two pictures to learn them from"),
    ):
        with pytest.raises(RCDMError, match=message):
            run(name, model, tmp_path / "out", data=data)
    classes = write(tmp_path / "classes", {"a": [0, 1, 2, 3], "b": [4, 5, 6, 7], "c": [8]})
    found = run(name, model, tmp_path / "out", data=classes, count=1, samples=1)
    assert found.provenance["classes"] == ["a", "b"] and any("c: fewer than two pictures" in n for n in found.notes)
    assert any("too few for intervals" in note for note in found.notes)


@pytest.mark.parametrize("name", ["linear-probe", "confidence"])
def test_a_picture_twice_pictures_trained_on_and_small_ones(name: str, tmp_path: Path) -> None:
    """Copies count once, what a model was trained on is fitted on and never tested, and small pictures are enlarged."""
    from rcdm_core.data.images import content_hash

    classes = write(tmp_path / "in", {"a": list(range(6)), "b": list(range(6, 12))}, size=9)
    trained = [content_hash(classes / folder / f"{i}.png") for folder, i in (("a", 0), ("a", 1), ("b", 6), ("b", 7))]
    (classes / "b" / "copy.png").write_bytes((classes / "a" / "5.png").read_bytes())  # of another class, too
    found = run(name, [ExactRCDM("shapes-all", trained=trained)], tmp_path / "out", data=classes, samples=1, count=2)
    tested = {picture["content_id"] for picture in found.provenance["pictures"]}
    fitted = found.provenance["fitted_on"]
    assert set(trained) <= set(fitted) and not tested & set(fitted) and len(set(fitted)) == len(fitted)
    assert len(tested) + len(fitted) == 12


def test_single_pictures_are_no_set(tmp_path: Path) -> None:
    for name in ("linear-probe", "confidence"):
        with pytest.raises(RCDMError, match=f"{name} takes labelled sets"):
            run(name, [ExactRCDM("shapes-all")], tmp_path / "out", images=[tmp_path / "x.png"])


# adversarial


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Result:
    models = [
        ExactRCDM("shapes-no-color", trained=TRAINED),
        ExactRCDM("shapes-no-color", spoiled="deaf", trained=TRAINED),
    ]
    return run(
        "adversarial",
        models,
        tmp_path_factory.mktemp("adversarial"),
        attack="pgd",
        attack_steps=4,
        epsilons="0,0.05,0.3",
        attacked=24,
        count=8,
        samples=2,
        rows=1,
    )


def test_attacks_flip_and_samples_follow_h(attacked: Result) -> None:
    none, _, large = attacked.aggregates["shapes-no-color"]["steps"]
    assert none["epsilon"] == 0 and none["flipped"]["value"] == 0 and none["moved"]["value"] == 0
    assert none["samples_true"]["value"] > 0.9 and none["samples_target"]["value"] < 0.1
    assert large["flipped"]["value"] > 0.3 and large["flipped"]["n"] <= 24 and large["moved"]["value"] > 0.1
    assert large["samples_true"]["value"] < none["samples_true"]["value"]  # the exact generator draws what h says
    deaf = attacked.aggregates["shapes-no-color deaf"]["steps"]
    assert [step["flipped"] for step in deaf] == [
        step["flipped"] for step in attacked.aggregates["shapes-no-color"]["steps"]
    ]
    assert deaf[0]["samples_true"] == deaf[2]["samples_true"]  # one noise for all epsilons
    flips = {d["first"]: d for d in attacked.aggregates["differences"]}
    assert list(flips) == [
        *(f"shapes-no-color, flipped at ε {epsilon}" for epsilon in (0.05, 0.3)),
        *(f"shapes-no-color, true samples at ε {epsilon}" for epsilon in (0, 0.05, 0.3)),
    ]
    same = flips["shapes-no-color, flipped at ε 0.3"]  # one encoder, one probe: every picture flips in both or none
    assert same["second"] == "shapes-no-color deaf, flipped at ε 0.3" and same["p_holm"] == 1
    assert same["difference"]["value"] == 0 and same["difference"]["n"] == large["flipped"]["n"]
    deaf_less = flips["shapes-no-color, true samples at ε 0"]["difference"]
    assert deaf_less["value"] == pytest.approx(none["samples_true"]["value"] - deaf[0]["samples_true"]["value"])
    assert deaf_less["n"] == 8 and flips["shapes-no-color, true samples at ε 0"]["p"] < 0.05
    assert "an attack of ε =" in attacked.answer[0]


def test_shares_of_flipped_samples_are_counts(attacked: Result) -> None:
    """Figure 4: what samples of the h of pictures that were flipped show."""
    counted = 0
    for name in ("shapes-no-color", "shapes-no-color deaf"):
        seen = [(r["class"], r["models"][name]) for r in attacked.images if "samples" in r["models"][name]]
        for e, step in enumerate(attacked.aggregates[name]["steps"]):
            flipped = [
                (true, of["predicted"][e], of["samples"][e])
                for true, of in seen
                if of["unattacked"] == true != of["predicted"][e]
            ]
            for key, k in (("flipped_samples_true", 0), ("flipped_samples_follow", 1)):
                shares = [np.mean([one == found[k] for one in found[2]]) for found in flipped]
                assert step[key]["n"] == len(shares)
                assert not shares or step[key]["value"] == pytest.approx(np.mean(shares))
                counted += len(shares)
    assert counted > 4


def test_the_output_of_adversarial(attacked: Result) -> None:
    stored = json.loads((attacked.out / "result.json").read_text())
    assert stored["complete"] and stored["epsilons"] == [0, 0.05, 0.3] and "[0, 1] image" in stored["epsilon_unit"]
    assert {"adversarial-001.png", "adversarial-002.png", "adversarial.png", "report.html"} <= set(stored["files"])
    record = stored["images"][0]
    names = sorted(SHAPES)
    of_model = record["models"]["shapes-no-color"]
    assert of_model["target"] == names[(names.index(record["class"]) + 1) % 5] and len(of_model["samples"]) == 3
    page = (attacked.out / "report.html").read_text()
    assert 'class="framed"' in page and '<svg class="plot"' in page and "encoder&#39;s input size" in page
    assert f"({record['class']})" in page


def test_pictures_that_are_given(tmp_path: Path) -> None:
    """One twice, one that was trained on, one without a label, all smaller than what the encoder takes."""
    files = write(tmp_path / "in", {"x": [0, 1]}, size=24)
    paths = [files / "x" / "0.png", files / "x" / "0.png", files / "x" / "1.png"]
    from rcdm_core.data.images import content_hash

    model = ExactRCDM("shapes-no-color", trained=[*TRAINED, content_hash(paths[2])])
    small = {"attacked": 6, "samples": 1, "count": 1, "epsilons": [0.1], "target": "star"}
    found = run("adversarial", [model], tmp_path / "out", images=paths, **small)
    assert [record["name"] for record in found.images[:2]] == ["0.png", "1.png"] and len(found.images) == 6
    assert found.images[0]["class"] is None and "samples" in found.images[1]["models"]["shapes-no-color"]
    for words in ("counts once", "smaller than the 32 pixels", "was trained on 1 of the 6", "no label that the probe"):
        assert any(words in note for note in found.notes), words
    assert all(record["class"] != "star" for record in found.images)
    assert found.aggregates["shapes-no-color"]["steps"][0]["flipped"]["n"] <= 4


def test_given_pictures_of_the_target_are_left_out(tmp_path: Path) -> None:
    """More of them than pictures are left to attack."""
    data = {name: [i for i in range(90) if DATA.label_names[DATA.labels[i]] == name] for name in SHAPES}
    folder = write(tmp_path / "data", data)
    stars = sorted((folder / "star").iterdir())[:8]
    few = {"test": 5, "samples": 1, "count": 1, "epsilons": [0.1], "target": "star", "data": folder}
    found = run("adversarial", [ExactRCDM("shapes-no-color")], tmp_path / "out", images=stars, **few)
    assert found.images and all(record["class"] != "star" for record in found.images)
    assert all("samples" in record["models"]["shapes-no-color"] for record in found.images)


@pytest.mark.parametrize("target", ["least", "away"])
def test_other_targets(target: str, tmp_path: Path) -> None:
    found = run(
        "adversarial",
        [ExactRCDM("shapes-no-color", trained=TRAINED)],
        tmp_path,
        target=target,
        epsilons=[0.2],
        attacked=6,
        count=1,
        samples=1,
    )
    step = found.aggregates["shapes-no-color"]["steps"][0]
    assert (step["reached"]["value"] is None) == (target == "away") and step["flipped"]["value"] is not None


def test_bad_parameters_of_adversarial(tmp_path: Path) -> None:
    model = ExactRCDM("shapes-no-color", trained=TRAINED)
    for arguments, message in (
        ({"epsilons": "0.1,much"}, "epsilons of the probe adversarial is '0.1,much', but expected numbers with commas"),
        ({"epsilons": ""}, "expected numbers with commas"),
        ({"epsilons": [0.1, "x"]}, "expected numbers with commas"),
        ({"epsilons": "0.1,nan"}, "expected numbers with commas"),
        ({"epsilons": "-0.1"}, r"of the \[0, 1\] image"),
        ({"epsilons": "8"}, r"of the \[0, 1\] image"),
        ({"attack": "cw"}, "no attack 'cw'; expected fgsm or pgd"),
        ({"target": "lion"}, "no target 'lion'; expected a class"),
        ({"attacked": 0}, "attacked is 0"),
    ):
        with pytest.raises(RCDMError, match=message):
            run("adversarial", [model], tmp_path, **arguments)
    model.encoder.network.differentiable = False  # type: ignore[assignment]
    with pytest.raises(RCDMError, match="encoder of shapes-no-color has no gradient"):
        run("adversarial", [model], tmp_path / "new")
    assert not (tmp_path / "new" / "result.json").exists()
