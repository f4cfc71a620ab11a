"""The probes samples, variance and distances, with generators whose truth is known."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_rcdm import SIZE, FakeRCDM
from PIL import Image
from scipy.spatial.distance import cdist, pdist

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes import reference
from rcdm_core.probes.base import Result
from rcdm_core.probes.pictures import choose, read_arrays
from rcdm_core.probes.reference import Random
from rcdm_core.probes.samples import unusual
from rcdm_core.report import html

DATA = Shapes(60, seed=3)
TRAINED = sorted(DATA.ids)[:20]


class Gray(FakeRCDM):
    """Draws gray pictures with noise of a known variance, whatever h is."""

    def sample(
        self, h: torch.Tensor, n: int = 1, *, seed: int, streams: Sequence[str], progress: Any = None, **settings: Any
    ) -> torch.Tensor:
        rng = np.random.default_rng([seed, int(streams[0][:8], 16)])
        return torch.from_numpy(0.5 + 0.1 * rng.standard_normal((len(h), n, 3, SIZE, SIZE))).float()


def run(name: str, models: list[FakeRCDM], out: Path, **arguments: Any) -> Result:
    settings: dict[str, Any] = {"data": DATA, "samples": 3, "count": 6, "pool": 30} | arguments
    return rcdm_core.run_probe(name, models=models, out=out, **settings)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Result:
    models = [FakeRCDM("exact", trained=TRAINED), FakeRCDM("deaf", deaf=True, trained=TRAINED)]
    return run("samples", models, tmp_path_factory.mktemp("samples"), seeds=2)


def group(result: Result, name: str, key: str = "held out") -> dict[str, Any]:
    return dict(result.aggregates[name]["groups"][key])


def test_a_pool_larger_than_the_pictures_whose_pairs_are_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is unusual is told by all of the pool, whose pairs are only in part the unit of distances."""
    monkeypatch.setattr(reference, "UNIT_PICTURES", 8)
    monkeypatch.setitem(html._environment().globals, "unit_pictures", 8)
    found = run("samples", [FakeRCDM("exact")], tmp_path, pool=20, samples=1, count=2)
    assert found.aggregates["exact"]["pool"] == 20
    assert "Random pairs: of 8 held-out pictures" in (tmp_path / "report.html").read_text()
    assert all(0 <= record["models"]["exact"]["unusual"] <= 1 for record in found.images)


def test_the_nearest_of_a_pool() -> None:
    h = np.random.default_rng(0).standard_normal((200, 4))
    h[7] = h[3]  # two pictures of one h
    distances = cdist(h, h) + np.diag(np.full(len(h), np.inf))
    pool = Random(h, np.zeros((0, 3, 1, 1)), np.zeros((2, 2)), np.zeros((2, 2)))
    assert np.allclose(pool.nearest, distances.min(axis=1), rtol=1e-12) and pool.nearest[3] == 0
    outside = np.full((1, 4), 9.0)
    assert unusual(outside, pool) == 1 and unusual(h[3:4] + 1e-3, pool) < 0.1
    assert unusual(h[20:21], pool) == pytest.approx((pool.nearest < pool.nearest[20]).mean(), abs=1 / len(h))


def test_an_exact_generator_is_near_and_a_deaf_one_is_not(samples: Result) -> None:
    exact, deaf = group(samples, "exact"), group(samples, "deaf")
    assert exact["distance"]["high"] < 0.1 and deaf["distance"]["low"] > 0.5
    assert exact["spread"]["high"] < 0.05 < 0.3 < deaf["spread"]["low"]
    assert exact["floor"]["value"] == deaf["floor"]["value"] < 0.1
    found = {one["first"]: one for one in samples.aggregates["differences"]}
    assert set(found) == {"exact: samples from h", "exact: spread", "exact: unusual"}
    for key in ("exact: samples from h", "exact: spread"):
        assert found[key]["p"] < 0.05 and found[key]["difference"]["high"] < 0
        assert found[key]["difference"]["value"] == pytest.approx(
            *(exact[part]["value"] - deaf[part]["value"] for part in ["spread" if "spread" in key else "distance"])
        )


