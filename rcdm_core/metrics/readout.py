"""Readouts from h to an attribute: what a representation holds, whatever the generator makes of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from rcdm_core.metrics.bootstrap import Estimate, bootstrap_ratio

FOLDS = 5
_PENALTIES = 10.0 ** np.arange(-4.0, 5.0)  # in units of the number of pictures; h is standardised
_CLASS_PENALTIES = 10.0 ** np.arange(-4.0, 3.0, 2.0)  # inverse, as scikit-learn's C; h is standardised
_NOTHING = 1e-12  # of its size: what varies by less does not vary


@dataclass(frozen=True)
class Readout:
    """Ridge regression from h [dim] to an attribute [d], fitted on standardised h.

    r2: leave-one-out R² over the pictures of the fit, variances summed over the vector; the ceiling of what the
    readout can be trusted with. n: pictures that it was fitted on.
    """

    weight: np.ndarray  # [dim, d], for raw h
    offset: np.ndarray  # [d]
    r2: float
    n: int

    def shift(self, dh: np.ndarray) -> np.ndarray:
        """The change of the attribute [B, d] that a change of h [B, dim] stands for."""
        return np.asarray(dh, dtype=np.float64) @ self.weight

    def predict(self, h: np.ndarray) -> np.ndarray:
        """The attribute [B, d] of pictures with h [B, dim]."""
        return self.shift(h) + self.offset


def fit_readout(h: np.ndarray, attribute: np.ndarray) -> Readout | None:
    """Fit attribute [n, d] on h [n, dim]; rows with NaN are left out. The penalty is the best of nine by leave-one-out.

    None where there is nothing to fit: an attribute that does not vary, or an h that does not.
    """
    usable = np.isfinite(attribute).all(axis=1)
    h = np.asarray(h, dtype=np.float64)[usable]
    target = np.asarray(attribute, dtype=np.float64)[usable]
    n = len(h)
    if n < 3:
        return None
    mean = target.mean(axis=0)
    target = target - mean
    centre, scale = _standard(h)
    variance = float((target**2).sum())
    if variance <= _NOTHING * n or not np.isfinite(scale).any():
        return None
    u, s, vt = np.linalg.svd((h - centre) / scale, full_matrices=False)
    projected = u.T @ target

    best: tuple[float, np.ndarray] | None = None
    for penalty in _PENALTIES * n:
        shrink = s**2 / (s**2 + penalty)
        # leave-one-out residuals in closed form; 1/n is the mean's own leverage
        leverage = (u**2 * shrink).sum(axis=1) + 1 / n
        residual = (target - u @ (shrink[:, None] * projected)) / np.maximum(1 - leverage, 1e-9)[:, None]
        error = float((residual**2).sum())
        if best is None or error < best[0]:
            best = error, vt.T @ ((s / (s**2 + penalty))[:, None] * projected)
    assert best is not None
    weight = best[1] / scale[:, None]
    return Readout(weight=weight, offset=mean - centre @ weight, r2=1 - best[0] / variance, n=n)


def _standard(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of h [n, dim]; infinite where it does not vary, so that it becomes 0."""
    centre = h.mean(axis=0)
    scale = (h - centre).std(axis=0)
    varies = scale > _NOTHING * max(1.0, float(np.abs(h).max(initial=0.0)))
    return centre, np.where(varies, scale, np.inf)


@dataclass(frozen=True)
class Decoded:
    """Cross-validated predictions of n pictures: squared errors [n] of the readout and of a guess blind to h."""

    error: np.ndarray
    blind: np.ndarray

    def r2(self, *, seed: int) -> Estimate:
        """1 - errors / errors of the blind guess, with its interval over pictures."""
        return bootstrap_ratio(self.blind - self.error, self.blind, seed=seed)

    def contributions(self) -> np.ndarray:
        """[n]: numbers whose mean over the pictures is that R²."""
        contributions: np.ndarray = (self.blind - self.error) / self.blind.mean()
        return contributions


