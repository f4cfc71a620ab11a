"""Table 1a with generators whose truth is known, and torch-fidelity's measures with weights of the real form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from exact_rcdm import ExactRCDM
from fake_rcdm import FakeRCDM
from torch_fidelity import feature_extractor_inceptionv3 as inception_v3
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.metrics import fidelity
from rcdm_core.metrics.frechet import frechet
from rcdm_core.probes.base import Result

DATA = Shapes(320, seed=5)
TRAINED = sorted(DATA.ids)[:40]


def run(models: list[Any], out: Path, **arguments: Any) -> Result:
    settings: dict[str, Any] = {"data": DATA, "count": 140, "shown": 3} | arguments
    return rcdm_core.run_probe("quality", models=models, out=out, **settings)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    models = [ExactRCDM("shapes-no-color", spoiled=spoiled, trained=TRAINED) for spoiled in (None, "gray", "constant")]
    return run(models, tmp_path_factory.mktemp("quality"), space="shapes-all")


def test_an_exact_sampler_is_as_good_as_real_pictures_and_spoiled_ones_are_not(result: Result) -> None:
    exact, gray, constant = (result.aggregates[name]["relative"] for name in list(result.aggregates)[:3])
    assert exact["excess"]["low"] < 0 < exact["excess"]["high"] and exact["real"]["low"] > 0
    assert gray["excess"]["low"] > 0.05 and gray["samples"]["low"] > exact["samples"]["high"]
    # one picture for all: the kept parts and the others are at one h, the variance is missing and the mean is off
    assert constant["samples"]["low"] > 0.5 and exact["real"] == constant["real"]
    found = {(d["first"], d["second"]): d for d in result.aggregates["differences"]}
    name = "shapes-no-color"
    distance = "Fréchet distance"
    assert found[f"{name}, {distance}", f"{name} gray, {distance}"]["difference"]["high"] < 0
    assert all(d["p_holm"] < 0.05 for d in found.values()) and len(found) == 3


def test_the_output(result: Result) -> None:
    stored = json.loads((result.out / "result.json").read_text())
    assert stored["complete"] and stored["files"] == ["quality.png", "report.html"]
    assert stored["drawn"] == stored["reference_pictures"] == 140 and len(stored["pictures"]) == 280
    assert stored["aggregates"]["shapes-no-color"]["fidelity"] is None
    notes = " ".join(stored["notes"])
    assert "Inception's weights are not at hand: --inception download" in notes and "not with published ones" in notes
    page = (result.out / "report.html").read_text()
    assert "Models against each other" in page and "rcdm probe quality" in page and "Fréchet distance" in page


def test_the_own_space_and_the_unconditional_drawing(tmp_path: Path) -> None:
    model = FakeRCDM("exact", trained=TRAINED)
    found = run([model], tmp_path, count=40, drawing="unconditional", std=0.002, shown=0)
    entry = found.aggregates["exact"]
    assert entry["space"] == "fake" and entry["dim"] == 9 and found.aggregates["differences"] == []
    assert entry["relative"]["samples"]["high"] < 1 and found.files == ["report.html"]
    spread = run([model], tmp_path, count=40, drawing="unconditional", std=0.3, shown=0)
    assert spread.aggregates["exact"]["relative"]["samples"]["value"] > entry["relative"]["samples"]["value"]


# torch-fidelity


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the form of torch-fidelity's, with random weights."""

    class Untrained(inception_v3.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:  # type: ignore[override]
            pass

    torch.manual_seed(0)
    with mock.patch.object(inception_v3, "load_state_dict_from_url", return_value={}):
        network = Untrained("untrained", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def test_fidelity_through_the_probe(weights: Path, tmp_path: Path) -> None:
    found = run([FakeRCDM("exact", trained=TRAINED)], tmp_path, count=7, inception=str(weights), shown=2)
    entry = found.aggregates["exact"]["fidelity"]
    assert set(entry) == set(fidelity.MEASURES) and entry["fid"]["samples"]["n"] == 7
    assert all(part[key]["low"] is not None for part in entry.values() for key in ("samples", "real"))
    assert f"--inception {weights}" in found.provenance["command"]
    assert "FID " in found.answer[0] and "recall" in (tmp_path / "report.html").read_text()
    assert not any("Inception's weights" in note for note in found.notes)


class Glance:
    """In Inception's place: the colours of a few pixels as features, and which colour the middle has as logits."""

    def __init__(self, *_: Any) -> None:
        pass

    def look(self, pictures: np.ndarray) -> fidelity.Seen:
        small = pictures[:, :, 3::8, 3::8].astype(np.float32) / 255
        colours = (small - small.mean(axis=1, keepdims=True)).reshape(len(pictures), -1)
        return fidelity.Seen(8 * colours, 8 * pictures[:, :, 14:18, 14:18].mean(axis=(2, 3)).astype(np.float32) / 255)


@pytest.mark.parametrize("space", ["", "shapes-all"])
def test_every_measure_is_compared_between_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: str) -> None:
    """Samples of one encoder's h with and without colours, the first ones once more, and those of another encoder's."""
    monkeypatch.setattr(fidelity, "Inception", Glance)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"-")
    models = [
        ExactRCDM("shapes-no-color", trained=TRAINED, name="exact"),
        ExactRCDM("shapes-no-color", trained=TRAINED, name="again"),
        ExactRCDM("shapes-no-color", trained=TRAINED, name="gray", spoiled="gray"),
        ExactRCDM("shapes-no-shape", trained=TRAINED, name="other"),
    ]
    found = run(models, tmp_path / "out", count=60, inception=str(weights), shown=0, space=space)
    compared = {(d["first"], d["second"]): d for d in found.aggregates["differences"]}
    titles = list(fidelity.MEASURES.values())
    for title in (*titles, "Fréchet distance"):
        same = compared[f"exact, {title}", f"again, {title}"]
        # of 60 pictures that all agree, some of others may still differ: shares are not known better than that
        least = -1.96 / 62 if title in ("precision", "recall") else 0
        assert same["difference"]["value"] == 0 and same["difference"]["low"] == pytest.approx(least, abs=1e-4)
        assert same["p"] == same["p_holm"] == 1
    # the encoder's own space is blind to colours
    for title in ("FID", "KID", "recall", *(["Fréchet distance"] if space else [])):
        apart = compared[f"exact, {title}", f"gray, {title}"]
        worse = apart["difference"]["low"] > 0 if title == "recall" else apart["difference"]["high"] < 0
        assert worse and apart["p"] <= apart["p_holm"] < 0.05, (title, apart)
        entry = [found.aggregates[name] for name in ("exact", "gray")]
        values = [
            one["relative"]["samples"] if "Fr" in title else one["fidelity"][title.lower()]["samples"] for one in entry
        ]
        assert apart["difference"]["value"] == pytest.approx(values[0]["value"] - values[1]["value"])
    # in the encoders' own spaces a distance says nothing about one in another
    assert ("exact, Fréchet distance", "other, Fréchet distance") in compared or not space
    assert len(compared) == 6 * len(titles) + (6 if space else 3)
    assert any("are not compared; with --space" in note for note in found.notes) is not bool(space)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Models against each other" in page and "exact, KID less gray, KID" in page


