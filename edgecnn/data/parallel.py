"""Work on many pictures at once, in threads where that helps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_CHUNK = 64  # pictures per task: a task per small picture would cost more than decoding it
# Below this a picture is mostly interpreter work, which threads only slow down (50,000 PNGs of 32 x 32: 9 s in one
# thread, 12 s in two); above it most of the time is spent in Pillow outside the interpreter lock.
_WORTH_A_THREAD_S = 0.0005


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: respects taskset and containers
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
    """``work`` on each item, results in order.

    The first exception that ``work`` raises is raised here and ends the rest. The first items are done in the calling
    thread and timed: threads are used only for the rest of slow work.
    """
    start = time.perf_counter()
    yield from [work(item) for item in items[:_CHUNK]]
    slow = time.perf_counter() - start > _WORTH_A_THREAD_S * min(len(items), _CHUNK)
    chunks = [items[first : first + _CHUNK] for first in range(_CHUNK, len(items), _CHUNK)]
    if not slow or usable_cores() == 1 or not chunks:
        for chunk in chunks:
            yield from [work(item) for item in chunk]
        return
    pool = ThreadPoolExecutor(max_workers=usable_cores())
    try:
        for results in pool.map(lambda chunk: [work(item) for item in chunk], chunks):
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)
