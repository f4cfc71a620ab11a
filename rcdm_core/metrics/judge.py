"""Of which class a picture looks like: an instrument for samples, which have no labels.

It sees the picture at the generator's size and nothing of any h that is probed: the object's silhouette, brought to one
size in the middle, and a thumbnail of the colours, read by a forest of randomised trees; or h of another encoder, read
by logistic regression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rcdm_core.metrics.attributes import object_coverage

SILHOUETTE = 12  # numbers along a side
REACH = 1.8  # half the side of the window on the silhouette, in radii of the disc of equal area
THUMBNAIL = 6
_TREES = 200


@dataclass(frozen=True)
class Judge:
    """features: pictures [B, 3, S, S] in [0, 1] -> [B, q]. classes: the label of each column of the one-hot class."""

    features: Callable[[np.ndarray], np.ndarray]
    classifier: Any
    classes: Sequence[int]
    n: int

    def one_hot(self, pictures: np.ndarray) -> np.ndarray:
        """The class that each picture looks like: float64 [B, classes]."""
        if not len(pictures):
            return np.zeros((0, len(self.classes)))
        said = self.classifier.predict(self.features(pictures))
        return (said[:, None] == np.asarray(self.classes)[None]).astype(np.float64)


def fit_judge(
    pictures: np.ndarray,
    labels: np.ndarray,
    *,
    features: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 0,
) -> Judge:
    """Learn the classes of pictures [n, 3, S, S] from their labels [n].

    features: h of an encoder, read by logistic regression; None: silhouette and colours, read by trees.
    """
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier: Any
    if features is None:
        features = looks
        classifier = ExtraTreesClassifier(_TREES, random_state=seed)
    else:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, tol=1e-3))
    classifier.fit(features(pictures), labels)
    return Judge(features, classifier, [int(label) for label in np.unique(labels)], len(labels))


def looks(pictures: np.ndarray) -> np.ndarray:
    """Silhouette and thumbnail of pictures [B, 3, S, S] in [0, 1]: float32 [B, 144 + 108]."""
    rgb = np.moveaxis(np.asarray(pictures, dtype=np.float32), 1, -1)
    coverage, _ = object_coverage(rgb)
    return np.concatenate([_silhouettes(coverage), _thumbnails(rgb)], axis=1).astype(np.float32)


def _silhouettes(coverage: np.ndarray) -> np.ndarray:
    """Coverage [B, H, W] around its centre of mass, scaled by its area: [B, SILHOUETTE²]; zeros without an object."""
    count, height, width = coverage.shape
    area = coverage.sum(axis=(1, 2))
    safe = np.where(area > 0, area, 1.0)
    x = np.einsum("bhw,w->b", coverage, np.arange(width)) / safe
    y = np.einsum("bhw,h->b", coverage, np.arange(height)) / safe
    grid = REACH * ((np.arange(SILHOUETTE) + 0.5) / SILHOUETTE * 2 - 1) * np.sqrt(area / np.pi)[:, None]
    down, right = y[:, None] + grid, x[:, None] + grid
    top, left = np.floor(down).astype(np.int64), np.floor(right).astype(np.int64)
    below, beside = (down - top)[:, :, None], (right - left)[:, None, :]

    def at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
        found = coverage[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return np.where(inside, found, 0.0)

    upper = at(top, left) * (1 - beside) + at(top, left + 1) * beside
    lower = at(top + 1, left) * (1 - beside) + at(top + 1, left + 1) * beside
    return (upper * (1 - below) + lower * below).reshape(count, -1)


def _thumbnails(rgb: np.ndarray) -> np.ndarray:
    """[B, THUMBNAIL² * 3]: means over blocks of pixels."""
    bands = [np.array_split(np.arange(side), THUMBNAIL) for side in rgb.shape[1:3]]
    rows = np.stack([rgb[:, band].mean(axis=1) for band in bands[0]], axis=1)
    return np.stack([rows[:, :, band].mean(axis=2) for band in bands[1]], axis=2).reshape(len(rgb), -1)
