"""Where everything that can be recomputed or downloaded again is kept."""

from __future__ import annotations

import os
from pathlib import Path

from rcdm_core.errors import RCDMError


def cache_dir(*parts: str) -> Path:
    """The folder `parts` below the root of all caches, made if it is not there yet.

    The root is the environment variable `RCDM_CACHE`, by default `~/.cache/rcdm`.

    Raises:
        RCDMError: the folder cannot be made.
    """
    root = os.environ.get("RCDM_CACHE")
    try:
        path = (Path(root).expanduser() if root else Path.home() / ".cache" / "rcdm").joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
    except RuntimeError:  # an account without a home, as in a container
        raise RCDMError(
            f"The cache folder {root or '~/.cache/rcdm'} is nowhere, because there is no such home directory: set the "
            "environment variable RCDM_CACHE to a folder that can be written to."
        ) from None
    except OSError as error:
        raise RCDMError(
            f"The cache folder {path} cannot be made ({error.strerror or error}): "
            "set the environment variable RCDM_CACHE to a folder that can be written to."
        ) from error
    return path
