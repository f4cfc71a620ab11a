"""A generator that repeats its training is found to do so, in any number of samples; an honest one is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_rcdm import SIZE, FakeRCDM

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes.base import Result
from rcdm_core.probes.neighbours import Found, judge, verdict

DATA = Shapes(240, seed=9)
TRAINED = sorted(DATA.ids)[:120]


class Memory(FakeRCDM):
    """Draws pictures of its training, with a little noise."""

    def sample(
        self, h: torch.Tensor, n: int = 1, *, seed: int, streams: Sequence[str], progress: Any = None, **settings: Any
    ) -> torch.Tensor:
        places = [DATA.ids.index(TRAINED[int(stream[:8], 16) % len(TRAINED)]) for stream in streams]
        pictures = DATA.get_batch(places, SIZE).astype(np.float32)[:, None].repeat(n, axis=1) / 255
        noise = np.random.default_rng(seed).standard_normal(pictures.shape) * 0.01
        return torch.from_numpy(np.clip(pictures + noise, 0, 1)).float()


def run(models: list[FakeRCDM], out: Path, **arguments: Any) -> Result:
    settings: dict[str, Any] = {"data": DATA, "count": 100, "pool": 120, "rows": 3} | arguments
    return rcdm_core.run_probe("neighbours", models=models, out=out, **settings)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    models: list[FakeRCDM] = [Memory("memory", trained=TRAINED), FakeRCDM("honest", deaf=True, trained=TRAINED)]
    return run(models, tmp_path_factory.mktemp("neighbours"))


def test_a_memory_is_found_and_honesty_is_not_accused(result: Result) -> None:
    for space in ("h", "pixels"):
        memory = result.aggregates["memory"]["spaces"][space]
        assert memory["verdict"] == "memorises" and memory["copy"]["low"] > 0.8
        honest = result.aggregates["honest"]["spaces"][space]
        assert honest["verdict"] == "new" and honest["copy"]["high"] <= 0.1
    assert "memory copies pictures of its training" in result.answer[0]
    assert "honest draws pictures that are as new as held-out ones" in result.answer[1]
    assert "all 120 pictures of its training were searched" in result.answer[1]


def test_the_nearest_picture_is_the_one_that_was_copied(result: Result) -> None:
    for record in result.images[:20]:
        copied = TRAINED[int(record["content_id"][:8], 16) % len(TRAINED)]
        assert record["models"]["memory"]["pixels"][0]["content_ids"][0] == copied


def test_the_output(result: Result) -> None:
    stored = json.loads((result.out / "result.json").read_text())
    assert stored["complete"] and stored["files"] == ["neighbours-001.png", "neighbours-002.png", "report.html"]
    assert stored["training"] == {"memory": 120, "honest": 120} and len(stored["images"]) == 100
    page = (result.out / "report.html").read_text()
    assert 'class="framed"' in page and "cannot tell" in page and "rcdm probe neighbours" in page


def test_several_samples_count_as_their_pictures(tmp_path: Path) -> None:
    found = run([Memory("memory", trained=TRAINED)], tmp_path, samples=2, count=30, rows=0)
    part = found.aggregates["memory"]["spaces"]["pixels"]["copy"]
    assert part["n"] == 30 and part["low"] < 0.95 and found.files == ["report.html"]


def test_a_blurred_generator_is_near_but_copies_nothing() -> None:
    """Its distances are small, but to all pictures alike."""
    rng = np.random.default_rng(0)
    held = Found(np.sort(rng.uniform(80, 120, (100, 6)) ** 2, axis=1), np.zeros((100, 6), np.int64))
    blurred = Found(np.sort(rng.uniform(50, 60, (40, 6)) ** 2, axis=1), np.zeros((40, 6), np.int64))
    found = judge(blurred, held)
    assert found["near"].all() and found["copy"].mean() < 0.2


def test_held_out_pictures_are_near_in_five_percent() -> None:
    rng = np.random.default_rng(1)
    squares = np.sort(rng.random((2000, 6)), axis=1)
    held, same = (Found(part, np.zeros((1000, 6), np.int64)) for part in (squares[:1000], squares[1000:]))
    assert judge(same, held)["near"].mean() == pytest.approx(0.05, abs=0.02)


def test_verdicts() -> None:
    assert [verdict(0.11, 0.3), verdict(0.0, 0.1), verdict(0.05, 0.2), verdict(None, None)] == [
        "memorises",
        "new",
        "cannot tell",
        "cannot tell",
    ]


def test_a_search_of_a_part_calls_nothing_new(tmp_path: Path) -> None:
    found = run([FakeRCDM("honest", deaf=True, trained=TRAINED)], tmp_path, training=60, count=60, rows=0)
    entry = found.aggregates["honest"]
    assert (entry["searched"], entry["trained"]) == (60, 120)
    assert {part["verdict"] for part in entry["spaces"].values()} <= {"new to those searched", "cannot tell"}
    (said,) = found.answer
    assert "as new as" not in said and "60 of 120 pictures of its training were searched" in said
    assert "60 of the 120 pictures that honest was trained on" in (tmp_path / "report.html").read_text()
    assert verdict(0.0, 0.1, whole=False) == "new to those searched" and verdict(0.2, 0.3, whole=False) == "memorises"


def test_bad_input(tmp_path: Path) -> None:
    for trained, message in (([], "None of the pictures"), (TRAINED[:2], "Fewer than three")):
        with pytest.raises(RCDMError, match=f"{message} .* was trained on .* --data"):
            run([FakeRCDM("exact", trained=trained)], tmp_path)
    with pytest.raises(RCDMError, match="pool is 5, but expected a whole number of at least 20"):
        run([FakeRCDM("exact", trained=TRAINED)], tmp_path, pool=5)


def test_too_few_held_out_pictures_are_no_verdict(tmp_path: Path) -> None:
    data = Shapes(30, seed=9)
    model = FakeRCDM("honest", trained=sorted(data.ids)[:20])
    found = run([model], tmp_path, data=data, count=4)
    assert any("too few to say how near" in note for note in found.notes)
    assert found.aggregates["honest"]["spaces"]["h"]["verdict"] == "cannot tell"
