"""The rungs of the ladder that need no training, from cheap to dear, and when each is entered.

    plain           ranges as observed, weights to nearest                    compress/quantize.py
    repaired        channels equalized, weights rounded by second order       compress/equalize.py, rounding.py
    re-estimated    batch normalization, on the quantized network             compress/reestimate.py
    reconstructed   the rounding of each weight learned, layer by layer       compress/adaround.py
    mixed           as few layers as it takes in float                        compress/mixed.py

The first two cost two passes over the calibration pictures and are always made. Every later one is entered only while
the best so far misses the gate, and starts from it; but mixed from the better of the first two, since the others make
good what layers lost that lose nothing any more in float (a small MobileNetV2 on the digits with a channel that int8
cannot hold: from corrected numbers 22 points were lost still, from these less than one). The least divergent is the
best: what does not help is not used.
Without ``repair`` there is plain alone, and mixed where that is the scheme; a scheme other than these two is not
climbed for.

**The gate.** A rung misses it where it loses more than ``max_drop`` points of accuracy on the validation pictures, by
the estimate's point: so what is cheap is tried rather than not. It *surely* misses it where the whole 95 % interval
lies above ``max_drop``. ``mixed`` makes another kind of network, no longer of integers throughout, and ``JUDGES``
pictures are few to say that it must be: the best so far is judged once more, on ``MORE_JUDGES``, and what is made of
it likewise. Where the scheme is int8, a loss must also be certain (its interval lies above 0), and ``integer_only``
forbids it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgecnn.compress import adaround, ptq, reestimate
from edgecnn.compress.bits import whole
from edgecnn.compress.calibrate import Pixels
from edgecnn.graph.ir import Graph
from edgecnn.pipeline.context import Context
from edgecnn.pipeline.ladder import Judge, Rung
from edgecnn.pipeline.loosening import loosen, told
from edgecnn.schemes import SCHEMES
from edgecnn.spec import Scheme
from edgecnn.steps import QuantizeStep

JUDGES = 256  # validation pictures that choose among the rungs
MORE_JUDGES = 1024  # that say whether layers leave int8
MIXED = "mixed"


@dataclass
class Ladder:
    """The float graph, the pictures that decide, ``judge_of`` at most so many others; and what is made of them.

    ``rungs`` in the order in which they were made. ``best`` is the least divergent, ``decided`` that of the first two,
    ``integers`` that of those which compute in integers throughout. ``figures`` of the making; ``loosened``: those of
    the mixed rung.
    """

    context: Context
    step: QuantizeStep
    graph: Graph
    pictures: ptq.Pictures
    judge_of: Callable[[int], Judge]
    rungs: list[Rung] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    loosened: dict[str, Any] = field(default_factory=dict)
    judge: Judge = field(init=False)
    best: Rung = field(init=False)
    integers: Rung = field(init=False)
    decided: Rung = field(init=False)

    def climb(self) -> None:
        """Make the rungs, as many as the gate needs."""
        self.judge = self.judge_of(JUDGES)
        _plain_and_repaired(self)
        for enter in HIGHER:
            if self.missed:
                enter(self)
        if self.step.scheme is Scheme.MIXED and not self.missed and self.best is self.integers:
            self.tell(f"int8 loses no more than {self.step.max_drop} points: nothing has to be kept in more bits")

    @property
    def missed(self) -> bool:
        """Whether the best so far misses the gate."""
        return self.best.misses(self.step.max_drop)

    @property
    def repairs(self) -> bool:
        """Whether a missed gate is climbed for."""
        return self.step.repair and self.step.scheme in (Scheme.INT8, Scheme.MIXED)

    def tell(self, line: str) -> None:
        """A line of progress, with the stage's name."""
        self.context.tell(f"{self.step.output}: {line}")

    def add(self, rung: Rung, over: Rung | None = None) -> Rung:
        """Take in a rung, and say how near it came and what it gained ``over`` the one that it started from."""
        rung = rung if over is None else rung.compared(over)
        self.tell(str(rung))
        self.rungs.append(rung)
        nearer = over is None or rung.kl < self.best.kl
        if nearer:
            self.best = rung
        if nearer and rung.name != MIXED:
            self.integers = rung
        return rung

    def look_closer(self) -> None:
        """Judge the best again on more pictures, if there are more; these judge what follows."""
        more = self.judge_of(MORE_JUDGES)
        if len(more) > len(self.judge):
            self.judge, known = more, self.best
            self.best = self.integers = more.again(known)
            self.rungs[self.rungs.index(known)] = self.best
            self.tell(f"{known.name}, on {len(more)} pictures: {self.best.standing}")

    def timed(self, name: str, make: Callable[[Rung], Graph]) -> None:
        """Make a rung of the best so far."""
        start, began = self.best, time.perf_counter()
        numbers = make(start)
        self.add(self.judge.rung(name, (numbers, start.changes), time.perf_counter() - began), start)


