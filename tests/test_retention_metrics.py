"""The estimators behind retention, against scikit-learn, scipy and planted truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rcdm_core.metrics.attributes import measure
from rcdm_core.metrics.judge import fit_judge
from rcdm_core.metrics.readout import cross_validate, fit_readout
from rcdm_core.metrics.retention import (
    Observed,
    agreement,
    hearing,
    instrument,
    over_samples,
    rendered_retention,
    variance_ratio,
)

REPETITIONS = 120
# How often that many intervals hold the truth if each does so with probability 0.95, or with 0.93 at the least: the
# percentile bootstrap of so few pictures is known to be up to two points short of its level.
BAND = stats.binom.ppf(0.001, REPETITIONS, 0.93), stats.binom.ppf(0.999, REPETITIONS, 0.95)


def planted(rng: np.random.Generator, n: int, kept: float, k: int = 4) -> tuple[np.ndarray, Observed]:
    """h [n, 3] that holds `kept` of the variance of a two-dimensional attribute, and samples of the true posterior."""
    h = rng.standard_normal((n, 3))
    held = np.sqrt(kept) * h[:, :2]
    real = held + np.sqrt(1 - kept) * rng.standard_normal((n, 2))
    samples = held[:, None] + np.sqrt(1 - kept) * rng.standard_normal((n, k, 2))
    mean, spread, _ = over_samples(samples)
    return h, Observed(real, mean, spread, floor=0.1)


@pytest.mark.parametrize("kept", [0.0, 0.4, 0.9])
def test_coverage_on_planted_data(kept: float) -> None:
    rng = np.random.default_rng(round(10 * kept))
    hits = {"rendered": 0, "variance": 0, "decodable": 0}
    for trial in range(REPETITIONS):
        h, observed = planted(rng, 80, kept)
        found = {"rendered": (rendered_retention(observed, seed=trial), kept)}
        found["variance"] = (variance_ratio(observed, seed=trial), 1.0)
        # a readout that was fitted on 64 pictures falls short of the best one: three weights go with the noise
        decoded = cross_validate(h, observed.real, seed=trial).r2(seed=trial)
        found["decodable"] = (decoded, kept - (1 - kept) * 3 / 64)
        for name, (estimate, truth) in found.items():
            assert estimate is not None and estimate.low is not None and estimate.high is not None
            hits[name] += estimate.low <= truth <= estimate.high
    if kept == 0:  # there the penalty leaves next to no weights and nothing falls short; see the next test
        del hits["decodable"]
    for name, count in hits.items():
        assert BAND[0] <= count <= BAND[1], (name, count)


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_the_units_of_h_do_not_matter_for_what_comes_back_of_it(unit: float) -> None:
    rng = np.random.default_rng(0)
    h = rng.standard_normal((60, 3))
    again = h + 0.5 * rng.standard_normal(h.shape)
    h[:, 2] = again[:, 2] = 7  # which says nothing
    found, plain = hearing(unit * h, unit * again, seed=0), hearing(h, again, seed=0)
    assert found is not None and plain is not None
    assert found.value == pytest.approx(plain.value) and 0.8 < plain.value < 1.2
    for constant in (unit * np.ones((60, 3)), np.zeros((60, 3))):
        assert hearing(constant, again, seed=0) is None


def test_nothing_decodes_to_nothing() -> None:
    rng = np.random.default_rng(1)
    pairs = [(rng.standard_normal((100, 40)), rng.standard_normal((100, 1))) for _ in range(40)]
    values = [cross_validate(h, target).r2(seed=0).value for h, target in pairs]
    assert -0.1 < np.mean(values) < 0.02 and np.max(values) < 0.15


def test_what_does_not_depend_on_h_is_worth_zero_and_exaggeration_is_found_out() -> None:
    rng = np.random.default_rng(2)
    real = rng.standard_normal((1000, 1))
    zeros = np.zeros(1000)
    deaf = Observed(real, rng.standard_normal((1000, 1)), zeros, 0.1)
    likeliest = Observed(real, np.sign(0.5 * real + rng.standard_normal((1000, 1))), zeros, 0.1)
    for observed in (deaf, likeliest):
        correlation = np.corrcoef(observed.real[:, 0], observed.drawn[:, 0])[0, 1]
        found = agreement(observed, seed=0)
        assert found is not None and found.value == pytest.approx(correlation * abs(correlation), abs=1e-9)
    assert abs(rendered_retention(deaf, seed=0).value) < 0.1  # type: ignore[union-attr]
    # h = 0.5 x + noise holds 0.2 of x; a generator that draws the likelier of two values shows more
    assert rendered_retention(likeliest, seed=0).value > 0.3  # type: ignore[union-attr]
    assert agreement(likeliest, seed=0).value < 0.2  # type: ignore[union-attr]


def test_covariances_agree_with_numpy_and_every_resample_has_its_own_mean() -> None:
    _, observed = planted(np.random.default_rng(3), 50, 0.5)
    covariance = sum(np.cov(observed.real[:, d], observed.drawn[:, d])[0, 1] for d in (0, 1))
    expected = covariance / observed.real.var(0, ddof=1).sum()
    estimate = rendered_retention(observed, seed=0)
    assert estimate is not None and estimate.value == pytest.approx(expected)
    rendered = observed.rendered()
    assert rendered.estimate(seed=0) == estimate
    assert rendered.shares(rendered.counts).mean() == pytest.approx(expected)
    assert rendered.shares(np.zeros(50, dtype=bool)).shape == (0,)

    def ratio(x: np.ndarray, y: np.ndarray) -> float:
        x, y = x - x.mean(0), y - y.mean(0)
        return float((x * y).sum() / (x * x).sum())

    draws = [ratio(observed.real[i], observed.drawn[i]) for i in np.random.default_rng(4).integers(0, 50, (4000, 50))]
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.02)


def test_an_instrument_that_errs_is_taken_out() -> None:
    """Labels are kept entirely; a judge that is wrong for 30% of pictures and samples alike must not hide it."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 3000)

    def judged() -> np.ndarray:
        return np.eye(3)[np.where(rng.random(3000) < 0.3, rng.integers(0, 3, 3000), labels)]

    observed = Observed(np.eye(3)[labels], judged(), np.zeros(3000), 0.1, seen=judged())
    assert instrument(observed, seed=0).value == pytest.approx(0.7, abs=0.03)  # type: ignore[union-attr]
    assert rendered_retention(observed, seed=0).value == pytest.approx(1, abs=0.04)  # type: ignore[union-attr]


