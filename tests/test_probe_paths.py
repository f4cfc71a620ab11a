"""The probes interpolation, arithmetic and class-mean, with generators whose truth is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_rcdm import FakeRCDM, discs, random_rows
from PIL import Image

import rcdm_core
from rcdm_core.data.images import content_hash
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes.base import Result

DATA = Shapes(60, seed=3)


def run(name: str, models: list[FakeRCDM], out: Path, **arguments: Any) -> Result:
    return rcdm_core.run_probe(name, models=models, out=out, **({"data": DATA} | arguments))


def write_discs(folder: Path, rows: np.ndarray) -> list[Path]:
    """Discs as files of 64 x 64."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(len(rows))]
    for path, picture in zip(paths, discs(rows, 64), strict=True):
        Image.fromarray(np.round(picture.transpose(1, 2, 0) * 255).astype(np.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def interpolation(tmp_path_factory: pytest.TempPathFactory) -> Result:
    models = [FakeRCDM("exact"), FakeRCDM("deaf", deaf=True)]
    return run("interpolation", models, tmp_path_factory.mktemp("interpolation"), points=3, samples=1, count=5)


def test_exact_samples_go_all_the_way_and_deaf_ones_nowhere(interpolation: Result) -> None:
    for path in ("lerp", "slerp"):
        exact, deaf = (interpolation.aggregates[name][path] for name in ("exact", "deaf"))
        assert exact["slope"]["value"] == pytest.approx(1, abs=0.05)
        assert deaf["slope"]["value"] == pytest.approx(0, abs=0.02)
    straight = interpolation.aggregates["exact"]["lerp"]
    assert [point["value"] for point in straight["to_first"]] == pytest.approx([0, 0.5, 1], abs=0.05)
    assert [point["value"] for point in straight["to_second"]] == pytest.approx([1, 0.5, 0], abs=0.05)
    assert straight["to_first"][1]["low"] is not None and straight["to_first"][1]["n"] == 5


def test_the_output_of_interpolation(interpolation: Result) -> None:
    stored = json.loads((interpolation.out / "result.json").read_text())
    assert stored["complete"] and len(stored["images"]) == 5 and len(stored["pictures"]) == 10
    assert {"interpolation.png", "interpolation-005.png", "report.html"} <= set(stored["files"])
    page = (interpolation.out / "report.html").read_text()
    assert page.count('<svg class="plot"') == 1 and "slope of progress" in page


def test_pictures_of_one_h_have_no_way_between_them(tmp_path: Path) -> None:
    class Blind(FakeRCDM):
        """Whose encoder tells no picture from another."""

        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), self.h_dim), 0.5)

    run("interpolation", [Blind("blind")], tmp_path, points=3, samples=1, count=2)
    assert not re.search(r"<small>[^<]*nan", (tmp_path / "report.html").read_text())


def test_all_rows_of_a_pair_share_their_noise(interpolation: Result) -> None:
    record = interpolation.images[0]["models"]["deaf"]
    assert record["lerp"]["progress"] == pytest.approx([record["slerp"]["progress"][0]] * 3)


def test_pairs_that_there_are_not(tmp_path: Path) -> None:
    paths = write_discs(tmp_path / "in", random_rows(np.random.default_rng(0), 3))
    model = [FakeRCDM("exact")]
    found = run("interpolation", model, tmp_path / "out", images=paths, path="lerp", points=3, samples=1)
    assert len(found.images) == 1 and any("2.png is left over" in note for note in found.notes)
    assert any("1 pair is too few for intervals" in note for note in found.notes)
    for images in (paths[:1], [paths[0], paths[0]]):
        with pytest.raises(RCDMError, match="takes 2 different pictures"):
            run("interpolation", model, tmp_path / "out", images=images)
    with pytest.raises(RCDMError, match="no path 'arc'"):
        run("interpolation", model, tmp_path / "out", path="lerp,arc")
    with pytest.raises(RCDMError, match="points is 2"):
        run("interpolation", model, tmp_path / "out", points=2)


# arithmetic


