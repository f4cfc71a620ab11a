"""h from a kernel density: its moments, and what a generator that remembers, one that collapses, and one that is exact
make of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_rcdm import SIZE, FakeRCDM, discs, random_rows

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes.base import Result
from rcdm_core.probes.kernel_density import Density, most_compared, stream
from rcdm_core.probes.neighbours import by_picture
from rcdm_core.probes.pictures import choose
from rcdm_core.probes.unconditional import memory

DATA = Shapes(180, seed=9)
TRAINED = sorted(DATA.ids)[:90]


class Memory(FakeRCDM):
    """Draws the picture among those it remembers whose h is nearest, with a little noise."""

    remembered = TRAINED

    def sample(
        self, h: torch.Tensor, n: int = 1, *, seed: int, streams: Sequence[str], progress: Any = None, **settings: Any
    ) -> torch.Tensor:
        places = [DATA.ids.index(content_id) for content_id in self.remembered]
        pictures = DATA.get_batch(places, SIZE).astype(np.float32) / 255
        known = self.encode(torch.from_numpy(DATA.get_batch(places, 64).astype(np.float32) / 255))
        chosen = pictures[torch.cdist(h.double(), known.double()).argmin(dim=1).numpy()][:, None]
        noise = 0.01 * np.random.default_rng(seed).standard_normal((len(h), n, 3, SIZE, SIZE))
        return torch.from_numpy(np.clip(chosen + noise, 0, 1)).float()


class Collapsed(FakeRCDM):
    """Draws one disc, whatever h is."""

    def sample(
        self, h: torch.Tensor, n: int = 1, *, seed: int, streams: Sequence[str], progress: Any = None, **settings: Any
    ) -> torch.Tensor:
        one = discs(random_rows(np.random.default_rng(0), 1))
        return torch.from_numpy(np.tile(one, (len(h), n, 1, 1, 1))).float()


def run(models: list[FakeRCDM], out: Path, **arguments: Any) -> Result:
    settings: dict[str, Any] = {"data": DATA, "count": 40, "pool": 90, "rows": 3, "std": 0.003} | arguments
    return rcdm_core.run_probe("unconditional", models=models, out=out, **settings)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    models = [kind(name, trained=TRAINED) for name, kind in (("memory", Memory), ("collapsed", Collapsed))]
    return run([*models, FakeRCDM("exact", trained=TRAINED)], tmp_path_factory.mktemp("unconditional"))


def test_the_density_has_the_moments_of_its_formula() -> None:
    h = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    drawn, places = Density([], h, 0.2).draw(6000, seed=1)
    assert np.allclose(np.bincount(places) / 6000, 1 / 7, atol=0.02)
    noise = drawn - h[places]
    assert np.allclose(noise.mean(axis=0), 0, atol=0.01) and np.allclose(np.cov(noise.T), 0.04 * np.eye(3), atol=0.003)
    few, _ = Density([], h, 0.2).draw(5, seed=1)
    assert np.array_equal(few, drawn[:5]) and not np.array_equal(few, Density([], h, 0.2).draw(5, seed=2)[0])
    assert np.array_equal(Density([], h, 0.0).draw(9, seed=0)[0], h[Density([], h, 0.0).draw(9, seed=0)[1]])
    assert len(stream(0)) == 64 and stream(0) != stream(1)


def test_each_picture_is_drawn_as_often_as_any_other() -> None:
    for n, count in ((7, 6), (7, 7), (7, 30), (50, 20)):
        one = Density([], np.zeros((n, 2)), 0.1)
        _, places = one.draw(count, seed=3)
        used = np.bincount(places, minlength=n)
        assert used.max() - used.min() <= 1 and (used.max() == 1) == (count <= n)
        owners = one.owners(count)  # one to one with the pictures
        assert len(set(zip(owners.tolist(), places.tolist(), strict=True))) == min(n, count) == owners.max() + 1
    orders = [tuple(Density([], np.zeros((7, 2)), 0.1).draw(7, seed=seed)[1]) for seed in range(6)]
    assert len(set(orders)) > 3


def test_the_interval_of_memory_holds_the_truth_where_pictures_are_used_again() -> None:
    """Of 20 pictures each, drawn near 64 times: what differs between pictures does so 20 times."""
    held = []
    for trial in range(120):
        rng = np.random.default_rng(trial)
        parts = []
        for n in (20, 15):
            density, own = Density([], np.zeros((n, 1)), 0.0), rng.gamma(4, 0.25, n)
            _, places = density.draw(64, seed=trial)
            parts.append(by_picture(own[places] * (1 + 0.1 * rng.standard_normal(64)), density.owners(64)))
        found = memory(*parts, seed=trial).estimate()
        assert found.n == 15 and found.low is not None and found.high is not None
        held.append(found.low <= 1 <= found.high)
    assert np.mean(held) > 0.9


def test_samples_near_one_picture_count_as_one(tmp_path: Path) -> None:
    models = [Memory("memory", trained=TRAINED[:12]), FakeRCDM("exact", trained=TRAINED[:8])]
    found = run(models, tmp_path, count=30, rows=0)
    memory_, exact = (found.aggregates[name] for name in ("memory", "exact"))
    assert (memory_["pictures"], exact["pictures"]) == (12, 8)
    for key in ("diversity", "distance", "own", "memory"):
        assert memory_[key]["n"] == 12 and exact[key]["n"] == 8, key
    for part in memory_["spaces"].values():
        assert part["near"]["n"] == part["copy"]["n"] == part["median"]["n"] == 12
        assert part["median"]["low"] <= part["median"]["value"] <= part["median"]["high"]
    # the models are compared over as many pictures as both have
    assert {d["difference"]["n"] for d in found.aggregates["differences"]} == {8}
    assert "Intervals count the pictures whose h was drawn near, 12 (memory), 8 (exact)" in (
        tmp_path / "report.html"
    ).read_text()


def test_a_memory_a_collapse_and_an_exact_generator(result: Result) -> None:
    remembers, collapsed, exact = (result.aggregates[name] for name in ("memory", "collapsed", "exact"))
    assert remembers["spaces"]["pixels"]["copy"]["low"] > 0.8 and remembers["own"]["low"] > 0.8
    # h says all of a disc: an exact generator's samples are copies too, but no more of what it has seen
    assert remembers["memory"]["high"] < 0.5 and exact["memory"]["low"] < 1 < exact["memory"]["high"] < 1.3
    assert collapsed["diversity"]["high"] < 0.01
    assert 0.8 < remembers["diversity"]["low"] < 1 < remembers["diversity"]["high"] < 1.3
    assert exact["distance"]["high"] < 0.15 < 0.5 < collapsed["distance"]["low"]
    assert exact["noise"] == pytest.approx(0.003 * 3 / exact["random_pair_distance"])


def test_models_are_compared_in_what_is_measured(result: Result) -> None:
    found = {(d["first"], d["second"]): d for d in result.aggregates["differences"]}
    assert len(found) == 3 * 8
    remembers, collapsed, exact = (result.aggregates[name] for name in ("memory", "collapsed", "exact"))
    one = found["memory: memory", "exact"]
    assert one["difference"]["value"] == pytest.approx(remembers["memory"]["value"] - exact["memory"]["value"])
    assert one["difference"]["high"] < 0 and one["p_holm"] < 0.01
    for key, title in (("diversity", "diversity"), ("distance", "samples from h"), ("own", "nearest is its own")):
        one = found[f"collapsed: {title}", "exact"]
        assert one["difference"]["value"] == pytest.approx(collapsed[key]["value"] - exact[key]["value"], abs=1e-6)
        assert one["p_holm"] < 0.01
    copies = [entry["spaces"]["pixels"]["copy"]["value"] for entry in (remembers, collapsed)]
    one = found["memory: copies, in pixels", "collapsed"]
    assert one["difference"]["value"] == pytest.approx(copies[0] - copies[1])
    assert "memory: diversity less collapsed" in (result.out / "report.html").read_text()


def test_the_output(result: Result) -> None:
    stored = json.loads((result.out / "result.json").read_text())
    assert stored["complete"] and stored["density"] == {"memory": 90, "collapsed": 90, "exact": 90}
    assert stored["files"] == [*(f"unconditional-{i:03d}.png" for i in (1, 2, 3)), "report.html"]
    record = stored["images"][0]["models"]["memory"]
    assert record["content_id"] in TRAINED and len(stored["images"]) == 40
    page = (result.out / "report.html").read_text()
    assert "standard deviation of 0.01" in page and "rcdm probe unconditional" in page and 'class="framed"' in page


def test_the_density_over_given_data(tmp_path: Path) -> None:
    with pytest.raises(RCDMError, match=r"None of the pictures that x was trained on .* --source data"):
        run([FakeRCDM("x")], tmp_path)
    found = run([FakeRCDM("x")], tmp_path, source="data", training=30, count=10, rows=0)
    assert found.provenance["density"] == {"x": 30} and found.files == ["report.html"]
    # of the data half is compared with what is drawn, and none of that is drawn from
    pool = choose([], DATA, [FakeRCDM("x")], count=90)
    near = {record["models"]["x"]["content_id"] for record in found.images}
    assert near <= set(sorted(set(DATA.ids) - {picture.id for picture in pool})[:30])
    assert found.aggregates["x"]["pool"] == 90 == most_compared({"source": "data"}, DATA, 500)
    assert run([FakeRCDM("x")], tmp_path / "all", source="data", training=0, pool=500, count=10, rows=0)


def test_a_generator_that_copies_given_data_is_found_to(tmp_path: Path) -> None:
    """Held-out pictures that were also drawn from were at distance 0 of themselves, and nothing is nearer than that."""
    copying = Memory("memory")
    copying.remembered = sorted(set(DATA.ids) - {picture.id for picture in choose([], DATA, [copying], count=90)})
    found = run([copying], tmp_path, source="data", training=0, pool=90, count=40, rows=0)
    spaces = found.aggregates["memory"]["spaces"]
    assert spaces["pixels"]["copy"]["low"] > 0.8 and spaces["pixels"]["near"]["low"] > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": -1.0}, "std is -1"),
        ({"source": "web"}, "source is 'web'"),
        ({"images": ["x.png"]}, "starts from no picture"),
        ({"count": 1}, "count is 1"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RCDMError, match=message):
        run([FakeRCDM("exact", trained=TRAINED)], tmp_path, **arguments)
