"""FID, IS, KID, precision and recall, by torch-fidelity: its Inception network, its definitions (table 1a).

Fréchet distances of the network's features are `frechet`'s, and the measures by kernels and neighbours those of
`halves`: they give torch-fidelity's numbers, with an interval in a fraction of the time that many calls of it take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcdm_core.errors import RCDMError, first_line
from rcdm_core.metrics.frechet import distances
from rcdm_core.metrics.halves import Covered, kernel_distances, members, precision_recall
from rcdm_core.metrics.resampled import Resampled, over_images
from rcdm_core.provider import WeightsInfo
from rcdm_core.weights_cache import cache_path

AUTO, DOWNLOAD, NO = "auto", "download", "no"
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
_INFO = WeightsInfo(url=URL, own_name=True)
_EXTRACTOR, _FEATURES, _LOGITS = "inception-v3-compat", "2048", "logits_unbiased"
_BATCH = 32
_SPLITS, _SPLIT = 10, 50  # of the inception score: ten, of at least so many pictures
NEIGHBOURHOOD = 3  # whose radius is a picture's ball in precision and recall
_RESAMPLES = 100
MEASURES = {
    "fid": "FID",
    "is": "IS",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
}


@dataclass(frozen=True)
class Seen:
    """What Inception makes of n pictures: features [n, 2048], logits [n, 1008], float32."""

    features: np.ndarray
    logits: np.ndarray


def find_weights(choice: str) -> Path | None:
    """The file of Inception's weights; None where they are not at hand (`auto`), or not wanted (`no`).

    choice: auto, no, download, or a path or URL. Raises RCDMError for a file that is not there, cannot be had, or is
    another one than it should be.
    """
    from rcdm_core.weights import resolve_weights

    if choice == NO or (choice == AUTO and not cache_path(URL, _INFO).is_file()):
        return None
    given = None if choice in (AUTO, DOWNLOAD) else choice
    try:
        return resolve_weights(given, _INFO, provider="Inception")
    except RCDMError as error:
        raise RCDMError(str(error).replace("--weights", "--inception")) from error


class Inception:
    """torch-fidelity's Inception network, from a file of its weights; nothing in the file is run.

    Raises RCDMError for a file that is not one of these weights.
    """

    def __init__(self, weights: Path, device: Any) -> None:
        import torch
        from torch_fidelity.utils import create_feature_extractor

        from rcdm_core.weights import read_state_dict

        read_state_dict(weights)  # refuses what is no plain state dict
        try:
            torch.load(weights, map_location="cpu", weights_only=True)  # torch-fidelity itself would run what is in it
            self._network = create_feature_extractor(
                _EXTRACTOR,
                [_FEATURES, _LOGITS],
                cuda=False,
                verbose=False,
                feature_extractor_weights_path=str(weights),
            ).to(device)
        except Exception as error:  # pickle, zip and missing tensors each raise their own
            raise RCDMError(
                f"{weights} does not hold torch-fidelity's Inception weights ({first_line(error)}); give the file "
                f"{URL.rsplit('/', 1)[1]} with --inception."
            ) from error
        self._device = device

    def look(self, pictures: np.ndarray) -> Seen:
        """pictures: uint8 [n, 3, S, S]; they are resized as TensorFlow did, by torch-fidelity."""
        import torch

        parts: dict[str, list[np.ndarray]] = {_FEATURES: [], _LOGITS: []}
        with torch.no_grad():
            for part in torch.from_numpy(np.ascontiguousarray(pictures)).split(_BATCH):
                found = self._network.convert_features_tuple_to_dict(self._network(part.to(self._device)))
                for name, values in parts.items():
                    values.append(found[name].cpu().numpy())
        return Seen(*(np.concatenate(parts[name]) for name in (_FEATURES, _LOGITS)))


def measure(sets: Sequence[Seen], reference: Seen, *, seed: int) -> list[dict[str, Resampled]]:
    """The five measures of each set of n pictures against the n of the reference, by the names of `MEASURES`.

    Two calls with one seed and n resample the same pictures.
    """
    features = [one.features for one in sets]
    apart, _ = distances(features, reference.features, seed=seed)
    chosen = members(len(reference.features), seed=seed)
    kernel = kernel_distances(features, reference.features, chosen)
    covered = precision_recall(features, reference.features, chosen, neighbours=NEIGHBOURHOOD)
    return [
        {
            "fid": fid,
            "is": _score(one, seed),
            "kid": Resampled(float(kid[0]), kid[1:], len(one.features)),
            "precision": _share(precision),
            "recall": _share(recall),
        }
        for one, fid, kid, (precision, recall) in zip(sets, apart, kernel, covered, strict=True)
    ]


def _share(covered: Covered) -> Resampled:
    return Resampled(
        float(covered.shares[0]), covered.shares[1:], len(covered.first), (0.0, 1.0), (covered.first,)
    )


def _score(one: Seen, seed: int) -> Resampled:
    import torch
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    n = len(one.logits)
    logits = torch.from_numpy(one.logits)
    splits = max(1, min(_SPLITS, n // _SPLIT))

    def score(rows: np.ndarray) -> float:
        return float(isc_features_to_metric(logits[rows], splits)[KEY_METRIC_ISC_MEAN])

    return over_images(score, n, seed=seed, resamples=_RESAMPLES, bounds=(1.0, math.inf))
