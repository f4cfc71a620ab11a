"""The linear probe against scikit-learn, and the attacks against gradients that are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rcdm_core.data.shapes import Shapes
from rcdm_core.encoder import Encoder, load_encoder
from rcdm_core.errors import RCDMError
from rcdm_core.metrics.attack import Attack, check_differentiable, gradient
from rcdm_core.metrics.groups import compare_groups
from rcdm_core.metrics.linear_probe import STRENGTHS, LinearProbe, fit_linear_probe, folds


def clusters(classes: int, n: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clusters on dimensions of very different scales, one of which does not vary."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    h = rng.standard_normal((n, dim)) + 1.5 * rng.standard_normal((classes, dim))[labels]
    h = h * 10.0 ** rng.integers(-3, 4, dim) + 7
    h[:, 0] = 3.0
    return h, labels


@pytest.mark.parametrize(("classes", "dim"), [(2, 6), (4, 6), (3, 90)])
def test_it_is_scikit_learns_regression(classes: int, dim: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    h, labels = clusters(classes, 280, dim)
    h, new, labels = h[:80], h[80:], labels[:80] * 10 + 3
    probe = fit_linear_probe(h, labels)
    assert probe.strength in STRENGTHS and probe.labels.tolist() == sorted(set(labels.tolist())) and probe.n == 80
    other = make_pipeline(StandardScaler(), LogisticRegression(C=probe.strength, max_iter=9000, tol=1e-8))
    other.fit(h, labels)
    assert np.abs(probe.probabilities(new) - other.predict_proba(new)).max() < 0.02
    assert (probe.predict(new) == other.predict(new)).mean() > 0.99
    layer = probe.linear()
    assert np.allclose(layer(torch.from_numpy(new)).numpy(), probe.logits(new))
    assert probe.predict(new.reshape(50, 4, dim)).shape == (50, 4)


def test_where_there_is_nothing_to_learn() -> None:
    labels = np.array([1, 1, 1, 2])
    probe = fit_linear_probe(np.full((4, 3), 5.0), labels)
    assert np.allclose(probe.probabilities(np.zeros((2, 3))), [[0.75, 0.25]] * 2) and np.isnan(probe.strength)
    assert fit_linear_probe(np.eye(3), np.full(3, 7)).predict(np.ones((2, 3))).tolist() == [7, 7]
    tiny = fit_linear_probe(np.array([[0.0], [0.1], [1.0], [1.1]]), np.array([0, 0, 1, 1]))  # too few for folds
    assert tiny.predict(np.array([[-1.0], [2.0]])).tolist() == [0, 1]
    with pytest.raises(ValueError, match="finite h"):
        fit_linear_probe(np.full((4, 3), np.nan), labels)
    with pytest.raises(ValueError, match="knows the labels"):
        probe.columns(np.array([1, 3]))


def test_every_picture_is_in_one_fold() -> None:
    labels = np.array([0] * 12 + [1] * 6)
    parts = list(folds(labels, 3, seed=1))
    assert sorted(np.concatenate([test for _, test in parts]).tolist()) == list(range(18))
    assert all((labels[test] == 1).sum() == 2 and not set(fit) & set(test) for fit, test in parts)


@pytest.mark.parametrize("sizes", [[2, 3, 4] * 5, [2] * 9, [1] * 6])
def test_classes_of_fewer_pictures_than_folds(sizes: list[int]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    parts = list(folds(labels, 5, seed=2))
    assert sorted(np.concatenate([test for _, test in parts]).tolist()) == list(range(len(labels)))
    for fit, test in parts:
        assert sorted([*fit, *test]) == list(range(len(labels))) and abs(len(test) - len(labels) / 5) < 1
        assert len(set(labels[test])) == len(test)  # of each class one at the most: the others are fitted on
    other = [test.tolist() for _, test in folds(labels, 5, seed=3)]
    assert other != [test.tolist() for _, test in parts]
    with pytest.raises(ValueError, match="at least 5 labels"):
        list(folds(labels[:4], 5, seed=2))


# attacks

SIDE = 4


class Flat(nn.Module):
    """h = W x."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight.T


def linear_encoder(seed: int = 0) -> tuple[Encoder, np.ndarray]:
    weight = torch.from_numpy(np.random.default_rng(seed).standard_normal((5, 3 * SIDE**2))).float()
    encoder = Encoder(Flat(weight), image_size=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), dim=5)
    return encoder, weight.numpy().astype(np.float64) / 0.25


def a_probe(seed: int = 1) -> LinearProbe:
    rng = np.random.default_rng(seed)
    return LinearProbe(rng.standard_normal((3, 5)), rng.standard_normal(3), np.array([2, 4, 9]), 10, 1.0)


