"""Ranks against scipy's distances and rankdata, ties and rounding included; the linear readout against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from rcdm_core.metrics import ranks as module
from rcdm_core.metrics.bootstrap import wilson
from rcdm_core.metrics.ranks import chance, histogram, ranks, summarise
from rcdm_core.metrics.readout import fit_readout


def oracle(queries: np.ndarray, gallery: np.ndarray, targets: np.ndarray) -> np.ndarray:
    distances = cdist(queries.astype(np.float64), gallery.astype(np.float64), "sqeuclidean")
    return np.array([rankdata(row, method="average")[t] for row, t in zip(distances, targets, strict=True)])


def test_against_scipy() -> None:
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((400, 24)).astype(np.float32)
    targets = rng.integers(0, 400, 150)
    queries = gallery[targets] + rng.standard_normal((150, 24)).astype(np.float32)
    found = ranks(queries, gallery, targets)
    assert np.array_equal(found, oracle(queries, gallery, targets))
    assert found.min() == 1 < found.max()


def test_ties_share_the_average_rank() -> None:
    rng = np.random.default_rng(1)
    gallery = rng.integers(0, 3, (200, 3)).astype(np.float64)  # many copies and many equal distances
    queries = rng.integers(0, 3, (90, 3)).astype(np.float64)
    targets = rng.integers(0, 200, 90)
    found = ranks(queries, gallery, targets)
    assert np.array_equal(found, oracle(queries, gallery, targets))
    assert (found % 1 == 0.5).any()
    assert (ranks(queries, np.ones((200, 3)), targets) == chance(200)["mean_rank"]).all()


def test_an_offset_costs_no_digits() -> None:
    rng = np.random.default_rng(2)
    gallery, targets = rng.standard_normal((100, 8)), np.arange(100)
    queries = gallery + 0.5 * rng.standard_normal((100, 8))
    assert np.array_equal(ranks(queries + 1e5, gallery + 1e5, targets), oracle(queries, gallery, targets))


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    gallery, queries, targets = rng.random((50, 5)), rng.random((33, 5)), rng.integers(0, 50, 33)
    whole = ranks(queries, gallery, targets)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 50 * 8 * 4)
    assert np.array_equal(whole, ranks(queries, gallery, targets))


def test_chance_is_the_mean_over_all_ranks() -> None:
    every = np.arange(1, 513)
    expected = {"mean_rank": every.mean(), "mrr": (1 / every).mean(), "top1": 1 / 512}
    assert chance(512) == pytest.approx(expected)
    assert chance(512)["mean_rank"] == 256.5 and round(chance(512)["mrr"], 3) == 0.013


def test_summary() -> None:
    one = summarise(np.array([1, 1, 2, 4, 1.5, 10.0])[:, None])
    assert one.mean_rank.value == pytest.approx(19.5 / 6)
    assert one.mrr.value == pytest.approx((1 + 1 + 1 / 2 + 1 / 4 + 1 / 1.5 + 0.1) / 6)
    assert one.top1.value == pytest.approx(2 / 6) and one.top1.has_interval
    never = summarise(np.full((40, 1), 9.0))
    assert never.top1.low == pytest.approx(0, abs=1e-9)
    assert never.top1.high is not None and never.top1.high > 0.05  # Wilson, not a point
    several = summarise(np.array([[1, 3.0]] * 6))
    assert several.top1.value == 0.5 and several.mrr.value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("queries", "gallery", "targets", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 5)), [0, 1], "dim"),
        (np.ones((2, 3)), np.ones((4, 3)), [0], "one target"),
        (np.ones((2, 3)), np.ones((4, 3)), [0, 4], "outside"),
        (np.full((1, 3), np.nan), np.ones((4, 3)), [0], "finite"),
    ],
)
def test_bad_arguments(queries: np.ndarray, gallery: np.ndarray, targets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranks(queries, gallery, np.array(targets))


def test_readout_r2_is_scikit_learns_leave_one_out() -> None:
    rng = np.random.default_rng(4)
    h = rng.standard_normal((70, 12)) * rng.uniform(0.1, 50, 12)
    attribute = np.stack([h[:, 0] / 10 + 0.3 * rng.standard_normal(70), rng.standard_normal(70)], axis=1)
    readout = fit_readout(h, attribute)
    assert readout is not None and readout.n == 70
    standard = (h - h.mean(0)) / h.std(0)
    best = max(
        1
        - ((cross_val_predict(Ridge(alpha=70 * 10.0**k), standard, attribute, cv=LeaveOneOut()) - attribute) ** 2).sum()
        / ((attribute - attribute.mean(0)) ** 2).sum()
        for k in range(-4, 5)
    )
    assert readout.r2 == pytest.approx(best, abs=1e-6)


def test_readout_reads_shifts_and_knows_when_there_is_nothing() -> None:
    rng = np.random.default_rng(5)
    h = np.concatenate([rng.standard_normal((200, 4)), np.ones((200, 1))], axis=1)
    weight = rng.standard_normal((5, 2))
    attribute = h @ weight
    attribute[3] = np.nan
    readout = fit_readout(h, attribute)
    assert readout is not None and readout.r2 > 0.999 and readout.n == 199
    shift = np.array([[0.5, -1, 0, 2, 0]])
    assert readout.shift(shift) == pytest.approx(shift @ weight, rel=1e-2, abs=1e-2)
    noise = fit_readout(h, rng.standard_normal((200, 1)))
    assert noise is not None and noise.r2 < 0.05
    assert fit_readout(h, np.ones((200, 1))) is None and fit_readout(np.ones((200, 3)), attribute) is None


def test_shares_have_wilsons_interval_over_images_however_many_samples_they_have() -> None:
    """0 of few images is not never, and two samples of an image are not two images."""
    for samples in (1, 2, 3):
        table = np.full((12, samples), 7.0)
        assert summarise(table).top1 == wilson(0, 12)
        shares = [one.share for one in histogram(table, 15)]  # to 1, 2, 5, 10, 15
        assert shares == [wilson(12 if place == 3 else 0, 12) for place in range(5)]
    mixed = np.array([[1.0, 9.0], [1.0, np.nan], [9.0, 9.0]])
    assert summarise(mixed).top1 == wilson(1.5, 3) and histogram(mixed, 9)[0].share == wilson(1.5, 3)
