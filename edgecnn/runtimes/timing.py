"""How the worker times calls: warm up until flat, then collect raw samples.

The clock is the monotonic one, the garbage collector is off while it runs, and nothing but the call is between the two
readings. No statistics here: raw samples travel back, so that what is computed from them can be repeated.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TimingPlan:
    """When to stop. Warm-up is over when the medians of two successive windows differ by at most ``flat``.

    Measuring goes on for ``seconds``, but never stops before ``min_runs`` nor goes past ``max_runs``;
    ``limit_seconds`` for warm-up and measuring together cuts off even ``min_runs`` (one sample is always taken).
    ``clock`` is "wall", or "cpu" for the processor time of the process: that is not stretched by what else runs on the
    machine, and means something for one thread only.
    """

    min_runs: int = 13
    max_runs: int = 1000
    seconds: float = 0.5
    window: int = 8
    flat: float = 0.02
    warmup_seconds: float = 3.0
    limit_seconds: float = 60.0
    clock: str = "wall"


@dataclass(frozen=True)
class Timing:
    """``samples`` in ms in the order taken; ``first_ms`` is the very first call; ``flat``: warm-up settled."""

    samples: NDArray[np.float64]
    first_ms: float
    warmup_runs: int
    flat: bool


def time_calls(call: Callable[[int], object], plan: TimingPlan) -> Timing:
    """Time ``call(0)``, ``call(1)``, ... (the number lets the caller rotate its inputs)."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        limit = time.perf_counter_ns() + int(plan.limit_seconds * 1e9)
        warmup, flat = _warm_up(call, plan, limit)
        samples = _measure(call, plan, len(warmup), limit)
    finally:
        if enabled:
            gc.enable()
    return Timing(np.asarray(samples, np.float64) / 1e6, warmup[0] / 1e6, len(warmup), flat)


def _measure(call: Callable[[int], object], plan: TimingPlan, start: int, limit: int) -> list[int]:
    """Durations in ns of the calls from number ``start`` on."""
    end = min(time.perf_counter_ns() + int(plan.seconds * 1e9), limit)
    samples = [_once(call, start, plan)]
    while len(samples) < plan.max_runs:
        now = time.perf_counter_ns()
        if now >= limit or (len(samples) >= plan.min_runs and now >= end):
            break
        samples.append(_once(call, start + len(samples), plan))
    return samples


def _warm_up(call: Callable[[int], object], plan: TimingPlan, limit: int) -> tuple[list[int], bool]:
    """Durations in ns of the warm-up calls, and whether they became flat in the time given."""
    samples = [_once(call, 0, plan)]
    end = min(time.perf_counter_ns() + int(plan.warmup_seconds * 1e9), limit)
    while time.perf_counter_ns() < end:
        samples.append(_once(call, len(samples), plan))
        if is_flat(samples, plan.window, plan.flat):
            return samples, True
    return samples, False


def is_flat(samples: list[int], window: int, tolerance: float) -> bool:
    """Whether the medians of the last two windows differ by at most ``tolerance`` of the earlier one."""
    if len(samples) < 2 * window:
        return False
    before = float(np.median(samples[-2 * window : -window]))
    after = float(np.median(samples[-window:]))
    return abs(after - before) <= tolerance * before


def _once(call: Callable[[int], object], number: int, plan: TimingPlan) -> int:
    clock = time.process_time_ns if plan.clock == "cpu" else time.perf_counter_ns
    start = clock()
    call(number)
    return clock() - start