def test_readouts_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(6)
    h = rng.standard_normal((120, 30)) * np.geomspace(0.01, 100, 30)
    target = (h / np.geomspace(0.01, 100, 30))[:, :2] + rng.standard_normal((120, 2))
    found = cross_validate(h, target, seed=3).r2(seed=0).value
    folds = KFold(5, shuffle=True, random_state=3)
    ridge = make_pipeline(StandardScaler(), RidgeCV(10.0 ** np.arange(-4.0, 5.0) * 96))
    theirs = cross_val_predict(ridge, h, target, cv=folds)
    assert found == pytest.approx(r2_score(target, theirs, multioutput="variance_weighted"), abs=0.015)
    readout = fit_readout(h, target)
    assert readout is not None
    plain = make_pipeline(StandardScaler(), RidgeCV(10.0 ** np.arange(-4.0, 5.0) * 120)).fit(h, target)
    assert np.allclose(readout.predict(h), plain.predict(h), atol=0.02)


def test_classes_are_decoded_with_calibrated_probabilities() -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, 200)
    certain = cross_validate(np.eye(3)[labels] + 0.05 * rng.standard_normal((200, 3)), np.eye(3)[labels], classes=True)
    assert certain.r2(seed=0).value > 0.95
    nothing = cross_validate(rng.standard_normal((200, 8)), np.eye(3)[labels], classes=True)
    assert -0.1 < nothing.r2(seed=0).value < 0.05
    one_alone = labels % 2
    one_alone[0] = 2  # a class of one picture is never known where it is asked for
    decoded = cross_validate(np.eye(3)[one_alone], np.eye(3)[one_alone], classes=True)
    assert decoded.error[0] > 1 and np.isfinite(decoded.error).all()


