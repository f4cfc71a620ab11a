"""The file of representations that a training leaves in its cache, and finding it again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core.data.cache_dir import cache_dir
from rcdm_core.encoder import Fingerprint, compare_fingerprints
from rcdm_core.errors import RCDMError
from rcdm_core.provider_record import ProviderRecord
from rcdm_core.representations.file import Representations

if TYPE_CHECKING:
    from rcdm_core.bundle import BundleConfig


def cache_folder(given: str | Path | None) -> Path:
    """Where trainings keep their files: the folder that was given with --cache, or else the one that they share."""
    return Path(given) if given is not None else cache_dir("training")


def data_key(data_fingerprint: str, fit: str) -> str:
    """What a set of pictures that were made square in this way is known by in the cache."""
    return f"{data_fingerprint} {fit}"


def cache_path(folder: Path, data_key: str, provider: ProviderRecord, fingerprint: Fingerprint, flip: bool) -> Path:
    """Where the representations of this data by this encoder are cached."""
    name = provider.resolved or provider.name
    # Sorted: a record that was stored has its options in another order.
    encoder_key = json.dumps([name, provider.options, provider.image_size, provider.interpolation], sort_keys=True)
    parts = ("h 2", data_key, encoder_key, fingerprint.weights_digest, tuple(fingerprint.h.shape), flip)
    return folder / f"h-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.safetensors"


def open_cached(path: Path, fingerprint: Fingerprint, pictures: int) -> Representations | None:
    """The cached file, or None when there is none, it is damaged, or the encoder now behaves otherwise.

    The weights' digest is in the file's name; code and preprocessing can change under the same weights, so the
    fingerprint's h is compared too. pictures: how many the data has, the unreadable ones included.
    """
    try:
        cached = Representations(path)
        whole = len(cached) + len(cached.skipped) == pictures
        cached.verify()  # now, when it can be computed again, instead of in the middle of a training
    except (RCDMError, ValueError, TypeError, KeyError):
        return None
    return cached if whole and compare_fingerprints(cached.mark, fingerprint) is None else None


def of_training(config: BundleConfig, mark: Fingerprint) -> Representations | None:
    """The file in which a bundle's training left h of its pictures; None where it is not there any more, or another.

    It is not read through, so that its rows have to be verified. mark: the encoder's, as it was trained for.
    """
    if config.data is None or not config.provider.dim:
        return None
    flip = bool(config.arguments.get("flip", True))
    try:
        folder = cache_folder(config.arguments.get("cache"))
        key = data_key(config.data.fingerprint, config.data.fit)
        path = cache_path(folder, key, config.provider, mark, flip)
        cached = Representations(path)
        cached.check(mark, fit=config.data.fit, interpolation=config.provider.interpolation, whose="the training")
    except (RCDMError, OSError, ValueError, TypeError, KeyError):  # such as a folder that is not for this user
        return None
    return cached
