"""The linear probe: which class a picture has, read from its h by logistic regression (paper, table a).

It is fitted by scikit-learn on standardised h, and kept as weights for h as it is, so that an attack can differentiate
through it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

STRENGTHS = 10.0 ** np.arange(-4.0, 3.0, 2.0)  # inverse penalties, as scikit-learn's C; h is standardised
_INNER_FOLDS = 3
_NOTHING = 1e-12  # of its size: what varies by less does not vary


@dataclass(frozen=True)
class LinearProbe:
    """weight [C, dim], offset [C]: logits of h are h @ weight.T + offset. labels: int64 [C], ascending, of the columns.

    n: pictures that it was fitted on. strength: scikit-learn's C, as chosen; NaN where there was nothing to learn, and
    the probabilities are the classes' shares.
    """

    weight: np.ndarray
    offset: np.ndarray
    labels: np.ndarray
    n: int
    strength: float

    def logits(self, h: np.ndarray) -> np.ndarray:
        """[..., C] of h [..., dim]."""
        return np.asarray(np.asarray(h, dtype=np.float64) @ self.weight.T + self.offset)

    def probabilities(self, h: np.ndarray) -> np.ndarray:
        """Softmax of the logits: [..., C]."""
        logits = self.logits(h)
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))

    def predict(self, h: np.ndarray) -> np.ndarray:
        """The likeliest label of h [..., dim]: int64 [...]."""
        return np.asarray(self.labels[self.logits(h).argmax(axis=-1)])

    def columns(self, labels: np.ndarray) -> np.ndarray:
        """The column of each label. Raises ValueError for one that the probe has not."""
        places = np.searchsorted(self.labels, labels).clip(0, len(self.labels) - 1)
        if not (self.labels[places] == labels).all():
            raise ValueError(f"the probe knows the labels {self.labels.tolist()}, not all of {np.unique(labels)}")
        return np.asarray(places)

    def linear(self) -> nn.Linear:
        """The same as a layer of torch, float64 on the CPU: h [B, dim] -> logits [B, C]."""
        import torch
        from torch import nn

        layer = nn.Linear(self.weight.shape[1], len(self.labels), dtype=torch.float64).requires_grad_(False)
        layer.weight.copy_(torch.from_numpy(self.weight))
        layer.bias.copy_(torch.from_numpy(self.offset))
        return layer


def fit_linear_probe(h: np.ndarray, labels: np.ndarray) -> LinearProbe:
    """Fit the labels [n] of pictures with h [n, dim]; the penalty is the best of four by cross-validated Brier score.

    Raises ValueError for no picture, or h that is not finite.
    """
    h, labels = np.asarray(h, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if len(h) == 0 or len(h) != len(labels) or not np.isfinite(h).all():
        raise ValueError(f"expected finite h [n, dim] and labels [n], got {h.shape} and {labels.shape}")
    present, counts = np.unique(labels, return_counts=True)
    centre, scale = standard(h)
    if len(present) < 2 or not np.isfinite(scale).any():
        return LinearProbe(
            np.zeros((len(present), h.shape[1])), np.log(counts / counts.sum()), present, len(h), float("nan")
        )
    known, back = (h - centre) / scale, None
    if h.shape[1] > len(h):
        # rotating h changes nothing for this penalty, and n numbers are enough for n pictures
        _, s, vt = np.linalg.svd(known, full_matrices=False)
        back = vt[s > 1e-9 * s[0]]
        known = known @ back.T
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # classes of few pictures
        strength = _choose(known, labels)
        fitted = _regression(strength, 1e-5).fit(known, labels)
    weight, offset = fitted.coef_, fitted.intercept_
    if len(present) == 2:  # scikit-learn gives the difference of the two logits
        weight, offset = np.concatenate([-weight, weight]) / 2, np.concatenate([-offset, offset]) / 2
    weight = (weight if back is None else weight @ back) / scale
    return LinearProbe(weight, offset - weight @ centre, present, len(h), strength)


def folds(labels: np.ndarray, count: int, *, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places to fit on and to test on, `count` times, with about the same shares of each class.

    No two members of a class that has fewer than `count` are tested in one part, so that the others tell of it.

    Raises ValueError with fewer labels than `count`.
    """
    from sklearn.model_selection import StratifiedKFold

    if len(labels) < count:
        raise ValueError(f"expected at least {count} labels for as many parts, got {len(labels)}")
    classes, of_class, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if sizes.max() < count:  # of which scikit-learn makes an error
        rng = np.random.default_rng(seed)
        shuffled, place = rng.permutation(len(labels)), rng.permutation(len(classes))[of_class]
        dealt = np.empty(len(labels), dtype=np.int64)  # one after the other, class by class
        dealt[shuffled[np.argsort(place[shuffled], kind="stable")]] = np.arange(len(labels)) % count
        for part in range(count):
            yield np.flatnonzero(dealt != part), np.flatnonzero(dealt == part)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer pictures than folds is in some of them only
        yield from StratifiedKFold(count, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels)


def standard(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of h [n, dim]; infinite where it does not vary, so that it becomes 0."""
    centre = h.mean(axis=0)
    scale = (h - centre).std(axis=0)
    varies = scale > _NOTHING * max(1.0, float(np.abs(h).max(initial=0.0)))
    return centre, np.where(varies, scale, np.inf)


def _regression(strength: float, tolerance: float = 1e-3) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=2000, tol=tolerance)


def _choose(h: np.ndarray, labels: np.ndarray) -> float:
    """The best strength on the classes that are in every fold; a middling one without two of them."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    present, counts = np.unique(labels, return_counts=True)
    frequent = present[counts >= _INNER_FOLDS]
    few = len(frequent) < 2
    if few:  # of such small classes no two pictures are in one fold, and one of each is left to learn it from
        frequent = present[counts >= 2]
    if len(frequent) < 2:
        return float(STRENGTHS[1])
    usable = np.isin(labels, frequent)
    h, labels = h[usable], labels[usable]
    cv = list(folds(labels, _INNER_FOLDS, seed=0)) if few else StratifiedKFold(_INNER_FOLDS)
    target = np.eye(len(frequent))[np.searchsorted(frequent, labels)]
    losses = []
    for strength in STRENGTHS:
        found = cross_val_predict(_regression(strength), h, labels, cv=cv, method="predict_proba")
        losses.append(float(((found - target) ** 2).sum()))
    return float(STRENGTHS[int(np.argmin(losses))])
