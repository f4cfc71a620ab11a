"""Intervals of rendered retention, through the exact sampler, and of differences between two models' numbers: how often
they hold a truth that is known.
"""

from __future__ import annotations

import numpy as np
import pytest
from exact_coverage import TRUTH, intervals
from scipy import stats

from rcdm_core.metrics.bootstrap import Summed, bootstrap_difference
from rcdm_core.metrics.readout import Decoded
from rcdm_core.metrics.retention import Observed
from rcdm_core.probes.invariance_compare import response

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


def planted(rng: np.random.Generator, kind: str, real: np.ndarray, kept: float) -> Summed:
    """A number of one model that is `kept` in truth, for an attribute, or its shifts, [n, 1] of variance 1."""
    noise = rng.standard_normal((2, *real.shape))
    held = kept * real + np.sqrt(kept * (1 - kept)) * noise[0]  # E[a | h]: Var(held) = Cov(held, real) = kept
    if kind == "decodable":
        return Decoded(((real - held) ** 2)[:, 0], (real**2)[:, 0]).summed()
    drawn = held + np.sqrt((1 - kept) / 4) * noise[1]  # the mean of 4 samples
    return response(real, drawn) if kind == "response" else Observed(real, drawn, np.zeros(len(real)), 0.0).rendered()


@pytest.mark.parametrize("kept", [(0.9, 0.1), (0.5, 0.5)])
@pytest.mark.parametrize("kind", ["rendered", "decodable", "response"])
def test_intervals_of_differences_hold_the_truth_at_their_level(kind: str, kept: tuple[float, float]) -> None:
    """Two models on the same 48 pictures. The shares of pictures, with denominators as they are, vary more than that
    where the models differ: of 0.9 and 0.1, rendered, intervals over them are 0.73 wide instead of 0.39.
    """
    rng = np.random.default_rng(1)
    held, values, widths = 0, [], []
    for number in range(EXPERIMENTS):
        real = rng.standard_normal((48, 1))
        found = bootstrap_difference(*(planted(rng, kind, real, one) for one in kept), seed=number)
        assert found.low is not None and found.high is not None
        held += found.low <= kept[0] - kept[1] <= found.high
        values.append(found.value)
        widths.append(found.high - found.low)
    assert BAND[0] <= held <= BAND[1], held
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(values), rel=0.2)
    assert abs(np.mean(values) - (kept[0] - kept[1])) < 4 * np.std(values) / np.sqrt(EXPERIMENTS) + 0.005


def test_the_truth_is_what_pairs_of_pictures_say() -> None:
    """Var(E[a | h]) / Var(a) of the factors themselves: the covariance of two draws from one part of the range."""
    rng = np.random.default_rng(0)
    u, first, second = rng.random((3, 200_000))
    together = [(np.floor(2 * u) + one) / 2 for one in (first, second)]
    place = np.cov(*together)[0, 1] / np.var(together[0])
    hue = np.mean(np.cos(2 * np.pi * (together[0] - together[1])))
    assert abs(place - TRUTH["position"]) < 0.01 and abs(hue - TRUTH["background color"]) < 0.01