def test_a_picture_on_the_page_is_called_as_its_column(samples: Result) -> None:
    """Which is what is read aloud, and stands below it when it is enlarged."""
    page = (samples.out / "report.html").read_text()
    rows = [row for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if 'class="strip"' in row]
    for row in rows:
        strips = re.findall(r'<div class="strip">(.*?)</div>', row, re.DOTALL)
        assert [re.findall(r'alt="(.*?)"', strip) for strip in strips] == [["exact"] * 3, ["deaf"] * 3]
    assert len(rows) == 6 * 2


def test_units_and_spread_are_those_of_the_pool(samples: Result) -> None:
    """Recomputed with scipy from the same held-out pictures."""
    model = FakeRCDM("exact")
    held = choose([], DATA, [FakeRCDM("exact", trained=TRAINED)], count=30)
    h = model.encode(torch.from_numpy(read_arrays(held, 64, "crop"))).numpy().astype(np.float64)
    assert samples.aggregates["exact"]["random_pair_distance"] == pytest.approx(pdist(h).mean(), rel=1e-6)
    deaf = np.array([record["models"]["deaf"]["spread"] for record in samples.images])
    unit = read_arrays(held, SIZE, "crop").astype(np.float64).var(axis=0, ddof=1).mean()
    assert group(samples, "deaf")["spread"]["value"] == pytest.approx(deaf.mean() / unit, rel=1e-5)


def test_the_output_of_samples(samples: Result) -> None:
    stored = json.loads((samples.out / "result.json").read_text())
    assert stored["complete"] and stored["files"] == ["samples-001.png", "report.html"]
    assert len(stored["images"]) == 6 and all(record["group"] == "held out" for record in stored["images"])
    page = (samples.out / "report.html").read_text()
    assert page.count("data:image/png") == 6 * 2 * (1 + 2 * 3)  # pictures and seeds: the picture, and both models
    for words in ("What the numbers mean", "How it was computed", "What this cannot tell", "rcdm probe samples"):
        assert words in page
    assert "://" not in page.replace("http://www.w3.org", "")


