"""Sentences say how sure their numbers are, and what they rest on."""

from __future__ import annotations

from typing import Any

from rcdm_core.probes import faithfulness, samples
from rcdm_core.probes.conclusion import conclude
from rcdm_core.probes.opening import few
from rcdm_core.probes.verdicts import Retained, judge_retention
from rcdm_core.probes.wording import doubt, percent


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 30, "level": 0.95}


def test_a_number_whose_interval_holds_chance_is_told_to() -> None:
    assert doubt(estimate(0.2, 0.1, 0.3), 0.1) == doubt(estimate(0.2, 0.1, 0.3), 0.3) == ", not told from chance"
    assert doubt(estimate(0.2, 0.1, 0.3), 0.09) == doubt(estimate(0.2), 0.2) == doubt(estimate(None), 0.2) == ""
    assert percent(estimate(0.123, 0.1, 0.2), 1) == "12.3% [10.0%, 20.0%]" and percent(estimate(0.123)) == "12%"


def test_faithfulness_says_intervals_and_chance() -> None:
    drawn = {"mean_rank": estimate(40, 30, 55), "mrr": estimate(0.2, 0.15, 0.3), "top1": estimate(0.0, 0.0, 0.1)}
    real = {"mean_rank": estimate(1, 1, 1), "mrr": estimate(1, 1, 1), "top1": estimate(1.0, 0.9, 1.0)}
    entry: dict[str, Any] = {
        "chance": {"mean_rank": 50.5, "mrr": 0.05, "top1": 0.01},
        "galleries": {"originals": {"samples": drawn, "ceiling": real, "other": drawn}},
        "other": {"name": "theirs", "samples": 60, "pictures": 30},
    }
    for text in (faithfulness.answer("m", entry, 100), faithfulness.answer_other("m", entry, 100)):
        assert "at rank 40.0 [30.0, 55.0] of 100 on average, not told from chance (" in text
        assert "reciprocal rank is 0.200 [0.150, 0.300] (" in text
        assert "first for 0.0% [0.0%, 10.0%], not told from chance (" in text and "chance 1.0%" in text
    assert "(real 100.0% [90.0%, 100.0%], chance" in faithfulness.answer("m", entry, 100)
    entry["galleries"]["originals"]["samples"] = real
    assert "not told" not in faithfulness.answer("m", entry, 100)
    ranked = {"answer": [], "aggregates": {"m": entry, "differences": []}}
    said = conclude(["m"], {"faithfulness": ranked}, {}).answer[-1]
    assert "find their own picture first: m 100% [90%, 100%] (real pictures at their size 100% [90%, 100%])" in said


def test_samples_says_the_floors_interval() -> None:
    entry = {
        "distance": estimate(0.9, 0.8, 1.05),
        "floor": estimate(0.2, 0.1, 0.3),
        "spread": estimate(0.5, 0.4, 0.6),
        "unusual": estimate(0.5, 0.4, 0.6),
    }
    text = samples.answer("m", "held out", entry)
    assert "0.90 [0.80, 1.05] of a random pair's distance, not told from chance," in text
    assert "at their size: 0.20 [0.10, 0.30])" in text
    assert text.endswith("0.50 [0.40, 0.60] of the variance of random pictures.")


def test_verdicts_are_counted_by_what_they_rest_on() -> None:
    wide, sure = estimate(0.9, 0.8, 1.0), estimate(0.9)
    same = judge_retention(Retained(None, None, heard=None))  # type: ignore[arg-type]
    entries = {
        "size": {"verdict": "kept", "why": "", "rendered": wide, "decodable": wide},
        "position": {"verdict": "generator", "why": "", "rendered": None, "decodable": wide},
        "hue": {"verdict": same.code, "why": same.why, "rendered": wide, "decodable": wide},
        "sharpness": {"verdict": "kept", "why": "", "rendered": sure, "decodable": wide},
        "class": {"verdict": "not measurable", "why": "", "rendered": None, "decodable": None},
    }
    retention = {
        "answer": [],
        "arguments": {"samples": 4},
        "images": [],
        "aggregates": {"m": {"attributes": entries, "h_in_samples": estimate(0.02, -0.1, 0.1)}, "comparisons": []},
    }
    answer = conclude(["m"], {"retention": retention}, {}).answer
    (sure_,) = [one for one in answer if one.startswith("How sure")]
    assert "1 of 5 verdicts rest on 95% intervals, of samples and readout, that are clear" in sure_
    assert "1 on that of the readout alone" in sure_ and "1 on h itself, which is the same for all pictures" in sure_
    assert "1 on values alone" in sure_ and "1 could not be measured" in sure_
    assert "m 0.02 [-0.10, 0.10], not told from chance" in answer[-1]


def test_too_few_pictures_are_too_few_for_the_bootstrap_alone() -> None:
    (note,) = few(3)
    assert note.startswith("3 pictures are too few for intervals by bootstrap (5 are needed; shares have Wilson's")
    assert few(5) == []
