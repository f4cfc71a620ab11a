"""Readouts from h to an attribute: what a representation holds, whatever the generator makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcdm_core.metrics.bootstrap import Estimate, Summed, summed_ratio
from rcdm_core.metrics.linear_probe import fit_linear_probe, folds, standard

FOLDS = 5
_PENALTIES = 10.0 ** np.arange(-4.0, 5.0)  # in units of the number of pictures; h is standardised
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
    centre, scale = standard(h)
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


@dataclass(frozen=True)
class Decoded:
    """Cross-validated predictions of n pictures: squared errors [n] of the readout and of a guess blind to h."""

    error: np.ndarray
    blind: np.ndarray

    def r2(self, *, seed: int) -> Estimate:
        """1 - errors / errors of the blind guess, with its interval over pictures."""
        return self.summed().estimate(seed=seed)

    def summed(self, places: np.ndarray | None = None) -> Summed:
        """That R², to be resampled together with another one of the same N pictures.

        places: bool [N], which of them the n are; None: all.
        """
        where = np.ones(len(self.error), dtype=bool) if places is None else places
        top, bottom = np.full((2, len(where)), np.nan)
        top[where], bottom[where] = self.blind - self.error, self.blind
        return summed_ratio(top, bottom)


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
    from sklearn.model_selection import KFold

    h, attribute = np.asarray(h, dtype=np.float64), np.asarray(attribute, dtype=np.float64)
    if not np.isfinite(attribute).all() or not np.isfinite(h).all() or len(h) < FOLDS:
        raise ValueError(f"expected at least {FOLDS} pictures and finite numbers, got {len(h)}")
    more_h = np.empty((0, h.shape[1])) if extra_h is None else np.asarray(extra_h, dtype=np.float64)
    more = np.empty((0, attribute.shape[1])) if extra_attribute is None else np.asarray(extra_attribute)
    usable = np.isfinite(more).all(axis=1)
    more_h, more = more_h[usable], more[usable]
    error, blind = np.empty(len(h)), np.empty(len(h))
    rng = np.random.default_rng(seed)
    plain = KFold(FOLDS, shuffle=True, random_state=seed)
    split = folds(attribute.argmax(axis=1), FOLDS, seed=seed) if classes else plain.split(h)
    for fit, test in split:
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
    """Logistic regression, its penalty chosen by cross-validation within h: probabilities [B, d] for `test`."""
    probe = fit_linear_probe(h, target.argmax(axis=1))
    probabilities = np.zeros((len(test), target.shape[1]))
    probabilities[:, probe.labels] = probe.probabilities(test)
    return probabilities
