"""Ways from one representation to another."""

from __future__ import annotations

import numpy as np

from rcdm_core.errors import RCDMError

_PARALLEL = 1e-6  # radians: below, the arc is the straight line


def lerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points at the shares t [T] of the straight line from a [dim] to b [dim]: [T, dim]."""
    t = np.asarray(t, dtype=np.float64)[:, None]
    return (1 - t) * np.asarray(a, dtype=np.float64) + t * np.asarray(b, dtype=np.float64)


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points at the shares t [T] of the arc about the origin from a [dim] to b [dim]: [T, dim].

    The direction turns evenly from that of a to that of b, and the length changes evenly.

    Raises RCDMError where there is no such arc: one of them is 0, or they point in opposite directions.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    t = np.asarray(t, dtype=np.float64)[:, None]
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    if not length_a or not length_b:
        raise RCDMError("One of two representations is 0 and has no direction to turn from; use --path lerp.")
    u, v = a / length_a, b / length_b
    # the angle by both chords is exact for small and for large ones, where the arc cosine of a product is not
    angle = 2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))
    if angle < _PARALLEL:
        return lerp(a, b, t[:, 0])
    if np.pi - angle < _PARALLEL:
        raise RCDMError(
            "Two representations point in opposite directions, between which no arc leads; use --path lerp."
        )
    direction = (np.sin((1 - t) * angle) * u + np.sin(t * angle) * v) / np.sin(angle)
    return ((1 - t) * length_a + t * length_b) * direction


PATHS = {"lerp": lerp, "slerp": slerp}
