"""One setting of the C library's allocator, without which large answers cost two to four times as much.

glibc serves a block of 128 KiB or more with `mmap` and gives it back with `munmap`: each such block, and an answer of 32
messages of 4 KiB is one, pays for two system calls and a page fault for every page. Plain asyncio even reads into a
fresh block of 256 KiB each time, and falls into this hole or not depending on how the heap happens to lie.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

#: Numbers of `mallopt` in glibc's <malloc.h>.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

#: Blocks below this size come from the heap, and so much of its top may lie unused before it is given back.
MMAP_THRESHOLD: Final = 32 << 20
TRIM_THRESHOLD: Final = 256 << 20


def keep_large_blocks() -> bool:
    """Let the heap serve large blocks too; call it before there are many.

    Returns:
        Whether it was done; not so with another C library than glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        # musl has no mallopt and no such threshold.
        return False
    # Both, because setting either one ends glibc's own adjustment of the two.
    return bool(library.mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD) & library.mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD))
