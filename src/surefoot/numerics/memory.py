"""The C library's allocator, told to keep what large temporaries free.

By default glibc gives the top of the heap back to the system whenever enough of it is free. A loop whose temporaries are a few megabytes
(the activations of a batch) then asks for the same pages again in every pass, and page faults can cost as much as the arithmetic.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

__all__ = ["keep_freed_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_MMAP_THRESHOLD = 32 << 20  # what glibc accepts on 64 bits


@cache
def keep_freed_memory(keep: int = 1 << 30) -> bool:
    """Let the process keep up to `keep` freed bytes for its next allocations. Results do not depend on it.

    Returns:
        Whether the allocator took it; False where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)) and bool(mallopt(TRIM_THRESHOLD, min(keep, 2**31 - 1)))
