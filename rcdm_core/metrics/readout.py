"""A linear readout from h to an attribute: what a representation holds, whatever the generator makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_PENALTIES = 10.0 ** np.arange(-4.0, 5.0)  # in units of the number of pictures; h is standardised


@dataclass(frozen=True)
class Readout:
    """Ridge regression from h [dim] to an attribute [d], fitted on standardised h.

    r2: leave-one-out R² over the pictures of the fit, variances summed over the vector; the ceiling of what the
    readout can be trusted with. n: pictures that it was fitted on.
    """

    weight: np.ndarray  # [dim, d], for raw h
    r2: float
    n: int

    def shift(self, dh: np.ndarray) -> np.ndarray:
        """The change of the attribute [B, d] that a change of h [B, dim] stands for."""
        return np.asarray(dh, dtype=np.float64) @ self.weight


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
    target = target - target.mean(axis=0)
    centred = h - h.mean(axis=0)
    scale = centred.std(axis=0)
    varies = scale > 1e-12 * max(1.0, float(np.abs(h).max(initial=0.0)))
    variance = float((target**2).sum())
    if variance <= 1e-12 * n or not varies.any():
        return None
    scale = np.where(varies, scale, np.inf)
    u, s, vt = np.linalg.svd(centred / scale, full_matrices=False)
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
    return Readout(weight=best[1] / scale[:, None], r2=1 - best[0] / variance, n=n)
