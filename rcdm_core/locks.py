"""One process at a time: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rcdm_core.atomic import explain_failures
from rcdm_core.errors import RCDMError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def holding(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock `path`, an empty file of no meaning when nobody holds it, until the block is left.

    Where there are no such locks (Windows, some network file systems) nothing is kept out. Raises RCDMError with the
    sentence `refusal` when another process holds it.
    """
    with explain_failures(path):
        handle = path.open("a")
    with handle:  # closing it is what lets go
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RCDMError(refusal) from None
            except OSError:  # a file system without locks
                pass
        yield
