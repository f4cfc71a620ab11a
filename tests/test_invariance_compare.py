"""What the probe invariance says of the differences between models, and between transforms, by planted ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_rcdm import ExactRCDM
from fake_rcdm import FakeRCDM

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.metrics.bootstrap import bootstrap_ratio
from rcdm_core.metrics.paired import compare_summed
from rcdm_core.probes.base import Result
from rcdm_core.probes.invariance_compare import response

DATA = Shapes(60, seed=3)


def run(models: list[FakeRCDM], out: Path, **arguments: Any) -> Result:
    return rcdm_core.run_probe("invariance", models=models, out=out, data=DATA, **arguments)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Two exact generators, of oracles that differ in the position alone."""
    models = [ExactRCDM("shapes-all", name="all"), ExactRCDM("shapes-no-position", name="placeless")]
    rows = "vertical-shift,zoom-in,color-jitter"
    return run(models, tmp_path_factory.mktemp("compared"), transform=rows, count=12, samples=2, pool=20)


def test_models_differ_where_their_oracles_do_and_nowhere_else(compared: Result) -> None:
    found = {(d["transform"], d["measure"]): d for d in compared.aggregates["differences"]}
    attributes = {"vertical-shift": ["position"], "zoom-in": ["size"]}
    attributes["color-jitter"] = ["object color", "background color"]
    assert list(found) == [(row, measure) for row, own in attributes.items() for measure in ["h", *own]]
    assert all((d["first"], d["second"], d["difference"]["n"]) == ("all", "placeless", 12) for d in found.values())
    responses = {key: d for key, d in found.items() if key[1] != "h"}
    beyond = [key for key, d in responses.items() if d["p_holm"] < 0.05]
    assert beyond == [("vertical-shift", "position")]
    position = found["vertical-shift", "position"]
    assert position["difference"]["value"] == pytest.approx(1, abs=0.02) and position["difference"]["low"] > 0.9
    assert position["p"] == 2 / 2**12 and position["p_holm"] == pytest.approx(7 * position["p"])  # all flips, all rows
    assert all(abs(d["difference"]["value"]) < 0.02 for key, d in responses.items() if key not in beyond)
    moved = found["vertical-shift", "h"]
    assert moved["p_holm"] < 0.05 and moved["difference"]["low"] > 0.03
    # each is the difference of what the tables show
    of = {name: compared.aggregates[name]["transforms"] for name in ("all", "placeless")}
    for (row, measure_), d in found.items():
        first, second = (
            entry[row]["dh_relative"] if measure_ == "h" else entry[row]["responses"][measure_]["rendered"]
            for entry in of.values()
        )
        assert d["difference"]["value"] == pytest.approx(first["value"] - second["value"])


def test_what_differs_is_in_the_answer_and_on_the_page(compared: Result) -> None:
    sentence = compared.answer[-1]
    count = sum(d["p_holm"] < 0.05 for d in compared.aggregates["differences"])
    assert sentence.startswith(f"Between the models {count} of 7 differences are beyond chance")
    assert "position under vertical-shift (all less placeless: 1.00 [" in sentence
    assert "how far vertical-shift moves h (all less placeless: 0.0" in sentence
    assert "size under zoom-in" not in sentence and "color under" not in sentence
    page = (compared.out / "report.html").read_text()
    table = page[page.index("Models against each other") : page.index("Transforms against each other")]
    assert "position under vertical-shift: all less placeless" in table and "for the number of rows" in table
    assert "6 comparisons of how far they move h" in page and "all: vertical-shift less zoom-in" in page
    assert "in two families, each corrected (Holm)" in page


def test_transforms_are_compared_within_each_model(compared: Result) -> None:
    for name in ("all", "placeless"):
        transforms = compared.aggregates[name]["transforms"]
        found = {(d["first"], d["second"]): d for d in compared.aggregates[name]["differences"]}
        assert len(found) == 3
        for (first, second), d in found.items():
            expected = transforms[first]["dh_relative"]["value"] - transforms[second]["dh_relative"]["value"]
            assert d["difference"]["value"] == pytest.approx(expected)
    shift, zoom = "vertical-shift", "zoom-in"
    blind = next(
        d for d in compared.aggregates["placeless"]["differences"] if (d["first"], d["second"]) == (shift, zoom)
    )
    assert blind["difference"]["high"] < 0 and blind["p_holm"] == pytest.approx(6 * 2 / 2**12)  # of both models


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    rows = "vertical-shift,grayscale"
    found = run([FakeRCDM("a"), FakeRCDM("b")], tmp_path, transform=rows, count=7, samples=1, pool=0)
    differences = found.aggregates["differences"]
    assert [(d["difference"]["value"], d["p"], d["p_holm"]) for d in differences] == [(0, 1, 1)] * 4
    assert found.answer[-1] == "Between the models 0 of 4 differences are beyond chance."


def test_a_test_with_too_few_pictures(tmp_path: Path) -> None:
    """With fewer than six no p, with a few more none that the correction leaves below 0.05: both are said."""
    models, rows = [FakeRCDM("a"), FakeRCDM("b", forgets=["position"])], "vertical-shift,zoom-in"
    five = run(models, tmp_path / "5", transform=rows, count=5, samples=1, pool=0)
    every = [
        *five.aggregates["differences"],
        *five.aggregates["a"]["differences"],
        *five.aggregates["b"]["differences"],
    ]
    assert len(every) == 6 and all(d["p"] is None and d["p_holm"] is None for d in every)
    assert five.answer[-1] == "Whether the models differ beyond chance is not tested: that takes 6 pictures."
    assert "Differences between models and transforms are not tested: that takes 6 pictures." in five.notes
    assert "fewer than 6 pictures are too few for a test" in (five.out / "report.html").read_text()
    six = run(models, tmp_path / "6", transform=rows, count=6, samples=1, pool=0)
    assert min(d["p_holm"] for d in six.aggregates["differences"]) == 4 * 2 / 2**6
    (note,) = [note for note in six.notes if "no difference between models can be" in note]
    assert note.startswith("With 6 pictures no") and "all 4 of them; with 8 pictures one can." in note
    alone = run(models[:1], tmp_path / "1", transform="flip", count=2, samples=1, pool=0)
    assert alone.aggregates["differences"] == alone.aggregates["a"]["differences"] == []
    assert not any("beyond chance" in text or "tested" in text for text in (*alone.answer, *alone.notes))


def test_the_response_of_a_pair_is_over_the_pictures_that_both_have() -> None:
    rng = np.random.default_rng(2)
    real = rng.normal(size=(9, 2))
    one, other = real * 0.8 + 0.1 * rng.normal(size=real.shape), real * 0.3
    one[4] = np.nan  # samples without the attribute
    (found,) = compare_summed([("one", response(real, one), "other", response(real, other))])
    both = np.arange(9) != 4
    first, second = ((real * drawn)[both].sum() / (real**2)[both].sum() for drawn in (one, other))
    assert found.difference.n == 8 and found.difference.value == pytest.approx(first - second)
    # of one real shift the difference is a ratio too
    alone = bootstrap_ratio((real * (one - other)).sum(axis=1), (real**2).sum(axis=1))
    assert [found.difference.low, found.difference.high] == pytest.approx([alone.low, alone.high])
    (none,) = compare_summed([("one", response(real, one), "nothing", response(real, np.full_like(real, np.nan)))])
    assert none.difference.n == 0 and np.isnan(none.difference.value) and none.p is None