def cross_validate(
    h: np.ndarray,
    attribute: np.ndarray,
    *,
    extra_h: np.ndarray | None = None,
    extra_attribute: np.ndarray | None = None,
    classes: bool = False,
    seed: int = 0,
    share: float = 1.0,
) -> Decoded:
    """Predict attribute [n, d] of each picture from its h [n, dim] by a readout that was fitted without it.

    extra_*  more pictures that every readout is fitted on, and that are not predicted
    classes  the attribute is one-hot, and the readout a logistic regression: the squared error is the Brier score, and
             the R² its skill
    share    of the pictures to fit on, to see whether more of them would help

    The blind guess is the mean of the pictures that the readout was fitted on. h without variance predicts just that.
    Raises ValueError for NaN, or fewer than FOLDS pictures.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    h, attribute = np.asarray(h, dtype=np.float64), np.asarray(attribute, dtype=np.float64)
    if not np.isfinite(attribute).all() or not np.isfinite(h).all() or len(h) < FOLDS:
        raise ValueError(f"expected at least {FOLDS} pictures and finite numbers, got {len(h)}")
    more_h = np.empty((0, h.shape[1])) if extra_h is None else np.asarray(extra_h, dtype=np.float64)
    more = np.empty((0, attribute.shape[1])) if extra_attribute is None else np.asarray(extra_attribute)
    usable = np.isfinite(more).all(axis=1)
    more_h, more = more_h[usable], more[usable]
    error, blind = np.empty(len(h)), np.empty(len(h))
    split = (StratifiedKFold if classes else KFold)(FOLDS, shuffle=True, random_state=seed)
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer pictures than folds is in some of them only
        folds = list(split.split(h, attribute.argmax(axis=1)))
    for fit, test in folds:
        fit_h, target = np.concatenate([h[fit], more_h]), np.concatenate([attribute[fit], more])
        if share < 1:
            chosen = rng.permutation(len(fit_h))[: max(3, round(share * len(fit_h)))]
            fit_h, target = fit_h[chosen], target[chosen]
        mean = target.mean(axis=0)
        predicted = (_class_probabilities if classes else _ridge)(fit_h, target, h[test])
        error[test] = ((attribute[test] - predicted) ** 2).sum(axis=1)
        blind[test] = ((attribute[test] - mean) ** 2).sum(axis=1)
    return Decoded(error, blind)


def _ridge(h: np.ndarray, target: np.ndarray, test: np.ndarray) -> np.ndarray:
    readout = fit_readout(h, target)
    return np.repeat(target.mean(axis=0)[None], len(test), axis=0) if readout is None else readout.predict(test)


def _class_probabilities(h: np.ndarray, target: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Logistic regression, its penalty chosen by cross-validated log loss within h: probabilities [B, d] for `test`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    labels = target.argmax(axis=1)
    centre, scale = _standard(h)
    present = np.unique(labels)
    blind = np.repeat(target.mean(axis=0)[None], len(test), axis=0)
    if len(present) < 2 or not np.isfinite(scale).any():
        return blind
    # rotating h changes nothing for this penalty, and n numbers are enough for n pictures
    _, s, vt = np.linalg.svd((h - centre) / scale, full_matrices=False)
    vt = vt[s > 1e-9 * s[0]]
    known, asked = (h - centre) / scale @ vt.T, (test - centre) / scale @ vt.T

    def model(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=1000, tol=1e-3)

    best: tuple[float, float] | None = None
    inner = StratifiedKFold(3)
    frequent = np.isin(labels, present[np.bincount(labels, minlength=target.shape[1])[present] >= 3])
    if len(np.unique(labels[frequent])) < 2:
        return blind
    for strength in _CLASS_PENALTIES:
        found = cross_val_predict(model(strength), known[frequent], labels[frequent], cv=inner, method="predict_proba")
        place = np.searchsorted(np.unique(labels[frequent]), labels[frequent])
        loss = ((found - np.eye(found.shape[1])[place]) ** 2).sum()
        if best is None or loss < best[0]:
            best = float(loss), float(strength)
    assert best is not None
    fitted = model(best[1]).fit(known, labels)
    probabilities = np.zeros_like(blind)
    probabilities[:, fitted.classes_] = fitted.predict_proba(asked)
    return probabilities