def _plain_and_repaired(ladder: Ladder) -> None:
    """The rungs that are always made, and what calibration says of itself."""
    ways = _ways(ladder.graph, ladder.pictures, ladder.step)
    for name, made in zip(("plain", "repaired"), ways, strict=False):
        rung = ladder.judge.rung(name, (made.graph, made.changes), sum(made.seconds.values()))
        ladder.add(rung, ladder.best if ladder.rungs else None)
    ladder.decided = ladder.best
    calibration = ways[-1].calibration
    if calibration is not None:
        ladder.figures["calibration_enough"] = calibration.enough
        if calibration.enough is None:
            ladder.tell(f"ranges still move with {calibration.pictures} pictures: more would tell more")


def _ways(graph: Graph, pictures: ptq.Pictures, step: QuantizeStep) -> tuple[ptq.Quantized, ...]:
    """Plain, and repaired where that is asked for and is something else."""
    if not SCHEMES[step.scheme].calibrated:
        return ptq.weights_only(graph, pictures, step.scheme, step.weight_group, repair=step.repair)
    method, more = step.calibration_method, {}
    if step.scheme is Scheme.INT16X8:
        method, more = "minmax" if method == "auto" else method, {"bits": whole(graph, 16)}  # no level is scarce
    if step.repair:
        return ptq.plain_and_repaired(graph, pictures, method, step.hard_swish, **more)
    return (ptq.plain(graph, pictures, method, step.hard_swish, **more),)


def _corrected(name: str, correct: Callable[[Graph, Graph, Pixels], Graph], count: int) -> Callable[[Ladder], None]:
    """A rung that corrects the best so far by what its float twin does on the first calibration pictures."""

    def make(ladder: Ladder, start: Rung) -> Graph:
        floating = start.floating(ladder.graph, ladder.step.hard_swish)
        return correct(floating, start.graph, ptq.first(ladder.pictures, count))

    def enter(ladder: Ladder) -> None:
        if ladder.repairs:
            ladder.timed(name, partial(make, ladder))

    return enter


def _mixed(ladder: Ladder) -> None:
    """Keep layers in more bits, where that may be, must be and is nearer; and its figures."""
    step, asked = ladder.step, ladder.step.scheme is Scheme.MIXED
    if not asked and (not ladder.repairs or step.integer_only):
        return
    ladder.look_closer()
    best = ladder.best
    if not ladder.missed:
        return
    if not asked and not best.surely_loses:
        ladder.tell("that anything is lost is not certain: no layer leaves int8 for it (--scheme mixed would)")
        return
    rung, figures = loosen(ladder.context, ladder.graph, ladder.decided, ladder.pictures, ladder.judge, step)
    if rung is None:
        ladder.tell("no layer regains anything within the budget (max_growth, max_float)")
    elif ladder.add(rung, best) is ladder.best:
        ladder.loosened = figures
        ladder.tell(told(figures))


HIGHER = (
    _corrected("re-estimated", reestimate.reestimated, reestimate.PICTURES),
    _corrected("reconstructed", adaround.reconstructed, adaround.PICTURES),
    _mixed,
)
"""Rungs that are entered only while the best so far misses the gate."""