def test_pictures_given_beside_held_out_ones(tmp_path: Path) -> None:
    """A picture unlike the set is told from those that are; a small one, one given twice, one trained on is said."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 5, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "tiny.png")
    Image.fromarray(noise).save(tmp_path / "again.png")
    given = [tmp_path / "tiny.png", tmp_path / "again.png"]
    model = FakeRCDM("exact", trained=TRAINED)
    found = run("samples", [model], tmp_path / "out", images=given, beside=3, samples=1)
    assert [record["group"] for record in found.images] == ["given", "held out", "held out", "held out"]
    assert found.images[0]["models"]["exact"]["unusual"] == 1.0
    assert group(found, "exact")["unusual"]["value"] < 1 and set(found.aggregates["exact"]["groups"]) == {
        "given",
        "held out",
    }
    notes = " ".join(found.notes)
    assert "1 of the 2 pictures given is the same" in notes and "(5 × 9) is smaller than the 64 pixels" in notes
    assert "too few for intervals" in notes and "no spread" in notes
    model.trained = {found.images[0]["content_id"]}
    seen = run("samples", [model], tmp_path / "seen", images=given[:1], samples=1)
    assert any("exact was trained on 1 of the 1 pictures" in note for note in seen.notes)


def test_samples_do_not_depend_on_what_else_is_asked_for(samples: Result, tmp_path: Path) -> None:
    alone = run("samples", [FakeRCDM("deaf", deaf=True, trained=TRAINED)], tmp_path, count=2, seeds=2, pool=0)
    for few, many in zip(alone.images, samples.images, strict=False):
        assert few["models"]["deaf"]["distance"] == pytest.approx(many["models"]["deaf"]["distance"], rel=1e-6)
    assert any("too few" in note for note in alone.notes)


def test_provenance_is_on_disk_before_the_compute(tmp_path: Path) -> None:
    model = FakeRCDM("exact", trained=TRAINED)

    def interrupt() -> None:
        stored = json.loads((tmp_path / "result.json").read_text())
        assert not stored["complete"] and len(stored["pictures"]) == 6
        raise KeyboardInterrupt

    model.before_sampling = interrupt
    with pytest.raises(KeyboardInterrupt):
        run("samples", [model], tmp_path)


# variance


def test_the_variance_is_the_samplers(tmp_path: Path) -> None:
    models: list[FakeRCDM] = [Gray("gray", trained=TRAINED), FakeRCDM("exact", trained=TRAINED)]
    found = run("variance", models, tmp_path, samples=8, top=0.02)
    gray = found.aggregates["gray"]
    assert gray["variance"]["value"] == pytest.approx(0.01, rel=0.02)  # 6 pictures of 8 x 3072 values
    assert gray["relative"]["value"] == pytest.approx(gray["variance"]["value"] / gray["random_variance"])
    for name in ("gray", "exact"):
        for image in found.images:
            of_model = image["models"][name]
            with np.load(tmp_path / of_model["map"]["file"]) as arrays:
                one = arrays[of_model["map"]["array"]][of_model["map"]["row"]]
            assert one.shape == (SIZE, SIZE) and one.mean() == of_model["variance"]
    assert found.images[0]["models"]["gray"]["variance"] == pytest.approx(0.01, rel=0.05)
    assert (tmp_path / "result.json").stat().st_size < 1000 * (4 + len(found.images)) + SIZE * SIZE  # no map in it
    assert found.aggregates["exact"]["relative"]["high"] < 0.05
    assert found.aggregates["differences"][0]["p_holm"] < 0.05
    page = (tmp_path / "report.html").read_text()
    assert "0.02 and more" in page and "variance-001.png" in found.files
    with Image.open(tmp_path / "variance-001.png") as grid:
        assert grid.height > 7 * 96


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("samples", {"seeds": 0}, "seeds is 0"),
        ("samples", {"images": ["none.png"]}, "no picture none.png"),
        ("variance", {"samples": 1}, "samples is 1"),
        ("variance", {"top": 0.0}, "top is 0"),
        ("distances", {"chain": "byol"}, "no chain of augmentations 'byol'"),
        ("distances", {"pool": 1}, "pool is 1"),
    ],
)
def test_bad_input(tmp_path: Path, name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RCDMError, match=message):
        run(name, [FakeRCDM("exact")], tmp_path, **arguments)


def test_a_model_without_a_representation(tmp_path: Path) -> None:
    blind = FakeRCDM("blind", forgets=["object", "background", "size", "position"])
    names = ("samples", "variance", "distances", "neighbours", "interpolation", "arithmetic", "class-mean")
    for name in (*names, "linear-probe", "confidence", "adversarial", "manipulation"):
        with pytest.raises(RCDMError, match="without a representation"):
            rcdm_core.run_probe(name, models=[blind], data=DATA, out=tmp_path)


# distances


@pytest.fixture(scope="module")
def distances(tmp_path_factory: pytest.TempPathFactory) -> Result:
    exact, colorless = FakeRCDM("exact", trained=TRAINED), FakeRCDM("no-color", forgets=["object", "background"])
    return run("distances", [exact, colorless], tmp_path_factory.mktemp("distances"), count=5, samples=2)


def test_distances_are_the_truth(distances: Result) -> None:
    exact, colorless = (distances.aggregates[name]["relative"] for name in ("exact", "no-color"))
    assert exact["samples"]["high"] < 0.05 and exact["random pictures"]["value"] == pytest.approx(1, abs=0.25)
    # one encoder sees color, the other does not
    assert exact["grayscale"]["low"] > 0.1 > colorless["grayscale"]["high"]
    assert exact["jitter"]["low"] > 0.05 > colorless["jitter"]["high"]
    nearer = distances.aggregates["exact"]["samples_nearer_than"]
    assert nearer["nearest in training"]["value"] == 1 and nearer["nearest in training"]["n"] == 5
    assert 0.5 < nearer["grayscale"]["low"] < 1


def test_what_is_further_than_samples_is_tested_picture_by_picture(distances: Result, tmp_path: Path) -> None:
    assert all(one["p"] is None for one in distances.aggregates["exact"]["against_samples"].values())  # five pictures
    assert "too near to call: " in distances.answer[0] and "further from" not in distances.answer[0]
    models = [FakeRCDM("exact"), FakeRCDM("no-color", forgets=["object", "background"])]
    found = run("distances", models, tmp_path, count=12, samples=1, training=1)
    for name, sentence in zip(("exact", "no-color"), found.answer, strict=True):
        entry = found.aggregates[name]
        tests = entry["against_samples"]
        assert "samples" not in tests and "dino chain" in tests
        for kind, one in tests.items():
            expected = entry["relative"][kind]["value"] - entry["relative"]["samples"]["value"]
            assert one["difference"]["value"] == pytest.approx(expected) and one["difference"]["n"] == 12
            told = sentence.split("further from the picture than samples: ")[-1].split(";")[0]
            further = "further" in sentence and kind in told.rstrip(".").split(", ")
            assert further == (one["p_holm"] < 0.05 and expected > 0)
    assert found.aggregates["exact"]["against_samples"]["grayscale"]["p_holm"] < 0.05
    assert "Augmentations against samples" in (tmp_path / "report.html").read_text()


def test_the_nearest_training_picture_is_brute_forces(distances: Result) -> None:
    model = FakeRCDM("exact")
    places = [DATA.ids.index(content_id) for content_id in TRAINED]
    training = model.encode(torch.from_numpy(DATA.get_batch(places, 64).astype(np.float32) / 255)).numpy()
    for record in distances.images:
        picture = DATA.get(DATA.ids.index(record["content_id"]), 64).astype(np.float32) / 255
        h = model.encode(torch.from_numpy(picture[None])).numpy()
        expected = np.sort(((training.astype(np.float64) - h) ** 2).sum(axis=1))[:2]
        assert record["models"]["exact"]["squares"]["nearest in training"] == pytest.approx(expected, rel=1e-4)
    assert distances.aggregates["exact"]["searched"] == 20


def test_what_is_missing_is_said(distances: Result) -> None:
    assert any("that no-color was trained on are not at hand" in note for note in distances.notes)
    assert "nearest in training" not in distances.images[0]["models"]["no-color"]["squares"]
    assert "same class" in distances.aggregates["exact"]["relative"]


def test_the_output_of_distances(distances: Result) -> None:
    assert {"distances.png", "distances-001.png", "distances-005.png", "report.html"} <= set(distances.files)
    page = (distances.out / "report.html").read_text()
    assert '<svg class="plot"' in page and "currentColor" in page and "flip: mirrored left to right" in page
    assert "NaN" not in (distances.out / "result.json").read_text()


def test_without_labels_and_training(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(DATA.get(i, 70).transpose(1, 2, 0)).save(folder / f"{i}.png")
    found = run("distances", [FakeRCDM("exact")], tmp_path / "out", data=folder, count=2, samples=1)
    assert any("has a label" in note for note in found.notes)
    assert set(found.aggregates["exact"]["relative"]) >= {"random pictures", "dino chain", "samples"}


def test_distances_without_a_unit_are_not_written_below_pictures(tmp_path: Path) -> None:
    """One picture, and no other that random pairs could be made of."""
    Image.fromarray(DATA.get(0, 70).transpose(1, 2, 0)).save(tmp_path / "x.png")
    model = FakeRCDM("exact")
    model.config.data.description = {"path": "nowhere at all"}
    run("distances", [model], tmp_path / "out", data=None, images=[tmp_path / "x.png"], samples=1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<small>flip</small>" in page and not re.search(r"<small>[^<]*nan", page)


def test_a_class_of_one_held_out_picture_is_said(tmp_path: Path) -> None:
    for i in range(5):
        file = tmp_path / "in" / ("one" if i == 4 else "many") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(DATA.get(i, 70).transpose(1, 2, 0)).save(file)
    found = run("distances", [FakeRCDM("exact")], tmp_path / "out", data=tmp_path / "in", count=5, samples=1)
    (note,) = (note for note in found.notes if "same class" in note)
    assert "1 of the 5 pictures is left out" in note and "(one)" in note
    squares = found.aggregates["exact"]["squares"]
    assert squares["same class"]["n"] == 4 and squares["random pictures"]["n"] == 5
    page = (tmp_path / "out" / "report.html").read_text()
    assert re.search(r"same class</th>.*?>4<", page, re.DOTALL)


def test_samples_are_drawn_as_was_asked(tmp_path: Path) -> None:
    seen = []

    class Noting(FakeRCDM):
        def sample(self, h: torch.Tensor, n: int = 1, **given: Any) -> torch.Tensor:
            seen.append([given[key] for key in ("sampler", "steps", "precision", "seed")])
            return super().sample(h, n, **given)

    asked: dict[str, Any] = {"sampler": "ddim", "steps": 7, "precision": "float32", "seed": 3}
    run("variance", [Noting("m")], tmp_path, count=1, samples=2, pool=4, **asked)
    assert seen and all(one == ["ddim", 7, "float32", 3] for one in seen)
