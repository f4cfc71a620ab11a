"""One process at a time: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rcdm_core.atomic import explain_failures
from rcdm_core.errors import RCDMError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def holding(path: Path, refusal: str, *, passing: bool = False) -> Iterator[None]:
    """Hold the lock `path`, an empty file of no meaning when nobody holds it, until the block is left.

    passing: remove the file at the end. Where there are no such locks (Windows, some network file systems) nothing is
    kept out. Raises RCDMError with the sentence `refusal` when another process holds it.
    """
    with _held(path, refusal):  # closing it is what lets go
        try:
            yield
        finally:
            if passing:
                with contextlib.suppress(OSError):  # Windows removes no open file
                    path.unlink()


def _held(path: Path, refusal: str) -> IO[str]:
    """The open file that has the lock. One that its holder removed while it was being opened is no longer the lock:
    whoever comes next would hold another file of that name."""
    while True:
        with explain_failures(path):
            handle = path.open("a")
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if fcntl is None or _is_at(path, handle):
                return handle
        except BlockingIOError:
            handle.close()
            raise RCDMError(refusal) from None
        except OSError:  # a file system without locks
            return handle
        handle.close()


def _is_at(path: Path, handle: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False
