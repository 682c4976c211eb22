"""Latency of a file: fresh processes, warm-up until flat, real rotating pictures, a median with its interval."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import UsageError
from edgecnn.measure.machine import state
from edgecnn.measure.stats import median_interval, percentile, ratio_interval, relative_half_width
from edgecnn.runtimes.ports import Pictures
from edgecnn.runtimes.session import Launch, Session
from edgecnn.runtimes.timing import Timing, TimingPlan
from edgecnn.spec import Interval, Preprocess, Runtime, Status

RESTARTS = 5
MIN_RUNS = 64
HALF_WIDTH = 0.02  # of the median: narrower than this and the measurement is done
RESOLUTION_MS = 0.0005  # below half a microsecond the clock and the call itself are the uncertainty
ROTATION = 16  # how many different pictures take turns
BLOCK_S = 0.4  # how long a process is measured once it is warm


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call at the stated batch size and thread count, of the call into the engine alone.

    ``load_ms`` and ``first_ms`` are medians over the restarts; ``base_memory_bytes`` is the worker before it loads the
    file, so the difference to ``peak_memory_bytes`` is what the network costs. ``samples`` has one array per restart.
    """

    median: Interval
    p90_ms: float
    p99_ms: float | None
    load_ms: float
    first_ms: float
    peak_memory_bytes: int
    base_memory_bytes: int
    runs: int
    restarts: int
    threads: int
    batch: int
    status: Status
    note: str
    samples: tuple[NDArray[np.float64], ...]
    context: dict[str, Any] = field(default_factory=dict)