def test_a_difference_is_drawn_onto_a_third(tmp_path: Path) -> None:
    """a and b differ in the background alone: c gets that change of background and nothing else."""
    rows = random_rows(np.random.default_rng(5), 3)
    rows[0] = rows[1]
    rows[:, 0:3] = [[0.75, 0.9, 0.9], [0.9, 0.75, 0.9], [0.9, 0.75, 0.9]]
    a, b, c = map(str, write_discs(tmp_path / "in", rows))
    models = [FakeRCDM("exact"), FakeRCDM("deaf", deaf=True)]
    found = run("arithmetic", models, tmp_path / "out", a=a, b=b, c=c, samples=2, pool=20)
    exact, deaf = found.aggregates["exact"], found.aggregates["deaf"]
    assert exact["response"]["value"] == pytest.approx(1, abs=0.1) and exact["response"]["low"] is None
    assert deaf["response"]["value"] == pytest.approx(0, abs=0.05)
    assert exact["distance"]["target"]["value"] < 0.1 and exact["nearest"]["value"] == 1
    assert exact["distance"]["c"]["value"] == pytest.approx(exact["of_target"]["c"]["value"], abs=0.1)
    assert f"--a {a}" in found.provenance["command"] and "arithmetic-001.png" in found.files
    assert "Response: the move" in (tmp_path / "out" / "report.html").read_text()


def test_triples_of_held_out_pictures(tmp_path: Path) -> None:
    found = run("arithmetic", [FakeRCDM("exact")], tmp_path, samples=1, count=5, pool=20)
    assert len(found.images) == 5 and found.aggregates["exact"]["response"]["low"] > 0.1  # colors end at 0 and 1
    assert found.aggregates["exact"]["nearest"]["n"] == 5


def test_three_pictures_are_needed(tmp_path: Path) -> None:
    paths = list(map(str, write_discs(tmp_path / "in", random_rows(np.random.default_rng(0), 3))))
    model = [FakeRCDM("exact")]
    for arguments, message in (
        ({"a": paths[0], "c": paths[1]}, "give --b as well"),
        ({"a": paths[0], "b": paths[0], "c": paths[1]}, "the same picture"),
        ({"a": paths[0], "b": paths[1], "c": paths[2], "images": paths}, "leave --image out"),
        ({"a": "none.png", "b": paths[1], "c": paths[2]}, "no picture none.png"),
        ({"images": paths[:2]}, "takes 3 different pictures"),
    ):
        with pytest.raises(RCDMError, match=message):
            run("arithmetic", model, tmp_path / "out", **arguments)


# class-mean