def test_the_gradient_and_fgsm_of_a_linear_encoder_are_known() -> None:
    encoder, weight = linear_encoder()
    probe = a_probe()
    images = torch.from_numpy(np.random.default_rng(2).uniform(0.3, 0.7, (6, 3, SIDE, SIDE))).float()
    labels = torch.tensor([2, 4, 9, 2, 4, 9])
    with torch.no_grad():
        p = probe.probabilities(encoder(images).numpy())
    # of the cross-entropy it is (p - y)ᵀ V W / std, of the log odds 1 / (1 - p) times that
    label = [0, 1, 2, 0, 1, 2]
    known = (p - np.eye(3)[label]) @ probe.weight @ weight / (1 - p[range(6), label])[:, None]
    found = gradient(encoder, probe, images, torch.tensor([0, 1, 2, 0, 1, 2])).flatten(1).numpy()
    assert np.allclose(found, known, rtol=1e-3, atol=1e-4 * np.abs(known).max())
    attacked, flat = Attack()(encoder, probe, images, labels, [0.0, 0.1, 0.9])
    assert torch.equal(attacked[0], images) and not flat.any()
    step = attacked[1].flatten(1).numpy() - images.flatten(1).numpy()
    sure = np.abs(known) > 1e-3 * np.abs(known).max()
    assert np.allclose(step[sure], -0.1 * np.sign(known)[sure], atol=1e-6)
    assert attacked[2].min() >= 0 and attacked[2].max() <= 1
    away, _ = Attack(away=True)(encoder, probe, images, labels, [0.1])
    step = away[0].flatten(1).numpy() - images.flatten(1).numpy()
    assert np.allclose(step[sure], 0.1 * np.sign(known)[sure], atol=1e-6)


def test_a_sure_probe_still_has_a_direction() -> None:
    encoder, _ = linear_encoder()
    probe = a_probe()
    sure = LinearProbe(probe.weight * 30, probe.offset, probe.labels, 10, 1.0)
    images = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = torch.from_numpy(sure.predict(encoder(images).numpy()))
        assert (torch.softmax(sure.linear()(encoder(images).double()).float(), dim=1).max(dim=1).values == 1).any()
    attacked, flat = Attack(away=True)(encoder, sure, images, labels, [0.5])
    assert not flat.any() and not torch.equal(attacked[0], images)


def test_pgd_stays_within_epsilon_and_does_not_do_worse() -> None:
    """On an oracle, which is far from linear."""
    encoder, data = load_encoder("shapes-all"), Shapes(120, seed=1)
    images = torch.from_numpy(data.get_batch(range(120), 32)).float() / 255
    with torch.no_grad():
        probe = fit_linear_probe(encoder(images).numpy(), np.array(data.labels))
    few, target = images[:16], (torch.tensor(data.labels)[:16] + 1) % 5

    def loss(x: torch.Tensor) -> float:
        with torch.no_grad():
            p = probe.probabilities(encoder(x).numpy())
        return float(-np.log(p[np.arange(16), target.numpy()]).mean())

    one, _ = Attack("fgsm")(encoder, probe, few, target, [0.02])
    many, _ = Attack("pgd", steps=8)(encoder, probe, few, target, [0.0, 0.02])
    assert torch.equal(many[0], few) and float((many[1] - few).abs().max()) <= 0.02 + 1e-6
    assert many[1].min() >= 0 and many[1].max() <= 1
    assert loss(many[1]) < loss(few) and loss(many[1]) < loss(one[0])
    again, _ = Attack("pgd", steps=1, step=0.02)(encoder, probe, few, target, [0.02])
    assert torch.allclose(again[0], one[0])


def test_no_gradient_is_said_at_once() -> None:
    class Detached(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach().flatten(1)[:, :5]

    encoder = Encoder(Detached(), image_size=SIDE, mean=(0, 0, 0), std=(1, 1, 1), dim=5)
    with pytest.raises(RCDMError, match="The encoder of it has no gradient"):
        check_differentiable(encoder, "it")
    with pytest.raises(RCDMError, match="The encoder has no gradient"):
        gradient(encoder, a_probe(), torch.rand(1, 3, SIDE, SIDE), torch.tensor([0]))
    encoder.network.differentiable = False  # type: ignore[assignment]
    with pytest.raises(RCDMError, match="of it has no gradient"):
        check_differentiable(encoder, "it")
    check_differentiable(linear_encoder()[0], "it")


# groups


def test_groups_that_differ_and_groups_that_do_not() -> None:
    from scipy.stats import mannwhitneyu, permutation_test

    def apart(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(a.mean(axis=axis) - b.mean(axis=axis))

    rng = np.random.default_rng(0)
    first, second = rng.normal(1, 1, 40), rng.normal(0, 1, 30)
    found = compare_groups(("a", "b"), np.append(first, np.nan), second)
    assert found.difference.value == pytest.approx(first.mean() - second.mean()) and found.difference.n == 30
    assert found.p is not None and found.p < 0.01 and found.p_holm is None
    for size in (4, 7, 20):  # all permutations of the smaller ones
        near = first[:size] - 0.4
        theirs = permutation_test((near, second[:size]), apart, vectorized=True, n_resamples=9999, rng=1)
        ours = compare_groups(("a", "b"), near, second[:size]).p
        assert ours == pytest.approx(theirs.pvalue, abs=1e-12 if size < 8 else 0.03)
    error = np.sqrt(first.var() / 40 + second.var() / 30)
    assert found.difference.low == pytest.approx(found.difference.value - 1.96 * error, abs=0.1)
    # ranks say nothing of these, and number, interval and p alike that the means are far apart
    skewed = np.append(np.zeros(9), np.full(6, 10.0)), np.linspace(0, 0.01, 15)
    found = compare_groups(("a", "b"), *skewed)
    assert found.difference.low is not None and found.difference.low > 0
    assert found.p is not None and found.p < 0.05 < mannwhitneyu(*skewed).pvalue
    same = compare_groups(("a", "b"), np.ones(6), np.ones(6))
    assert same.difference.value == 0 and same.p == 1
    assert compare_groups(("a", "b"), np.ones(3), np.ones(9)).p is None
    assert compare_groups(("a", "b"), np.ones(3), np.full(2, np.nan)).difference.n == 0