def measure_latency(
    runtime: Runtime,
    file: Path,
    images: Pictures,
    threads: int,
    *,
    restarts: int = RESTARTS,
    min_runs: int = MIN_RUNS,
    budget_s: float = 30.0,
    batch: int = 1,
    preprocess: Preprocess | None = None,
    options: Mapping[str, str] | None = None,
) -> Latency:
    """Measure ``file`` in ``runtime`` with pictures (N, H, W, C) uint8 taking turns.

    At least ``restarts`` processes and ``min_runs`` calls; then more processes until half the width of the median's 95
    % interval is at most 2 % of it, or until ``budget_s`` seconds are over: the status then is ``inconclusive`` and
    the note says how wide the interval is. Raises ``RuntimeFailure`` and ``MissingPackageError`` from the session.
    """
    if not len(images):
        raise UsageError("no pictures to time with", hint="give at least one")
    launch = Launch(runtime, file, threads, preprocess or _neutral(images), dict(options or {}))
    pictures = _rotation(images, batch)
    before, end = state(), time.monotonic() + budget_s
    memory = _memory_run(launch, pictures[:batch])
    runs = _collect(launch, pictures, batch, restarts, -(-min_runs // max(1, restarts)), end)
    pooled = np.concatenate([timing.samples for timing in runs.timings])
    status, note = _verdict(runs, restarts, min_runs)
    return Latency(
        median=runs.median,
        p90_ms=float(np.percentile(pooled, 90)),
        p99_ms=percentile(pooled, 99),
        load_ms=float(np.median(runs.loads_ms)),
        first_ms=float(np.median([timing.first_ms for timing in runs.timings])),
        peak_memory_bytes=memory.peak_bytes,
        base_memory_bytes=memory.base_bytes,
        runs=pooled.size,
        restarts=len(runs.timings),
        threads=threads,
        batch=runs.batch,
        status=status,
        note=note,
        samples=tuple(timing.samples for timing in runs.timings),
        context={"before": before.as_dict(), "after": state().as_dict(), "worker": memory.worker},
    )


@dataclass(frozen=True)
class _Runs:
    """What the measured processes gave, one entry each."""

    timings: list[Timing]
    loads_ms: list[float]
    batch: int
    median: Interval


def _collect(launch: Launch, pictures: Pictures, batch: int, restarts: int, runs: int, end: float) -> _Runs:
    """Measure fresh processes, ``runs`` calls at least in each, until the median is narrow or the time is over."""
    timings: list[Timing] = []
    loads: list[float] = []
    while True:
        left = max(1.0, end - time.monotonic())
        plan = TimingPlan(min_runs=runs, seconds=BLOCK_S, limit_seconds=left)
        with Session(launch) as session:
            timings.append(session.time(pictures, plan, batch=batch))
            loads.append(session.load_ms)
            batch = session.input.batch or batch
        over = time.monotonic() >= end
        if len(timings) >= restarts or over:
            median = _median(timings)
            if over or _narrow(median):
                return _Runs(timings, loads, batch, median)


def _neutral(images: Pictures) -> Preprocess:
    """For timing alone the values hardly matter: a float file of unknown normalization gets pixel / 255."""
    return Preprocess(images.shape[1], (0.0,) * images.shape[3], (1.0,) * images.shape[3])


def _rotation(images: Pictures, batch: int) -> Pictures:
    """The pictures that take turns, spread over all that were given; whole batches of them."""
    wanted = max(ROTATION, batch)
    if len(images) > wanted:
        images = images[np.linspace(0, len(images) - 1, wanted).astype(int)]
    elif len(images) < batch:
        images = np.resize(images, (batch, *images.shape[1:]))
    return np.ascontiguousarray(images)


@dataclass(frozen=True)
class _Memory:
    """A process of its own: its peak with the file loaded and run once, its size before, and what it is."""

    peak_bytes: int
    base_bytes: int
    worker: dict[str, Any]


def _memory_run(launch: Launch, pictures: Pictures) -> _Memory:
    with Session(launch) as session:
        session.infer(pictures)
        return _Memory(session.peak_memory_bytes, session.base_memory_bytes, session.describe())


def _median(timings: list[Timing]) -> Interval:
    samples = np.concatenate([timing.samples for timing in timings])
    restarts = np.repeat(np.arange(len(timings)), [timing.samples.size for timing in timings])
    return median_interval(samples, restarts)


def _narrow(median: Interval) -> bool:
    return relative_half_width(median) <= HALF_WIDTH or (median.high - median.low) / 2 <= RESOLUTION_MS


def _verdict(runs: _Runs, restarts: int, min_runs: int) -> tuple[Status, str]:
    """Whether the measurement settled, and in words what was short of it."""
    median, done = runs.median, len(runs.timings)
    misses = []
    if median.n < min_runs:
        misses.append(f"{median.n} runs, wanted {min_runs}")
    if done < restarts:
        misses.append(f"{done} processes, wanted {restarts}")
    if not _narrow(median):
        misses.append(f"interval is +-{relative_half_width(median):.1%} of the median, wanted {HALF_WIDTH:.0%}")
    restless = sum(not timing.flat for timing in runs.timings)
    remarks = [f"warm-up not flat in {restless} of {done} processes"] if restless else []
    return (Status.INCONCLUSIVE if misses else Status.OK), "; ".join(misses + remarks)


@dataclass(frozen=True)
class Comparison:
    """``ratio`` is time of ``a`` over time of ``b``; they differ when 1 is outside its interval."""

    ratio: Interval
    a_ms: Interval
    b_ms: Interval
    status: Status


def compare(
    a: Launch,
    b: Launch,
    images: Pictures,
    *,
    images_b: Pictures | None = None,
    restarts: int = RESTARTS,
    blocks: int = 8,
    budget_s: float = 60.0,
    seed: int = 0,
    clock: str = "wall",
) -> Comparison:
    """Time two files against each other: both processes stay open and are measured in short blocks, in random order.

    A pair is the medians of two neighbouring blocks, so what slows the machine for a while slows both. ``images_b`` is
    for a second file of another picture size; ``clock`` is that of :class:`TimingPlan`. Goes on with fresh
    processes until the ratio's interval is narrow (2 %) or the budget is over (``inconclusive``).
    """
    rng, end = np.random.default_rng(seed), time.monotonic() + budget_s
    sides = [(a, _rotation(images, 1)), (b, _rotation(images if images_b is None else images_b, 1))]
    pairs: list[tuple[float, float]] = []
    rounds = 0
    while not rounds or (time.monotonic() < end and (rounds < restarts or not _ratio_narrow(pairs, blocks))):
        pairs += _paired_blocks(sides, blocks, rng, clock)
        rounds += 1
    table, labels = np.asarray(pairs), np.arange(len(pairs)) // blocks
    ratio = ratio_interval(table, labels)
    return Comparison(
        ratio=ratio,
        a_ms=median_interval(table[:, 0], labels),
        b_ms=median_interval(table[:, 1], labels),
        status=Status.OK if rounds >= restarts and relative_half_width(ratio) <= HALF_WIDTH else Status.INCONCLUSIVE,
    )


def _paired_blocks(
    sides: list[tuple[Launch, Pictures]], blocks: int, rng: np.random.Generator, clock: str
) -> list[tuple[float, float]]:
    """Medians (ms of a, ms of b) of ``blocks`` neighbouring pairs, from one fresh process each."""
    warm = TimingPlan(min_runs=1, seconds=0.0, clock=clock)
    block = TimingPlan(min_runs=9, seconds=0.1, warmup_seconds=0.02, clock=clock)
    launches = [_with_normalization(launch, pictures) for launch, pictures in sides]
    with Session(launches[0]) as first, Session(launches[1]) as second:
        sessions = [(first, sides[0][1]), (second, sides[1][1])]
        for session, pictures in sessions:
            session.time(pictures, warm)
        pairs = []
        for _ in range(blocks):
            medians = [0.0, 0.0]
            for side in rng.permutation(2):
                session, pictures = sessions[side]
                medians[side] = float(np.median(session.time(pictures, block).samples))
            pairs.append((medians[0], medians[1]))
    return pairs


def _with_normalization(launch: Launch, pictures: Pictures) -> Launch:
    """The launch with a neutral normalization where none was given: enough for timing."""
    return launch if launch.preprocess is not None else replace(launch, preprocess=_neutral(pictures))


def _ratio_narrow(pairs: list[tuple[float, float]], blocks: int) -> bool:
    labels = np.arange(len(pairs)) // blocks
    return relative_half_width(ratio_interval(np.asarray(pairs), labels)) <= HALF_WIDTH
