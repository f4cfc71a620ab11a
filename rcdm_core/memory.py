"""Keep the memory that tensors free for the tensors that come next (CPU, Linux with glibc).

By default glibc hands every large block back to the system when it is freed. A network allocates and frees the same
blocks in every step, and each time the kernel maps and clears the pages anew: `benchmarks/speed.py` shows what that
costs.
"""

from __future__ import annotations

import ctypes
import functools
import sys

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
