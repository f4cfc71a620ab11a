"""The Fréchet distance against closed forms, scipy's root of a matrix and torch-fidelity; its intervals by coverage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import ttest_1samp
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from rcdm_core.metrics.frechet import _gaussian, _moved, distances, frechet, variance
from rcdm_core.metrics.resampled import over_images


def exactly(mean: np.ndarray, covariance: np.ndarray, n: int) -> np.ndarray:
    """n rows whose mean and covariance are exactly these."""
    rows = np.random.default_rng(n).standard_normal((n, len(mean)))
    rows -= rows.mean(axis=0)
    white = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T
    return np.asarray(mean + white @ np.linalg.cholesky(covariance).T)


def test_closed_forms() -> None:
    """Of Gaussians that commute, the covariances' part is the squared distance of the standard deviations."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    first, second = np.array([1.0, 2.0, 3.0, 0.5]), np.array([2.0, 2.0, 1.0, 0.1])
    means = rng.standard_normal((2, 4))
    one = exactly(means[0], turn @ np.diag(first**2) @ turn.T, 50)
    two = exactly(means[1], turn @ np.diag(second**2) @ turn.T, 70)
    expected = ((means[0] - means[1]) ** 2).sum() + ((first - second) ** 2).sum()
    assert frechet(one, two) == pytest.approx(expected, rel=1e-9) == frechet(two, one)
    assert frechet(one, one + 3.0) == pytest.approx(4 * 9.0, rel=1e-9) and frechet(one, one) < 1e-12
    # all at the other's mean: its variance
    assert frechet(np.repeat(means[1:2], 6, axis=0), two) == pytest.approx((second**2).sum(), rel=1e-9) == variance(two)


