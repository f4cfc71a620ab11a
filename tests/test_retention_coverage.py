"""Intervals of rendered retention, through the exact sampler: how often they hold a truth that is known."""

from __future__ import annotations

import numpy as np
from exact_coverage import TRUTH, intervals
from scipy import stats

EXPERIMENTS, PICTURES, SAMPLES = 200, 20, 2  # as few pictures as the probe takes
# At least 0.90 of the intervals have to hold the truth, and not more than is likely: of 200 that each do so with
# probability 0.95, fewer than 180 do in 1 of 700 runs, and more than 198 in 1 of 2,500.
BAND = 0.9 * EXPERIMENTS, stats.binom.ppf(0.999, EXPERIMENTS, 0.95)


def test_intervals_hold_the_truth_at_their_level() -> None:
    """For what is forgotten (0), told in part (0.41 and 0.75) and kept (1); tests/exact_coverage.py has larger runs."""
    assert list(TRUTH) == ["object color", "background color", "position", "size"]
    for name, rows in intervals(EXPERIMENTS, PICTURES, SAMPLES, size=16).items():
        value, low, high = rows.T
        held = int(((low <= TRUTH[name]) & (TRUTH[name] <= high)).sum())
        assert BAND[0] <= held <= BAND[1], (name, held)
        # the value is right on average, but for the coarse pixels in which what is kept is read
        error = value.mean() - TRUTH[name]
        assert abs(error) < 4 * value.std() / np.sqrt(EXPERIMENTS) + (0.015 if name == "size" else 0), (name, error)
        assert (low < value).all() and (value < high).all()


def test_the_truth_is_what_pairs_of_pictures_say() -> None:
    """Var(E[a | h]) / Var(a) of the factors themselves: the covariance of two draws from one part of the range."""
    rng = np.random.default_rng(0)
    u, first, second = rng.random((3, 200_000))
    together = [(np.floor(2 * u) + one) / 2 for one in (first, second)]
    place = np.cov(*together)[0, 1] / np.var(together[0])
    hue = np.mean(np.cos(2 * np.pi * (together[0] - together[1])))
    assert abs(place - TRUTH["position"]) < 0.01 and abs(hue - TRUTH["background color"]) < 0.01
