"""Where a checkpoint that has a URL lies once it is downloaded. Without torch, so that a listing can look."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import urllib.parse
from pathlib import Path

from .provider import WeightsInfo

# torchvision's and timm's way, name-1a2b3c4d.pth; in name-20240315.pth it is a date.
_DIGEST_IN_NAME = re.compile(r"-(?!(?:19|20)\d{6}\.)([0-9a-f]{8})(\.[A-Za-z0-9]+)+$")


def file_name(url: str) -> str:
    """The last part of a URL's path."""
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name or "weights"


def known_digest(url: str, info: WeightsInfo) -> str | None:
    """The start of the file's sha256, where it is known."""
    if info.sha256:
        return info.sha256.lower()
    match = _DIGEST_IN_NAME.search(file_name(url))
    return match.group(1) if match else None


def cache_path(url: str, info: WeightsInfo) -> Path:
    """Where a URL's file is kept: at torch.hub's own place when its name can stand for it, because a digest is in it.

    Other projects' checkpoints share names such as resnet50.pth, so that the rest are kept by their URL.
    """
    folder = _hub_folder() / "checkpoints"
    if info.own_name or _DIGEST_IN_NAME.search(file_name(url)):
        return folder / file_name(url)
    return folder / "rcdm" / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{file_name(url)}"


def at_hand(info: WeightsInfo) -> Path | None:
    """The file of a provider's own weights, if it has been downloaded."""
    if info.file is not None:
        return Path(info.file)
    path = cache_path(info.url, info) if info.url else None
    return path if path is not None and path.is_file() else None


def is_cached(path: Path) -> bool:
    """Whether the file is one that was downloaded, rather than one of the user's."""
    return (_hub_folder() / "checkpoints").resolve() in path.resolve().parents


def _hub_folder() -> Path:
    """torch.hub's folder: asked of torch where it is loaded (it can be set at run time), else by torch's own rule."""
    if "torch" in sys.modules:
        return Path(sys.modules["torch"].hub.get_dir())
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))).expanduser() / "hub"