@pytest.mark.parametrize(("n", "m", "dim"), [(60, 60, 5), (12, 9, 30), (40, 8, 20)])
def test_scipy_and_torch_fidelity(n: int, m: int, dim: int) -> None:
    rng = np.random.default_rng(dim)
    one = (rng.standard_normal((n, dim)) @ rng.standard_normal((dim, dim)) + 0.3).astype(np.float32)
    two = (rng.standard_normal((m, dim)) * rng.uniform(0.2, 2, dim)).astype(np.float32)
    statistics = [fid_features_to_statistics(torch.from_numpy(x.astype(np.float64))) for x in (one, two)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    # where pictures are few, theirs takes the roots of rounded zeros
    assert frechet(one, two) == pytest.approx(theirs, rel=1e-9 if min(n, m) > dim else 1e-4)
    if min(n, m) > dim:
        (a, b), root = (x["sigma"] for x in statistics), sqrtm(statistics[0]["sigma"] @ statistics[1]["sigma"]).real
        apart = ((statistics[0]["mu"] - statistics[1]["mu"]) ** 2).sum()
        assert frechet(one, two) == pytest.approx(apart + np.trace(a + b - 2 * root), rel=1e-8)


def resampled(one: np.ndarray, two: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """The plain computation: distances of resamples, both sets drawn with replacement."""
    rng = np.random.default_rng(seed)
    places = [(rng.integers(0, len(one), len(one)), rng.integers(0, len(two), len(two))) for _ in range(resamples)]
    return np.array([frechet(one[i], two[j]) for i, j in places])


def test_moves_are_the_derivatives() -> None:
    """A picture that counts a little more, by the distance with weights in mean and covariance."""
    rng = np.random.default_rng(4)
    for n, m, dim in ((20, 15, 4), (8, 6, 12)):
        one, two = rng.standard_normal((n, dim)), 1.5 * rng.standard_normal((m, dim)) + 0.4

        def weighted(first: np.ndarray, second: np.ndarray, one: np.ndarray = one, two: np.ndarray = two) -> float:
            means = [counts @ rows / len(rows) for counts, rows in ((first, one), (second, two))]
            # in directions of the pictures alone: rows with XᵀX = C
            a, b = (
                (rows - mean) * np.sqrt(counts / (len(rows) - 1))[:, None]
                for rows, mean, counts in zip((one, two), means, (first, second), strict=True)
            )
            shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
            return float(((means[0] - means[1]) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * shared)

        value, *moves = _moved(_gaussian(one), _gaussian(two))
        assert value == pytest.approx(frechet(one, two), rel=1e-12)
        for which, move in enumerate(moves):
            for i in (0, len(move) - 1):
                ends = []
                for step in (1e-5, -1e-5):
                    counts = [np.ones(n), np.ones(m)]
                    counts[which] += step * (np.arange(len(move)) == i) - step / len(move)  # as many in all
                    ends.append(weighted(counts[0], counts[1]))
                assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(move[i] - move.mean(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("n", "dim", "tolerance"), [(400, 3, 0.06), (300, 12, 0.1)])
def test_intervals_are_as_wide_as_those_of_the_plain_bootstrap(n: int, dim: int, tolerance: float) -> None:
    rng = np.random.default_rng(dim)
    one, two = rng.standard_normal((n, dim)), rng.standard_normal((n, dim)) * np.linspace(0.7, 2, dim) + 0.3
    (found,), (relative,) = distances([one], two, seed=0)
    plain = resampled(one, two, 1500)
    assert found.draws.std() == pytest.approx(plain.std(), rel=tolerance)
    low, high = np.quantile(plain - plain.mean(), [0.025, 0.975]) + found.value
    estimate = found.estimate()
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=tolerance * (high - low))
    assert relative.value == pytest.approx(found.value / variance(two), rel=1e-12)


@pytest.mark.parametrize(("n", "dim"), [(60, 3), (40, 20), (40, 100)])
def test_intervals_cover_what_n_pictures_give_on_average(n: int, dim: int) -> None:
    """They hold the mean of many experiments, and are about as wide as the spread of these."""
    rng = np.random.default_rng(1)

    def sets() -> tuple[np.ndarray, np.ndarray]:
        return rng.standard_normal((n, dim)), 1.5 * rng.standard_normal((n, dim))

    many = [frechet(*sets()) for _ in range(300)]
    hits, spreads = 0, []
    for trial in range(100):
        one, two = sets()
        (found,), _ = distances([one], two, seed=trial)
        low, high = found.estimate().low, found.estimate().high
        assert low is not None and high is not None and found.value == pytest.approx(frechet(one, two), rel=1e-9)
        hits += low <= np.mean(many) <= high
        spreads.append(found.draws.std())
    assert hits >= 89  # 95 of 100, and three standard errors less
    assert np.mean(spreads) == pytest.approx(np.std(many), rel=0.3)


def test_a_dimension_that_others_determine_and_one_that_is_constant() -> None:
    rng = np.random.default_rng(5)
    one, two = rng.standard_normal((2, 50, 6))
    for rows in (one, two):
        rows[:, 4], rows[:, 5] = rows[:, 0] + rows[:, 1], 0.5
    a, b = np.cov(one.T), np.cov(two.T)
    root = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    expected = ((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root
    (found,), _ = distances([one], two, seed=0)
    assert found.value == pytest.approx(expected, rel=1e-6) and np.isfinite(found.draws).all()
    constant = np.repeat(two.mean(axis=0)[None], 50, axis=0)
    (collapsed,), (relative,) = distances([constant], two, seed=0)
    assert relative.value == pytest.approx(1, rel=1e-9)
    assert collapsed.draws.std() > 0.01 and relative.draws.std() < 1e-9  # the variance itself, over itself


def test_sets_are_resampled_alike() -> None:
    """The same set twice: the difference is 0 in every resample. One that is further away is so beyond chance."""
    rng = np.random.default_rng(2)
    reference, near = rng.standard_normal((2, 80, 4))
    (first, again, far), relative = distances([near, near.copy(), near + 1.0], reference, seed=0)
    assert np.abs(first.less(again).draws).max() < 1e-12 and first.less(again).p() == 1.0
    beyond = far.less(first)
    assert beyond.p() < 1e-6 and beyond.estimate().low > 1  # type: ignore[operator]
    assert relative[2].value == pytest.approx(far.value / variance(reference), rel=1e-9)
    (few,), _ = distances([near[:4]], reference[:4], seed=0)
    assert few.estimate().low is None and few.p() is None


def test_resamples_of_a_mean_have_its_standard_error() -> None:
    values = np.random.default_rng(3).standard_normal(400)
    found = over_images(lambda rows: float(values[rows].mean()), 400, seed=0, resamples=1500)
    assert found.draws.std() == pytest.approx(values.std() / 20, rel=0.06) and found.value == values.mean()
    assert found.p() == pytest.approx(ttest_1samp(values, 0).pvalue, abs=0.03)


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match="at least two rows"):
        frechet(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        frechet(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="one length"):
        distances([np.zeros((4, 3)), np.zeros((5, 3))], np.zeros((4, 3)), seed=0)