def test_h_that_is_the_same_for_all_and_bad_input() -> None:
    target = np.random.default_rng(8).standard_normal((30, 1))
    assert cross_validate(np.ones((30, 4)), target).r2(seed=0).value == 0
    assert cross_validate(np.ones((30, 4)), np.eye(2)[np.arange(30) % 2], classes=True).r2(seed=0).value == 0
    with pytest.raises(ValueError, match="finite"):
        cross_validate(np.ones((30, 4)), np.full((30, 1), np.nan))
    with pytest.raises(ValueError, match="at least 5"):
        cross_validate(np.ones((3, 4)), np.ones((3, 1)))


def test_more_pictures_help_a_starved_readout() -> None:
    rng = np.random.default_rng(9)
    h = rng.standard_normal((700, 60))
    target = h @ rng.standard_normal((60, 1)) + rng.standard_normal((700, 1))
    few = cross_validate(h[:60], target[:60]).r2(seed=0).value
    many = cross_validate(h[:60], target[:60], extra_h=h[60:], extra_attribute=target[60:]).r2(seed=0).value
    half = cross_validate(h[:60], target[:60], share=0.5).r2(seed=0).value
    assert half < few < many and many > 0.9


def test_sharpness_falls_with_blur_and_not_with_contrast_or_color() -> None:
    from PIL import Image, ImageFilter

    from rcdm_core.data.shapes import Shapes

    pixels = Shapes(20, seed=1).get_batch(range(20), 48)
    values = []
    for blur in (0, 0.7, 1.5, 3):
        images = [
            np.asarray(Image.fromarray(p.transpose(1, 2, 0)).filter(ImageFilter.GaussianBlur(blur))).transpose(2, 0, 1)
            for p in pixels
        ]
        values.append(measure(np.stack(images) / 255)["sharpness"][:, 0])
    assert (np.diff(np.stack(values), axis=0) < -0.01).all() and (values[0] - values[1] > 0.2).all()
    faint = measure(0.5 + (pixels / 255 - 0.5) * 0.4)["sharpness"][:, 0]
    assert np.allclose(faint, values[0], atol=0.01)
    assert np.isnan(measure(np.full((1, 3, 32, 32), 0.4))["sharpness"]).all()


def test_a_judge_knows_shapes_by_their_outline() -> None:
    from rcdm_core.data.shapes import Shapes

    source = Shapes(420, seed=11)
    pictures = source.get_batch(range(420), 32).astype(np.float32) / 255
    labels = np.array(source.labels)
    judge = fit_judge(pictures[:300], labels[:300])
    said = judge.one_hot(pictures[300:])
    assert (said.argmax(axis=1) == labels[300:]).mean() > 0.95 and (said.sum(axis=1) == 1).all()
    assert judge.one_hot(pictures[:0]).shape == (0, 5)
    assert np.isfinite(judge.one_hot(np.full((2, 3, 32, 32), 0.5))).all()  # nothing to be seen is no error


def test_each_dimension_of_h_counts_alike() -> None:
    rng = np.random.default_rng(0)
    h = rng.standard_normal((200, 3))
    again = h.copy()
    again[:, 0] = rng.standard_normal(200)  # the largest one is not heard
    found = hearing(h * [1e3, 1, 1], again * [1e3, 1, 1], seed=0)
    assert found is not None and found.value == pytest.approx(2 / 3, abs=0.1)
