"""Freed memory is kept, so that no timing depends on what the C library did before.

glibc gives large freed blocks back to the kernel and asks for them again at the next allocation:
the kernel then zeroes the pages of every larger output anew. When it does so depends on the sizes
that a process has freed before, so that one network takes another time in every process
(``docs/decisions/0008-freed-memory-is-kept.md``). Allocators that people deploy with (jemalloc,
tcmalloc) keep memory, and so does glibc when it is told to: here, or for any program by the
environment variables
``MALLOC_MMAP_MAX_=0`` and ``MALLOC_TRIM_THRESHOLD_=18446744073709551615``.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

# mallopt's parameters (malloc.h).
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = -1  # the largest threshold


@cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed, for the rest of this process.

    There is no way back to glibc's own adaptive thresholds, so this stays when a measurement is
    over: the process keeps the memory of its largest moment, and computes faster.

    Returns:
        bool: whether the C library does; another than glibc is used as it is.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
