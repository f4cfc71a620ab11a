"""Intervals and p of shares of whole sets: never impossible, never of no width, and right as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from rcdm_core.metrics.bootstrap import Estimate, wilson
from rcdm_core.metrics.fidelity import NEIGHBOURHOOD, _share
from rcdm_core.metrics.halves import members, precision_recall
from rcdm_core.metrics.resampled import Resampled, over_images


def looked(samples: np.ndarray, reference: np.ndarray, seed: int = 0, halves: int = 100) -> tuple[Resampled, Resampled]:
    chosen = members(len(reference), seed=seed, halves=halves)
    samples, reference = samples.astype(np.float32), reference.astype(np.float32)
    ((precision, recall),) = precision_recall([samples], reference, chosen, neighbours=NEIGHBOURHOOD)
    return _share(precision), _share(recall)


def bounds(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


@pytest.mark.parametrize("n", [2, 5, 12, 64, 200])
@pytest.mark.parametrize("kind", ["same", "collapsed", "far", "wide"])
def test_shares_stay_in_range_and_are_never_without_doubt(n: int, kind: str) -> None:
    rng = np.random.default_rng(n)
    reference = rng.standard_normal((n, 3))
    samples = {
        "same": rng.standard_normal((n, 3)),
        "collapsed": np.zeros((n, 3)),
        "far": 40 + rng.standard_normal((n, 3)),
        "wide": 3 * rng.standard_normal((n, 3)),
    }[kind]
    for one in looked(samples, reference):
        low, high = bounds(one.estimate())
        least, most = bounds(wilson(round(one.value * n), n))
        assert 0 <= low <= least <= one.value <= most <= high <= 1 and high > low
    if kind == "far":
        assert looked(samples, reference)[0].estimate() == wilson(0, n)


def test_a_share_is_held_as_often_as_its_interval_says() -> None:
    """What n pictures give on average, from many experiments, is in the intervals of single ones."""
    found = []
    for trial in range(80):
        rng = np.random.default_rng(trial)
        found.append(looked(0.7 * rng.standard_normal((24, 4)), rng.standard_normal((24, 4)), trial, 40))
    for of in zip(*found, strict=True):
        truth = np.mean([one.value for one in of])
        held = [low <= truth <= high for low, high in (bounds(one.estimate()) for one in of)]
        assert np.mean(held) > 0.92


def test_differences_of_shares() -> None:
    rng = np.random.default_rng(1)
    reference = rng.standard_normal((64, 3))
    near, again = (looked(rng.standard_normal((64, 3)), reference) for _ in range(2))
    collapsed = looked(np.zeros((64, 3)), reference)
    for one, other in zip(near, again, strict=True):
        low, high = bounds(one.less(other).estimate())
        assert -1 <= low < one.value - other.value < high <= 1 and (one.less(other).p() or 0) > 0.01
        same = one.less(one)
        assert same.p() == 1 and bounds(same.estimate())[1] == pytest.approx(0.0297, abs=1e-3)  # 1.96 / 66
    beyond = near[1].less(collapsed[1])  # recall: all of the halves of the collapsed one have none
    assert bounds(beyond.estimate())[0] > 0.5 and 2.0**-63 <= (beyond.p() or 0) < 1e-6


def test_p_where_resamples_do_not_vary() -> None:
    """All pictures of the one model are in, none of the other: what so few pictures can tell, and no more."""
    for n in (5, 6, 12):
        every, none = (
            Resampled(float(value), np.full(100, float(value)), n, (0.0, 1.0), (np.full(n, bool(value)),))
            for value in (1, 0)
        )
        p = every.less(none).p()
        assert p is not None and p >= binomtest(n, n).pvalue and p < 0.07
        assert bounds(every.less(none).estimate())[1] == 1.0
    assert Resampled(0.3, np.full(100, 0.3), 9).p() is None and Resampled(0.0, np.zeros(100), 9).p() == 1.0
    least = Resampled(1.0, 1 + 1e-4 * np.random.default_rng(0).standard_normal(100), 8).p()
    assert least == 2.0**-7


def test_the_interval_of_a_difference_by_coverage() -> None:
    """Of pairs of flags alone, whose truth is known: few differ, and the shares are near 1."""
    held = []
    for trial in range(400):
        rng = np.random.default_rng(trial)
        both = rng.random(30) < 0.85
        first, second = both | (rng.random(30) < 0.5), both | (rng.random(30) < 0.2)
        one, other = (Resampled(float(f.mean()), np.full(9, f.mean()), 30, (0.0, 1.0), (f,)) for f in (first, second))
        low, high = bounds(one.less(other).estimate())
        held.append(low <= 0.15 * 0.3 <= high)
    assert np.mean(held) > 0.93


def test_bounds_of_other_numbers() -> None:
    values = np.array([0.0, 0.0, 0.1, 0.0, 2.0])
    found = over_images(lambda rows: float(values[rows].mean()), 5, seed=0, resamples=200, bounds=(0.0, np.inf))
    assert bounds(found.estimate())[0] == 0.0
    assert bounds(found.less(found).estimate()) == (0.0, 0.0) and found.less(found).bounds == (-np.inf, np.inf)