def test_the_unit_is_of_pairs_of_pictures_by_content_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pictures there are, and though they are in the order of their classes."""
    from scipy.spatial.distance import pdist

    monkeypatch.setattr("rcdm_core.probes.reference.UNIT_PICTURES", 10)
    data, model = Shapes(120, seed=1), FakeRCDM("exact")
    found = run("class-mean", [model], tmp_path, data=data, samples=1, count=2, per_class=40)
    used = {
        content_id for content_id in data.ids if content_id in {p["content_id"] for p in found.provenance["pictures"]}
    }
    assert len(used) > 100 and found.aggregates["exact"]["pool"] == len(used)
    first = [data.ids.index(content_id) for content_id in sorted(used)[:10]]
    h = model.encode(torch.from_numpy(data.get_batch(first, 64).astype(np.float32) / 255)).numpy()
    assert found.aggregates["exact"]["random_pair_distance"] == pytest.approx(pdist(h).mean(), rel=1e-5)


def test_samples_of_a_class_mean_are_at_the_mean(tmp_path: Path) -> None:
    """Two classes of discs that differ in size: the mean h of a class is one that its samples have."""
    rng = np.random.default_rng(0)
    for name, size in (("large", 0.3), ("little", 0.12)):
        rows = random_rows(rng, 6)
        rows[:, 6] = size
        write_discs(tmp_path / "in" / name, rows)
    models = [FakeRCDM("size", forgets=["object", "background", "position"]), FakeRCDM("deaf", deaf=True)]
    found = run("class-mean", models, tmp_path / "out", data=tmp_path / "in", samples=4)
    assert [record["name"] for record in found.images] == ["large", "little"]
    size, deaf = found.aggregates["size"], found.aggregates["deaf"]
    assert size["own"]["value"] == 1 and size["own_real"]["value"] == 1 and size["distance"]["value"] < 0.2
    assert (
        found.images[0]["models"]["size"]["own"]["n"] == 4 and found.images[0]["models"]["size"]["own"]["low"] is None
    )
    (difference,) = found.aggregates["differences"]  # over the classes, of which there are too few for a test
    assert difference["difference"]["value"] == pytest.approx(1 - deaf["own"]["value"]) and difference["p"] is None
    assert deaf["distance"]["value"] > 0.5 and size["length"]["value"] == pytest.approx(1, abs=0.05)
    assert any(note.startswith("2 classes are too few for intervals") for note in found.notes)
    one = run("class-mean", models[:1], tmp_path / "one", data=tmp_path / "in", classes="little", samples=2)
    assert [record["name"] for record in one.images] == ["little"] and one.aggregates["size"]["own"]["n"] == 1
    assert one.aggregates["size"]["own"]["low"] is None  # two samples of one mean are not two classes
    assert one.images[0]["models"]["size"]["distance"] < 0.1
    assert "1 class" in (tmp_path / "one" / "report.html").read_text()


def test_a_picture_is_left_out_of_the_mean_that_it_is_compared_with(tmp_path: Path) -> None:
    """Of classes that mean nothing, two pictures each: with itself in the mean, a picture would be nearest to it."""
    rows = random_rows(np.random.default_rng(0), 20)
    for i in range(10):
        write_discs(tmp_path / "in" / str(i), rows[2 * i : 2 * i + 2])
    found = run("class-mean", [FakeRCDM("exact")], tmp_path / "out", data=tmp_path / "in", samples=1)
    assert found.aggregates["exact"]["own_real"]["value"] < 0.4


def test_labels_that_there_are_not(tmp_path: Path) -> None:
    paths = write_discs(tmp_path / "flat", random_rows(np.random.default_rng(0), 4))
    write_discs(tmp_path / "single" / "only", random_rows(np.random.default_rng(1), 3))
    for name, count in (("a", 3), ("b", 3), ("lonely", 1)):
        write_discs(tmp_path / "classes" / name, random_rows(np.random.default_rng(len(name) + ord(name[0])), count))
    model = [FakeRCDM("exact")]
    for arguments, message in (
        ({"data": tmp_path / "flat"}, "has no labels"),
        ({"data": tmp_path / "single"}, "has one class only"),
        ({"data": tmp_path / "classes", "classes": "lonely"}, "class lonely has one held-out picture"),
        ({"data": tmp_path / "classes", "classes": "lonly"}, "no class 'lonly' .* the nearest is lonely"),
        ({"data": tmp_path / "classes", "images": paths[:1]}, "takes whole classes"),
        ({"data": tmp_path / "classes", "per_class": 1}, "per_class is 1"),
    ):
        with pytest.raises(RCDMError, match=message):
            run("class-mean", model, tmp_path / "out", **arguments)
    found = run("class-mean", model, tmp_path / "out", data=tmp_path / "classes", samples=1)
    assert [record["name"] for record in found.images] == ["a", "b"]
    assert any("lonely: fewer than two held-out pictures" in note for note in found.notes)


def test_a_picture_twice_in_a_class_and_classes_that_were_trained_on(tmp_path: Path) -> None:
    """Neither the copy nor what a model was trained on is in a mean, and what is left has to be two classes."""
    paths = {
        name: write_discs(tmp_path / "in" / name, random_rows(np.random.default_rng(seed), 4))
        for seed, name in enumerate("abc")
    }
    (tmp_path / "in" / "a" / "copy.png").write_bytes(paths["a"][0].read_bytes())
    model = FakeRCDM("exact", trained=[content_hash(path) for path in (paths["b"][0], *paths["c"])])
    found = run("class-mean", [model], tmp_path / "out", data=tmp_path / "in", samples=1)
    assert {record["name"]: record["pictures"] for record in found.images} == {"a": 4, "b": 3}
    assert any("c: fewer than two held-out pictures" in note for note in found.notes)
    with pytest.raises(RCDMError, match="class c has no held-out picture, but a mean takes two"):
        run("class-mean", [model], tmp_path / "out", data=tmp_path / "in", classes="c")
    model.trained |= {content_hash(path) for path in paths["b"]}
    with pytest.raises(RCDMError, match=r"Fewer than two classes of .* have two held-out pictures"):
        run("class-mean", [model], tmp_path / "out", data=tmp_path / "in")
