"""What the probes count with, against scikit-learn, scipy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import geometric_slerp
from scipy.spatial.distance import pdist, squareform
from sklearn.neighbors import NearestNeighbors

from rcdm_core.errors import RCDMError
from rcdm_core.metrics import neighbours
from rcdm_core.metrics.bootstrap import bootstrap_over_pairs, wilson
from rcdm_core.metrics.distances import mean_of_pairs
from rcdm_core.metrics.groups import compare_overlapping
from rcdm_core.metrics.neighbours import Nearest
from rcdm_core.metrics.paired import SURE, compare, holm, pairs_needed, sign_flip_p
from rcdm_core.metrics.paths import lerp, slerp


@pytest.mark.parametrize("block_bytes", [64 << 20, 8 * 24 * 50])
def test_nearest_is_brute_force(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(0)
    gallery = (rng.standard_normal((700, 24)) + 1e3).astype(np.float32)  # an offset costs no digits
    queries = rng.standard_normal((60, 24)) + 1e3
    search = Nearest(queries, 7)
    for start in range(0, 700, 150):
        search.add(gallery[start : start + 150])
    brute = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(gallery.astype(float))
    places = brute.kneighbors(queries, return_distance=False)
    exact = np.sqrt(((gallery.astype(float)[places] - queries[:, None]) ** 2).sum(axis=-1))
    assert np.array_equal(search.indices, places) and np.allclose(np.sqrt(search.squares), exact, rtol=1e-6)


def test_a_gallery_smaller_than_k_and_copies() -> None:
    search = Nearest(np.ones((2, 3)), 4)
    search.add(np.array([[1.0, 1, 1], [3, 1, 1]]))
    assert search.indices.tolist() == [[0, 1, -1, -1]] * 2
    assert search.squares.tolist() == [[0, 4, np.inf, np.inf]] * 2
    with pytest.raises(ValueError, match="gallery"):
        search.add(np.ones((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        search.add(np.full((2, 3), np.nan))


def test_slerp_is_scipys_on_the_sphere() -> None:
    rng = np.random.default_rng(1)
    a, b = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 17)))
    t = np.linspace(0, 1, 9)
    assert np.allclose(slerp(a, b, t), geometric_slerp(a, b, t), atol=1e-12)
    # lengths change evenly, directions as if there were none
    long = slerp(2 * a, 5 * b, t)
    assert np.allclose(np.linalg.norm(long, axis=1), 2 + 3 * t)
    assert np.allclose(long / np.linalg.norm(long, axis=1)[:, None], geometric_slerp(a, b, t), atol=1e-12)


def test_lerp_ends_and_what_has_no_arc() -> None:
    a, b = np.array([1.0, 0, 0]), np.array([0, 2.0, 0])
    assert lerp(a, b, np.array([0, 0.25, 1])).tolist() == [[1, 0, 0], [0.75, 0.5, 0], [0, 2, 0]]
    assert np.allclose(slerp(a, 3 * a, np.array([0.5])), 2 * a)
    for other, message in ((-a, "opposite"), (0 * a, "is 0")):
        with pytest.raises(RCDMError, match=message):
            slerp(a, other, np.array([0.5]))


def test_units_of_random_pairs() -> None:
    rng = np.random.default_rng(2)
    points, values = rng.standard_normal((40, 5)), rng.random(30)
    pairs = squareform(pdist(points))
    found = bootstrap_over_pairs(values, pairs)
    assert found.value == pytest.approx(values.mean() / pdist(points).mean())
    assert found.low < found.value < found.high and found.n == 30
    few = bootstrap_over_pairs(values[:3], pairs)
    assert few.low is None and few.value == pytest.approx(values[:3].mean() / pdist(points).mean())
    assert np.isnan(bootstrap_over_pairs(values, pairs[:1, :1]).value)


def test_the_mean_over_pairs_is_scipys() -> None:
    points = np.random.default_rng(6).standard_normal((9, 4))
    distances = squareform(pdist(points))
    assert mean_of_pairs(distances) == pytest.approx(pdist(points).mean())
    assert mean_of_pairs(distances + np.eye(9)) == mean_of_pairs(distances)  # a picture with itself is no pair
    assert [mean_of_pairs(np.zeros((n, n))) for n in (0, 1, 2)] == [None] * 3


def test_the_interval_over_pairs_covers() -> None:
    """Both the images and the pool are random; 95% of intervals hold the truth, within what 150 trials can tell."""
    rng = np.random.default_rng(3)
    truth = 1.0 / (2 / np.sqrt(np.pi))  # mean of the values, over the mean distance of two standard normal numbers
    hits = 0
    for trial in range(150):
        values, points = rng.exponential(1.0, 40), rng.standard_normal((40, 1))
        found = bootstrap_over_pairs(values, squareform(pdist(points)), seed=trial, resamples=300)
        assert found.low is not None and found.high is not None
        hits += found.low <= truth <= found.high
    assert 0.87 <= hits / 150 <= 0.99


def test_a_share_of_samples_counts_images() -> None:
    halves = wilson(3.5, 10)
    assert halves.value == 0.35 and wilson(3, 10).high < halves.high < wilson(4, 10).high


def test_models_are_compared_in_pairs() -> None:
    rng = np.random.default_rng(4)
    base = rng.standard_normal(20)
    values = {"a": base, "b": base + 0.5 + 0.1 * rng.standard_normal(20), "c": base + 0.01 * rng.standard_normal(20)}
    found = compare(values)
    assert [(d.first, d.second) for d in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found[0].p == sign_flip_p((values["a"] - values["b"])[:, None], seed=0)[0]
    assert found[0].p_holm < 0.001 < 0.05 < found[1].p_holm and found[0].difference.high < 0
    assert compare({"a": base[:3], "b": base[:3] + 1})[0].p is None
    assert compare({"a": base, "b": base})[0].p == 1
    assert compare({"a": base}) == []


def scipys_p(differences: np.ndarray) -> float:
    found = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=9999, rng=1)
    return float(found.pvalue)


@pytest.mark.parametrize("n", [6, 9, 13])
def test_all_flips_of_signs_are_scipys_exact_test(n: int) -> None:
    differences = np.random.default_rng(n).standard_normal((n, 3)) + np.array([0.0, 0.4, 2.0])
    expected = [scipys_p(column) for column in differences.T]
    assert sign_flip_p(differences, seed=0) == pytest.approx(expected, abs=1e-12)


def test_random_flips_of_signs_agree_with_scipy() -> None:
    differences = np.random.default_rng(10).standard_normal((30, 3)) + np.array([0.0, 0.4, 2.0])
    expected = [scipys_p(column) for column in differences.T]
    assert sign_flip_p(differences, seed=0) == pytest.approx(expected, abs=0.03)


def test_pictures_that_are_nan_do_not_count() -> None:
    differences = np.random.default_rng(3).standard_normal((9, 1)) + 0.3
    beside = np.concatenate([differences, np.full((4, 1), np.nan)])
    assert sign_flip_p(beside, seed=0) == pytest.approx(sign_flip_p(differences, seed=0))
    assert sign_flip_p(np.full((9, 1), np.nan), seed=0)[0] == 1


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize("count", [1, 2, 17, 72, 450, 500])
def test_how_many_pictures_a_corrected_test_takes(count: int) -> None:
    """By the most extreme differences that so many pictures can have, among others of which none is one."""
    needed = pairs_needed(count)
    for n in (6, 7, 8, 9, 10, 11, 12, 13, 14, 40):
        p = float(sign_flip_p(np.ones((n, 1)), seed=0)[0])
        assert (holm([p, *[1.0] * (count - 1)])[0] < SURE) == (needed is not None and n >= needed)


def test_groups_that_overlap_entirely_are_pairs() -> None:
    """The same difference, p and interval as of paired measurements; alone in either group, pictures count as well."""
    rng = np.random.default_rng(7)
    first, second = rng.standard_normal((2, 12)) + np.array([[0.6], [0.0]])
    (pairs,) = compare({"a": first, "b": second})
    found = compare_overlapping(("a", "b"), first, second)
    assert found.p == pairs.p and found.difference.value == pytest.approx(pairs.difference.value)
    assert (found.difference.low, found.difference.high) == pytest.approx(
        (pairs.difference.low, pairs.difference.high), abs=0.02
    )
    turned = compare_overlapping(("b", "a"), second, first)
    assert turned.p == found.p and turned.difference.value == pytest.approx(-found.difference.value)
    nan = np.nan
    more = compare_overlapping(("a", "b"), np.append(first, [3.0, nan, nan]), np.append(second, [nan, 1.0, nan]))
    assert more.difference.n == 13
    assert more.difference.value == pytest.approx((first.sum() + 3) / 13 - (second.sum() + 1) / 13)


def test_groups_without_a_picture_in_common_are_tested_as_scipy_does() -> None:
    rng = np.random.default_rng(8)
    first, second = np.full(40, np.nan), np.full(40, np.nan)
    first[:18], second[18:] = rng.standard_normal(18) + 0.5, rng.standard_normal(22)
    found = compare_overlapping(("a", "b"), first, second)
    theirs = stats.permutation_test(
        (first[:18], second[18:]), lambda a, b: a.mean() - b.mean(), n_resamples=9999, rng=1
    )
    assert found.p == pytest.approx(theirs.pvalue, abs=0.015) and found.difference.n == 18


def test_overlapping_groups_that_do_not_differ_are_found_to_in_one_of_twenty_experiments() -> None:
    """Ten pictures in each, a third of them in both, which agree in part; then with a true difference."""
    rng = np.random.default_rng(9)
    p, held = [], 0
    for trial in range(150):
        common = rng.standard_normal(16)
        first, second = common + rng.standard_normal(16), common + rng.standard_normal(16)
        first[10:], second[:6] = np.nan, np.nan
        found = compare_overlapping(("a", "b"), first, second, seed=trial)
        p.append(found.p)
        held += found.difference.low <= 0 <= found.difference.high  # type: ignore[operator]
        if trial < 10:
            assert compare_overlapping(("a", "b"), first + 4, second, seed=trial).p < 0.05  # type: ignore[operator]
    assert 2 <= np.sum(np.array(p, dtype=float) < 0.05) <= 15 and 0.88 <= held / 150 <= 0.99


def test_too_few_pictures_in_a_group() -> None:
    few = compare_overlapping(("a", "b"), np.array([1.0, 2, np.nan, np.nan]), np.array([np.nan, 1, 3, 5]))
    assert few.p is None and few.difference.low is None and few.difference.value == pytest.approx(1.5 - 3)
    none = compare_overlapping(("a", "b"), np.array([np.nan, 2]), np.array([np.nan, np.nan]))
    assert none.p is None and np.isnan(none.difference.value)
    same = compare_overlapping(("a", "b"), np.ones(9), np.append(np.ones(8), np.nan))
    assert same.p == 1 and same.difference.value == 0
