"""One setting of the C library's allocator that matters for training, and calibrating, on a CPU."""

from __future__ import annotations

import ctypes
import sys

# Numbers from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let glibc keep large freed blocks instead of returning them to the kernel; whether it could be set.

    Every step frees and takes the same activations again. By default each of them is mapped anew, and the kernel clears
    every page, which shows in a profile as time in the kernel. Elsewhere than on glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, KEEP_BYTES))
