"""The timing loop, on a clock that only moves when told to."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import pytest

from edgecnn.runtimes.timing import TimingPlan, is_flat, time_calls


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [0]
    monkeypatch.setattr("time.perf_counter_ns", lambda: now[0])
    return now


def call_lasting(clock: list[int], duration_ms: Callable[[int], float]) -> Callable[[int], None]:
    def call(number: int) -> None:
        clock[0] += int(duration_ms(number) * 1e6)

    return call


def test_warm_up_ends_when_it_is_flat(clock: list[int]) -> None:
    found = time_calls(call_lasting(clock, lambda n: 100 if n == 0 else 10 if n < 20 else 2), TimingPlan(seconds=0.1))
    assert found.first_ms == 100 and found.flat
    assert found.warmup_runs == 16
    slower = time_calls(call_lasting(clock, lambda n: 60 - n if n < 40 else 2), TimingPlan(seconds=0.1))
    assert slower.flat and slower.warmup_runs >= 40 + 8
    assert set(slower.samples) == {2.0}


def test_warm_up_that_never_settles_ends_in_time(clock: list[int]) -> None:
    found = time_calls(call_lasting(clock, lambda n: 5 * 1.05**n), TimingPlan(seconds=0.1, warmup_seconds=1))
    assert not found.flat
    assert 1000 <= sum(5 * 1.05**n for n in range(found.warmup_runs)) < 1100


@pytest.mark.parametrize(
    ("duration_ms", "runs"),
    [(1, 100), (50, 13), (0.01, 1000)],
    ids=["as many as fit", "at least min_runs", "at most max_runs"],
)
def test_how_many_samples(clock: list[int], duration_ms: float, runs: int) -> None:
    found = time_calls(call_lasting(clock, lambda n: duration_ms), TimingPlan(min_runs=13, max_runs=1000, seconds=0.1))
    np.testing.assert_allclose(found.samples, duration_ms)
    assert found.samples.size == runs


def test_the_limit_cuts_off_even_the_least(clock: list[int]) -> None:
    found = time_calls(call_lasting(clock, lambda n: 5000), TimingPlan(min_runs=13, limit_seconds=3))
    assert found.samples.size == 1


def test_inputs_rotate_without_a_gap(clock: list[int]) -> None:
    numbers: list[int] = []

    def call(number: int) -> None:
        numbers.append(number)
        clock[0] += 10**6

    found = time_calls(call, TimingPlan(seconds=0.01))
    assert numbers == list(range(found.warmup_runs + found.samples.size))


def test_the_garbage_collector_comes_back_after_an_error() -> None:
    def call(number: int) -> None:
        assert not gc.isenabled()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        time_calls(call, TimingPlan())
    assert gc.isenabled()


def test_flatness_compares_two_windows() -> None:
    assert not is_flat([10] * 7, 4, 0.02)
    assert is_flat([90, 10, 10, 10, 10, 10, 10, 10, 10], 4, 0.02)
    assert not is_flat([11, 11, 11, 11, 10, 10, 10, 10], 4, 0.02)


def test_processor_time_does_not_count_waiting() -> None:
    plan = {"min_runs": 3, "seconds": 0.0, "warmup_seconds": 0.0}
    wall, cpu = (time_calls(lambda _: time.sleep(0.02), TimingPlan(**plan, clock=clock)) for clock in ("wall", "cpu"))
    assert wall.samples.min() >= 20 and cpu.samples.max() < 10
