"""Memory: kept for the tensors that come next, and one sentence where it does not suffice.

By default glibc hands every large block back to the system when it is freed. A network allocates and frees the same
blocks in every step, and each time the kernel maps and clears the pages anew: `benchmarks/speed.py` shows what that
costs (CPU, Linux with glibc).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator

from rcdm_core.errors import RCDMError

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the allocator not to return freed blocks to the system. Returns whether it took the request.

    The process stays at the largest size that it reached. Other systems and allocators are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # Older releases refuse a threshold above 32 MiB.
    threshold = mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_THRESHOLD, 2**25)
    taken = [threshold, mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_TOP_PAD, 2**26)]
    return all(taken)


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raise RCDMError when `what` takes more bytes than the machine has: the system would end the process, without a
    word, rather than refuse them. Nothing is known, and nothing refused, where the system does not say how many."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return
    if needed > there > 0:
        raise RCDMError(
            f"{what} would take {needed / 2**30:.3g} GiB of memory, and this machine has {there / 2**30:.3g}; {remedy}."
        )


@contextlib.contextmanager
def explain_shortage(what: str, remedy: str) -> Iterator[None]:
    """Turn an allocation that fails in the block, on a GPU or not, into an RCDMError: `what` went on, do `remedy`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch's own class for a GPU; on a CPU it is a plain RuntimeError, which its text alone gives away.
        on_gpu = type(error).__name__ == "OutOfMemoryError"
        if not (on_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)):
            raise
        where = "the GPU's memory" if on_gpu else "the memory"
        raise RCDMError(f"{what} needs more than {where} that is free; {remedy}.") from error
