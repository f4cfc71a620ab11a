"""Pictures that a model was trained on are shown by every probe, and are in none of its numbers over pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from exact_rcdm import ExactRCDM
from fake_rcdm import FakeRCDM
from PIL import Image

import rcdm_core
from rcdm_core.data.images import content_hash
from rcdm_core.data.shapes import Shapes
from rcdm_core.probes import PROBES
from rcdm_core.probes.base import Result
from rcdm_core.probes.opening import pool_of
from rcdm_core.probes.pictures import Pictures, choose

DATA, OTHER = Shapes(80, seed=3), Shapes(12, seed=4)
TRAINED = sorted(DATA.ids)[:30]
# the pictures that are given, by number: H are held out, T trained on, and numbers are of one, two or three of them
GIVEN = {"interpolation": ("HH", "TH"), "arithmetic": ("HHH", "HTH")}
SETTINGS: dict[str, dict[str, Any]] = {
    "adversarial": {"epsilons": [0.1], "samples": 1, "rows": 1, "fit": 20, "test": 20},
    "baselines": {"iterations": 1, "samples": 1, "pool": 10},
    "distances": {"samples": 1, "pool": 10},
    "faithfulness": {"samples": 2, "gallery": 30, "rows": 1},
    "interpolation": {"samples": 1, "points": 3, "path": "lerp"},
    "arithmetic": {"samples": 1, "pool": 10},
    "invariance": {"samples": 1, "pool": 10, "transform": "vertical-shift,blur"},
    "manipulation": {"mode": "swap", "samples": 2, "pool": 10, "neighbours": 3},
    "neighbours": {"samples": 1, "pool": 20},
    "samples": {"samples": 2, "pool": 10},
    "variance": {"samples": 2, "pool": 10},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("given")
    paths = [folder / f"{i:02d}.png" for i in range(len(OTHER))]
    for i, path in enumerate(paths):
        Image.fromarray(OTHER.get(i, 64).transpose(1, 2, 0)).save(path)
    return paths


def run(name: str, out: Path, images: list[Path], trained: list[Path]) -> Result:
    """Two models, of which only the second was trained on the `trained` pictures."""
    ids = [content_hash(path) for path in trained]
    models: list[FakeRCDM] = [
        FakeRCDM("one", trained=TRAINED),
        FakeRCDM("two", forgets=["object", "background"], trained=[*TRAINED, *ids]),
    ]
    if name in ("adversarial", "baselines"):  # an encoder with a gradient
        models = [
            ExactRCDM(f"shapes-{kind}", name=one.name, trained=[*one.trained])
            for kind, one in zip(("all", "no-color"), models, strict=True)
        ]
    settings = SETTINGS[name]
    if name == "adversarial":  # held-out pictures of the data fill up those given
        settings = settings | {"attacked": len(images) + 3, "count": len(images) + 1}
    return rcdm_core.run_probe(name, models=models, images=images, data=DATA, out=out, **settings)


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of the aggregates with where it is, but for times."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key != "seconds":
                yield from numbers(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from numbers(item, f"{path}/{i}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def same(result: Result, other: Result) -> bool:
    """Whether the aggregates are the same, up to rounding: batches are of other sizes."""
    one, two = (dict(numbers(found.to_json()["aggregates"])) for found in (result, other))
    return one.keys() == two.keys() and all(math.isclose(one[k], two[k], rel_tol=1e-4, abs_tol=1e-5) for k in one)


def test_every_probe_that_takes_pictures_is_here() -> None:
    own = {"retention", "training"}  # which refuse such pictures
    assert set(SETTINGS) == {name for name, probe in PROBES.items() if not probe.of_sets} - own - {"all"}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_numbers_are_those_of_the_held_out_pictures_alone(name: str, tmp_path: Path, files: list[Path]) -> None:
    first, more = GIVEN.get(name, ("HH", "T"))
    images = files[: len(first + more)]
    trained = [path for path, kind in zip(images, first + more, strict=True) if kind == "T"]
    alone = run(name, tmp_path / "alone", images[: len(first)], trained)
    both = run(name, tmp_path / "both", images, trained)
    assert same(both, alone)
    unit = {2: "pair", 3: "triple"}.get(len(more), "picture")
    assert any(f"1 of the {len(both.counting)} {unit}s is left out of all numbers" in note for note in both.notes)
    assert not any("left out of all numbers" in note for note in alone.notes)
    # it has its record all the same
    stored = json.loads((both.out / "result.json").read_text())
    flags = [record["trained_on"] for record in stored["images"]]
    assert len(flags) == len(both.counting) and flags.count({"one": False, "two": True}) == 1
    assert [flag["two"] for flag in flags] == [not counts for counts in both.counting]
    assert not any("training pictures" in sentence for sentence in both.answer)


@pytest.mark.parametrize("name", ["arithmetic", "faithfulness", "interpolation", "invariance", "samples", "variance"])
def test_where_all_were_trained_on_the_numbers_stay_and_the_answer_says_so(
    name: str, tmp_path: Path, files: list[Path]
) -> None:
    first, _ = GIVEN.get(name, ("HH", ""))
    images = files[: len(first)]
    held = run(name, tmp_path / "held", images, [])
    seen = run(name, tmp_path / "seen", images, images)
    if name == "samples":
        for of_model in ("one", "two"):
            seen.aggregates[of_model]["groups"]["given"] = seen.aggregates[of_model]["groups"].pop(
                "given and trained on"
            )
    assert same(seen, held)
    assert "all numbers here are of training pictures" in seen.answer[0] and seen.answer[0] in seen.notes
    assert seen.answer[0] in (seen.out / "report.html").read_text()
    assert not any("training pictures, whose" in sentence for sentence in held.answer)


def test_a_group_of_training_pictures_beside_held_out_ones_is_called_so(tmp_path: Path, files: list[Path]) -> None:
    ids = [content_hash(path) for path in files[:2]]
    models = [FakeRCDM("one", trained=[*TRAINED, ids[0]]), FakeRCDM("two", trained=[*TRAINED, ids[1]])]
    found = rcdm_core.run_probe(
        "samples", models=models, images=files[:2], data=DATA, out=tmp_path, samples=1, beside=3, pool=10
    )
    groups = found.aggregates["one"]["groups"]
    assert {key: group["distance"]["n"] for key, group in groups.items()} == {"given and trained on": 2, "held out": 3}
    assert found.aggregates["differences"][0]["difference"]["n"] == 3
    assert any(sentence.startswith("two, pictures given and trained on:") for sentence in found.answer)


def test_too_few_is_said_of_those_that_count(tmp_path: Path, files: list[Path]) -> None:
    found = run("variance", tmp_path, files[:6], files[:3])
    assert found.aggregates["one"]["variance"]["n"] == 3 and found.aggregates["one"]["variance"]["low"] is None
    assert any(note.startswith("3 pictures are too few for intervals") for note in found.notes)


def test_random_pairs_are_of_held_out_pictures(tmp_path: Path, files: list[Path]) -> None:
    model = FakeRCDM("one", trained=[content_hash(files[0])])
    pictures = choose(files[:3], None, [model], count=0)
    context: Any = type("", (), {"models": [model]})
    assert [picture.name for picture in pool_of(context, None, pictures, 0)] == ["01.png", "02.png"]
    two = Pictures(pictures[:2])
    assert len(pool_of(context, None, two, 0)) == 2  # one alone makes no pair
    # the same in the probe that keeps probed pictures apart from its pool
    settings: dict[str, Any] = {"samples": 1, "pool": 0, "transform": "blur", "data": DATA}
    distance = [
        rcdm_core.run_probe("invariance", models=[model], images=images, out=tmp_path, **settings).aggregates["one"]
        for images in (files[:3], files[1:3])
    ]
    assert distance[0]["random_pair_distance"] == pytest.approx(distance[1]["random_pair_distance"])
    assert distance[0]["pool"] == distance[1]["pool"] == 2


@pytest.mark.parametrize("name", ["invariance", "retention", "arithmetic"])
def test_small_pictures_are_named_by_every_probe(name: str, tmp_path: Path) -> None:
    """The ones that are given, and that the probe takes: not those of a set, nor those that it leaves out."""
    ids, folder = [], tmp_path / "pictures"
    folder.mkdir()
    for i in range(21):
        path = folder / f"{i:02d}.png"
        Image.fromarray(OTHER.get(i % len(OTHER), 40 if i < 2 else 64 + i).transpose(1, 2, 0)).save(path)
        ids.append(content_hash(path))
    model = FakeRCDM("one", trained=[ids[0]] if name == "retention" else [])
    settings: dict[str, Any] = {"samples": 1, "pool": 0}
    if name == "arithmetic":
        settings |= {key: str(folder / f"0{i}.png") for i, key in enumerate("abc")}
    else:
        settings["images"] = [folder] if name == "retention" else [folder / "00.png", folder / "01.png"]
    settings |= {"transform": "flip"} if name == "invariance" else {}
    found = rcdm_core.run_probe(name, models=[model], data=DATA, out=tmp_path / "out", **settings)
    (note,) = [note for note in found.notes if "smaller than the 64 pixels" in note]
    assert note.startswith("01.png (40 × 40) is" if name == "retention" else "00.png (40 × 40), 01.png (40 × 40) are")
