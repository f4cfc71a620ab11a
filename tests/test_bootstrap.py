"""Intervals against scipy's, and against how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rcdm_core.metrics import bootstrap
from rcdm_core.metrics.bootstrap import (
    MIN_IMAGES,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    interval,
    summed_ratio,
    wilson,
)


def plain_level(n: int) -> float:
    """The level of scipy's percentile interval that is the expanded one of n images at 0.95."""
    return float(1 - 2 * stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1)))


def test_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=80)
    ours = bootstrap_mean(values, resamples=20_000)
    settings = {"n_resamples": 20_000, "method": "percentile", "rng": 1, "confidence_level": plain_level(80)}
    theirs = stats.bootstrap((values,), np.mean, **settings).confidence_interval
    assert ours.value == pytest.approx(values.mean()) and ours.n == 80
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_ratio_of_sums_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    bottom = rng.uniform(0.5, 2, 60)
    top = 0.7 * bottom + 0.2 * rng.standard_normal(60)
    ours = bootstrap_ratio(top, bottom, resamples=20_000)
    theirs = stats.bootstrap(
        (top, bottom),
        lambda a, b, axis=-1: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        confidence_level=plain_level(60),
        rng=1,
    ).confidence_interval
    assert ours.value == pytest.approx(top.sum() / bottom.sum())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_coverage_is_near_the_level() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(300):
        estimate = bootstrap_mean(rng.standard_normal(40), seed=trial, resamples=400)
        assert estimate.low is not None and estimate.high is not None
        hits += estimate.low <= 0 <= estimate.high
    assert 0.89 <= hits / 300 <= 0.98


def test_few_images_are_made_up_for() -> None:
    """Of ten, plain percentiles hold the mean in less than 0.92 of experiments, and Student's interval in 0.95."""
    rng = np.random.default_rng(4)
    values = rng.standard_normal((1500, 10))
    draws = rng.multinomial(10, np.full(10, 0.1), size=1000) @ values.T / 10  # the same resamples for all of them
    plain = np.quantile(draws, [0.025, 0.975], axis=0)
    wide = np.array([interval(column, 10) for column in draws.T]).T
    held, expanded = (float(np.mean((low <= 0) & (high >= 0))) for low, high in (plain, wide))
    assert held < 0.92 and 0.935 <= expanded <= 0.965
    assert np.diff(wide, axis=0).mean() == pytest.approx(
        np.mean(2 * stats.t.ppf(0.975, 9) * values.std(axis=1, ddof=1) / math.sqrt(10)), rel=0.02
    )
    assert interval(np.arange(1001.0), 100_000) == pytest.approx((25, 975), abs=0.1)


def test_same_seed_same_interval_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random(50)
    first = bootstrap_mean(values, seed=7)
    assert first == bootstrap_mean(values, seed=7) != bootstrap_mean(values, seed=8)
    monkeypatch.setattr(bootstrap, "_BLOCK", 1000)
    assert first == bootstrap_mean(values, seed=7)


def test_nan_is_left_out_and_few_images_have_no_interval() -> None:
    values = np.array([1.0, np.nan, 3.0])
    estimate = bootstrap_mean(values)
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (2.0, None, None, 2)
    assert not estimate.has_interval
    assert bootstrap_mean(np.arange(MIN_IMAGES)).has_interval
    empty = bootstrap_mean(np.array([np.nan]))
    assert math.isnan(empty.value) and empty.as_json()["value"] is None
    assert math.isnan(bootstrap_ratio(np.ones(9), np.zeros(9)).value)


def test_wilson_agrees_with_scipy() -> None:
    for successes, n in ((0, 20), (3, 20), (20, 20), (77, 512)):
        theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
        ours = wilson(successes, n)
        assert (ours.value, ours.low, ours.high) == pytest.approx((successes / n, theirs.low, theirs.high), abs=1e-12)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="one length"):
        bootstrap_ratio(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="successes"):
        wilson(5, 4)


def test_differences_are_resampled_together_over_the_images_of_both() -> None:
    rng = np.random.default_rng(11)
    bottoms = rng.uniform(1, 2, (2, 30))
    tops = bottoms * np.array([[0.8], [0.3]]) + 0.1 * rng.standard_normal((2, 30))
    tops[0, 3], bottoms[1, 7] = np.nan, np.nan
    both = np.isfinite(tops + bottoms).all(axis=0)
    first, second = (summed_ratio(top, bottom) for top, bottom in zip(tops, bottoms, strict=True))
    found = bootstrap_difference(first, second, seed=1)
    ratios = tops[:, both].sum(axis=1) / bottoms[:, both].sum(axis=1)
    assert found.n == both.sum() == 28 and found.value == pytest.approx(ratios[0] - ratios[1])
    places = np.random.default_rng(12).choice(np.flatnonzero(both), (20_000, 28))
    drawn = tops[:, places].sum(axis=2) / bottoms[:, places].sum(axis=2)
    assert [found.low, found.high] == pytest.approx(interval(drawn[0] - drawn[1], 28), abs=0.006)
    assert first.estimate(seed=1) == bootstrap_ratio(tops[0], bottoms[0], seed=1)
    assert first.shares(both).mean() == pytest.approx(ratios[0])
    same = bootstrap_difference(first, first)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="the same images, got 30 and 4"):
        bootstrap_difference(first, summed_ratio(np.ones(4), np.ones(4)))