def test_models_of_another_size_or_fit_are_not_compared(tmp_path: Path) -> None:
    """The real pictures that their samples are held against are others."""
    models = [ExactRCDM("shapes-all", name=name) for name in ("one", "two", "padded")]
    models[2].config.data.fit = "pad"
    found = run(models, tmp_path, count=20, space="shapes-all", shown=0)
    assert {(d["first"], d["second"]) for d in found.aggregates["differences"]} == {
        ("one, Fréchet distance", "two, Fréchet distance")
    }
    assert any("different image sizes or fits" in note for note in found.notes)


def test_measures_are_torch_fidelitys() -> None:
    rng = np.random.default_rng(0)
    n, dim = 60, 16
    seen = [
        fidelity.Seen(
            (shift + scale * rng.standard_normal((n, dim))).astype(np.float32),
            (3 * rng.standard_normal((n, 10))).astype(np.float32),
        )
        for shift, scale in ((0.3, 0.8), (0.0, 1.0), (0.0, 1.0))
    ]
    samples, real = fidelity.measure(seen[:2], seen[2], seed=0)
    features, reference = (torch.from_numpy(one.features) for one in (seen[0], seen[2]))
    kid = kid_features_to_metric(features, reference, kid_subset_size=n, kid_subsets=1, verbose=False)
    prc = prc_features_to_metric(features, reference, verbose=False)
    isc = isc_features_to_metric(torch.from_numpy(seen[0].logits), 1)
    expected = {
        "fid": frechet(seen[0].features, seen[2].features),
        "is": isc["inception_score_mean"],
        "kid": kid["kernel_inception_distance_mean"],
        "precision": prc["precision"],
        "recall": prc["recall"],
    }
    assert {key: value.value for key, value in samples.items()} == pytest.approx(expected, rel=1e-5)
    assert real["fid"].value < samples["fid"].value and real["kid"].value < samples["kid"].value
    kid_of_real = real["kid"].estimate()
    assert kid_of_real.low is not None and kid_of_real.high is not None and kid_of_real.low < 0 < kid_of_real.high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inception": "missing.pth"}, "--inception missing.pth does not exist"),
        ({"drawing": "both"}, "drawing is 'both'"),
        ({"images": ["x.png"]}, "--data instead of --image"),
        ({"data": Shapes(3)}, "3 held-out pictures are too few"),
        ({"space": "shapes-al"}, "shapes-all"),
        ({"count": 1}, "count is 1"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RCDMError, match=message):
        run([FakeRCDM("exact")], tmp_path, **{"count": 4, **arguments})


def test_weights_of_another_kind(tmp_path: Path) -> None:
    other, broken = tmp_path / "other.pth", tmp_path / "broken.pth"
    torch.save({"conv.weight": torch.zeros(3)}, other)
    broken.write_text("hello")
    with pytest.raises(RCDMError, match=r"other.pth does not hold torch-fidelity's Inception weights .* --inception"):
        fidelity.Inception(other, "cpu")
    with pytest.raises(RCDMError, match=r"broken.pth"):
        fidelity.Inception(broken, "cpu")
    assert fidelity.find_weights("no") is None
