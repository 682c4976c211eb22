"""The rung that is made for one runtime: what this computes faster otherwise than in int8, by time measured here.

Groups of alike nodes (:mod:`edgecnn.compress.alike`) are tried one after the other: the file with one more of them
against the best file so far, in interleaved blocks of fresh processes. A group is kept where

* the ratio's interval lies below 1;
* or the time is the same, as far as can be told, and the answers are nearer to the float network's: those of the
  numbers to float's, and those of the file, in this runtime, to the numbers';
* or the time is hardly more, and the file comes to give the answers of its numbers, which it did not before.

The clock counts processor time, which what else runs on the machine disturbs little, of one thread. The choice is good
for this runtime on this kind of processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgecnn import catalog
from edgecnn.compress import alike, equalize, mixed, ptq
from edgecnn.compress.bits import INT8, Plan, bits_of
from edgecnn.compress.calibrate import Pixels
from edgecnn.compress.mixed import Divergence
from edgecnn.compress.quantize import Gating
from edgecnn.errors import MissingPackageError
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.measure.latency import compare
from edgecnn.measure.machine import describe
from edgecnn.pipeline.climbing import MIXED, Ladder
from edgecnn.pipeline.ladder import Rung
from edgecnn.runtimes.session import Launch, open_session
from edgecnn.spec import Interval, Runtime

TIMED = "timed"
PICTURES = 64  # to compare answers on; some of them take turns while time is measured
BUDGET_S = 45.0  # of a comparison at most; a quiet machine needs 10 to 20
PAIRS = 24  # of blocks, from three processes each: fewer have no interval to trust
CLOCK = "cpu"
SLACK = 0.05  # so much more time is hardly more
FAITHFUL = 0.25  # what is left of the divergence of a file from its numbers where it gives their answers


@dataclass(frozen=True)
class Tried:
    """A group and its time over that of the best file before.

    ``kl`` is how far the answers of the numbers are from float's, ``apart`` those of the file from the numbers', in
    nats.
    """

    group: str
    ratio: Interval
    kl: float
    apart: float
    kept: bool

    def figures(self) -> dict[str, Any]:
        """As a manifest holds it."""
        nats = {"kl": round(self.kl, 6), "apart": round(self.apart, 6)}
        return {"group": self.group, "kept": self.kept, **_rounded(self.ratio), **nats}

    def __str__(self) -> str:
        """One line for the terminal."""
        near = f"divergence {self.kl:.5f}, of the file {self.apart:.5f}"
        return f"{self.group}: {_words(self.ratio)}, {near}: {'kept' if self.kept else 'left as it was'}"


def refuse_missing(runtime: Runtime | None) -> None:
    """Raise ``MissingPackageError`` for a runtime that is not installed: before anything is computed."""
    state = "ready" if runtime is None else catalog.engines()[runtime]
    if state != "ready":
        raise MissingPackageError(f"{runtime} is to decide by its time, and is {state}", hint="or leave runtime out")


def choose(ladder: Ladder, start: Rung) -> tuple[Rung, dict[str, Any]]:
    """The rung that suits the step's runtime better than ``start``, the best of the ladder so far, and its figures.

    What ``start`` has in more bits stays so.
    """
    step, graph = ladder.step, ladder.graph
    assert step.runtime is not None
    began, judge = time.perf_counter(), ladder.judge
    integer = ladder.decided if start.name == MIXED else start
    real = equalize.rewrite(graph, integer.changes)
    base = Plan({name: width for name, width in bits_of(start.graph).items() if name in real.by_name})
    images = ptq.first(ladder.pictures, PICTURES)
    plan, tried = fitted(
        (real, integer.graph),
        step.runtime,
        images,
        judge.divergence,
        lambda numbers: judge.rung(TIMED, (numbers, integer.changes), 0.0).kl,
        base=base,
        hard_swish=step.hard_swish,
        tell=ladder.tell,
    )
    numbers = mixed.loosened(real, integer.graph, plan.bits, step.hard_swish, plan.unrounded)
    rung = judge.rung(TIMED, (numbers, integer.changes), time.perf_counter() - began).compared(start)
    ladder.tell(str(rung))
    ladder.rungs.append(rung)
    with _course(step.runtime, images) as course:
        over_float = course.ratio(course.file(numbers), course.file(graph))
    slower = "; it is slower than float there: deploy the float file" if over_float.low > 1 else ""
    ladder.tell(f"{step.runtime}: {_words(over_float)} of the float file{slower}")
    figures = {"clock": CLOCK, "threads": 1, "host": describe().cpu, "groups": [each.figures() for each in tried]}
    return rung, {"timed": {**figures, "over_float": _rounded(over_float)}}


def fitted(
    twins: tuple[Graph, Graph],
    runtime: Runtime,
    images: Pixels,
    divergence: Divergence,
    judged: Callable[[Graph], float],
    *,
    base: Plan = INT8,
    hard_swish: Gating = "decompose",
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Plan, list[Tried]]:
    """What of the int8 twin of a float graph (float first) is kept otherwise for a runtime, and all that was tried.

    ``base``: what is in more bits anyway. ``judged`` says how far numbers are from the float network's, in nats. Raises
    ``RuntimeFailure`` where the runtime refuses a file.
    """
    real, integer = twins
    plan, tried = base, []
    numbers = mixed.loosened(real, integer, plan.bits, hard_swish)
    with _course(runtime, images) as course:
        fastest = course.file(numbers)
        near = judged(numbers), course.apart(fastest, numbers, divergence)
        for name, group in alike.groups(real).items():
            wider = plan.joined(group)
            if wider == plan:
                continue
            numbers = mixed.loosened(real, integer, wider.bits, hard_swish, wider.unrounded)
            file = course.file(numbers)
            found = judged(numbers), course.apart(file, numbers, divergence)
            ratio = course.ratio(file, fastest)
            better = ratio.high < 1 or (ratio.value <= 1 + SLACK and _is_worth_it(ratio, found, near))
            kept = better and ratio.n >= PAIRS
            tried.append(Tried(name, ratio, *found, kept))
            tell(f"{runtime}: {tried[-1]}")
            if kept:
                plan, fastest, near = wider, file, found
    return plan, tried


def _is_worth_it(ratio: Interval, found: tuple[float, float], before: tuple[float, float]) -> bool:
    """Whether answers are so much nearer (numbers to float, file to numbers) that no time need be gained."""
    return (ratio.low <= 1 and sum(found) < sum(before)) or found[1] < FAITHFUL * before[1]


@dataclass
class _Course:
    """Where files of one runtime are written and run against each other."""

    runtime: Runtime
    images: Pixels
    folder: Path
    files: list[Path] = field(default_factory=list)

    def file(self, graph: Graph) -> Path:
        """The graph as the runtime reads it."""
        row = catalog.FORMATS[catalog.RUNTIMES[self.runtime].formats[0]]
        self.files.append(self.folder / f"{len(self.files)}{row.extension}")
        catalog.load(row.target)(graph, self.files[-1], meta={})
        return self.files[-1]

    def ratio(self, one: Path, other: Path) -> Interval:
        """Time of one file over that of another."""
        first, second = (Launch(self.runtime, file) for file in (one, other))
        return compare(first, second, self.images, budget_s=BUDGET_S, clock=CLOCK).ratio

    def apart(self, file: Path, numbers: Graph, divergence: Divergence) -> float:
        """How far the file's answers are from those of the numbers in it, in nats."""
        with open_session(self.runtime, file) as session:
            return divergence(run(numbers, self.images).numpy(), session.infer(self.images))


@contextmanager
def _course(runtime: Runtime, images: Pixels) -> Iterator[_Course]:
    with TemporaryDirectory(prefix="edgecnn-") as folder:
        yield _Course(runtime, images, Path(folder))


def _rounded(ratio: Interval) -> dict[str, Any]:
    return {"ratio": round(ratio.value, 4), "ratio_low": round(ratio.low, 4), "ratio_high": round(ratio.high, 4)}


def _words(ratio: Interval) -> str:
    few = "" if ratio.n >= PAIRS else f", too few blocks ({ratio.n}): the machine is busy"
    return f"{ratio.value:.3f} times the time ({ratio.low:.3f} to {ratio.high:.3f}{few})"
