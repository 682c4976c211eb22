"""The measurement's stopping rules, with sessions that answer from a script; once for real with the null runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from edgecnn.errors import UsageError
from edgecnn.measure import latency
from edgecnn.measure.latency import compare, measure_latency
from edgecnn.runtimes.ports import InputPort
from edgecnn.runtimes.session import Launch
from edgecnn.runtimes.timing import Timing, TimingPlan
from edgecnn.spec import Runtime, Status

PICTURES = np.zeros((40, 4, 4, 3), np.uint8)
Script = Callable[[Launch], np.ndarray]


class ScriptedSession:
    """Stands in for a worker: times come from ``script``, and each process costs a second of the fake clock."""

    script: Script
    clock = 0.0
    load_ms, base_memory_bytes, peak_memory_bytes = 3.0, 10, 30
    input = InputPort("image", "uint8", "NHWC", None, 4, 4)

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        ScriptedSession.clock += 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def infer(self, images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 2), np.float32)

    def time(self, images: np.ndarray, plan: TimingPlan, *, batch: int = 1) -> Timing:
        assert len(images) <= latency.ROTATION
        return Timing(type(self).script(self.launch), 9.0, 16, True)

    def describe(self) -> dict[str, Any]:
        return {"runtime": "scripted"}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[ScriptedSession]]:
    monkeypatch.setattr(latency, "Session", ScriptedSession)
    monkeypatch.setattr("time.monotonic", lambda: ScriptedSession.clock)
    ScriptedSession.clock = 0.0
    yield ScriptedSession


def answering(*levels: float, runs: int = 20) -> Script:
    """Process after process at these levels (ms), with a little noise."""
    rng, turn = np.random.default_rng(0), cycle(levels)
    return staticmethod(lambda launch: next(turn) * rng.normal(1, 0.005, runs))


def test_steady_processes_give_a_figure(scripted: type[ScriptedSession]) -> None:
    scripted.script = answering(10.0)
    found = measure_latency(Runtime.NULL, Path("net.onnx"), PICTURES, 2)
    assert found.status is Status.OK and found.note == ""
    assert (found.restarts, found.runs, found.threads, found.batch) == (5, 100, 2, 1)
    assert found.median.low <= found.median.value <= found.median.high
    assert found.median.value == pytest.approx(10, rel=0.01) and found.p90_ms > found.median.value
    assert found.p99_ms is None
    assert (found.load_ms, found.first_ms, found.peak_memory_bytes, found.base_memory_bytes) == (3.0, 9.0, 30, 10)
    assert found.context["worker"] == {"runtime": "scripted"} and "load_1min" in found.context["before"]


def test_processes_that_differ_are_inconclusive_after_the_budget(scripted: type[ScriptedSession]) -> None:
    scripted.script = answering(10.0, 14.0)
    found = measure_latency(Runtime.NULL, Path("net.onnx"), PICTURES, 1, budget_s=12)
    assert found.status is Status.INCONCLUSIVE and "of the median, wanted 2%" in found.note
    assert 10 <= found.median.value <= 14 and found.restarts == 11


def test_more_processes_are_taken_until_the_interval_is_narrow(scripted: type[ScriptedSession]) -> None:
    scripted.script = answering(10.0, 10.6, 10.0, 10.0, 10.5, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0)
    found = measure_latency(Runtime.NULL, Path("net.onnx"), PICTURES, 1, budget_s=100)
    assert found.status is Status.OK and 5 < found.restarts < 100


def test_too_few_processes_or_runs_are_inconclusive(scripted: type[ScriptedSession]) -> None:
    scripted.script = answering(10.0, runs=3)
    few = measure_latency(Runtime.NULL, Path("net.onnx"), PICTURES, 1, budget_s=3)
    assert few.status is Status.INCONCLUSIVE and few.restarts == 2
    assert few.note.startswith("6 runs, wanted 64; 2 processes, wanted 5")


def test_no_pictures_no_figure() -> None:
    with pytest.raises(UsageError, match="no pictures"):
        measure_latency(Runtime.NULL, Path("net.onnx"), PICTURES[:0], 1)


def test_a_comparison_sees_a_difference_through_a_changing_load(scripted: type[ScriptedSession]) -> None:
    rng, calls = np.random.default_rng(0), [0]

    def script(launch: Launch) -> np.ndarray:
        calls[0] += 1
        load = 1 + 0.5 * np.sin(calls[0] / 40)
        return np.asarray((1.1 if launch.threads == 2 else 1.0) * load * rng.normal(1, 0.002, 9))

    scripted.script = staticmethod(script)
    slow, fast = Launch(Runtime.NULL, Path("a.onnx"), threads=2), Launch(Runtime.NULL, Path("b.onnx"), threads=1)
    found = compare(slow, fast, PICTURES, budget_s=1000)
    assert found.status is Status.OK and 1.0 < found.ratio.low < 1.1 < found.ratio.high < 1.15
    assert found.a_ms.high - found.a_ms.low > 5 * (found.ratio.high - found.ratio.low)
    same = compare(fast, fast, PICTURES, budget_s=1000)
    assert same.ratio.low <= 1 <= same.ratio.high
    hasty = compare(fast, fast, PICTURES, budget_s=0)
    assert hasty.status is Status.INCONCLUSIVE and hasty.ratio.n == 8


def test_the_harness_itself_costs_microseconds(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    found = measure_latency(Runtime.NULL, tmp_path / "net.onnx", PICTURES, 1, restarts=2, budget_s=120)
    assert found.restarts >= 2 and found.runs >= 64
    assert 0 < found.median.value < 0.05
