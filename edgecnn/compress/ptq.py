"""Post-training quantization: from a float graph and pictures to numbers of fewer bits, each stage timed.

Two passes over the pictures: the first sees the channels' ranges, from which they are equalized; the second sees the
ranges of the equalized tensors and what the layers' weights meet, from which the weights are rounded. Where only
weights are stored in fewer bits, one pass sees what they meet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from edgecnn.compress.bits import ALL_8, Bits
from edgecnn.compress.calibrate import Calibration, Pixels, channel_ranges, measured, watch
from edgecnn.compress.equalize import Change, equalize, rewrite
from edgecnn.compress.quantize import Gating, quantize
from edgecnn.compress.ranges import Method
from edgecnn.compress.rounding import InputMoments, rounded
from edgecnn.compress.weight_only import narrowed
from edgecnn.graph.ir import Graph
from edgecnn.spec import Scheme

Pictures = Callable[[], Iterable[Pixels]]
"""Gives the calibration pictures in batches (N, H, W, C) uint8, from the start each time it is called."""


@dataclass(frozen=True)
class Quantized:
    """What came out.

    ``graph``: the numbers. ``changes``: how the float graph's tensors were rewritten before (none for plain
    quantization). ``calibration``: the ranges, and how many pictures were enough; ``None`` where activations have no
    ranges. ``seconds`` by stage.
    """

    graph: Graph
    changes: dict[str, Change]
    calibration: Calibration | None
    seconds: dict[str, float] = field(default_factory=dict)


def plain(
    graph: Graph,
    pictures: Pictures,
    method: Method = "minmax",
    hard_swish: Gating = "decompose",
    bits: Bits = ALL_8,
) -> Quantized:
    """Ranges as observed, weights to nearest; ``bits``: of what is not int8. Raises as ``calibrate``, ``quantize``."""
    clock = _Stopwatch()
    calibration = measured(graph, pictures(), method)
    clock.lap("calibrate")
    numbers = quantize(graph, calibration.ranges, hard_swish=hard_swish, bits=bits)
    clock.lap("quantize")
    return Quantized(numbers, {}, calibration, clock.seconds)


def plain_and_repaired(
    graph: Graph,
    pictures: Pictures,
    method: Method = "auto",
    hard_swish: Gating = "decompose",
    bits: Bits = ALL_8,
) -> tuple[Quantized, Quantized]:
    """Two ways at the cost of the second.

    Repaired: channels equalized (:mod:`~edgecnn.compress.equalize`), weights rounded by second order
    (:mod:`~edgecnn.compress.rounding`). Plain, to compare with: minimum and maximum of what the first pass looked at.
    Raises as ``plain``.
    """
    clock = _Stopwatch()
    seen = channel_ranges(graph, pictures())
    ranges = {name: (float(each.low.min()), float(each.high.max())) for name, each in seen.items()}
    untouched = quantize(graph, ranges, hard_swish=hard_swish, bits=bits)
    clock.lap("first pass")
    first = dict(clock.seconds)
    changes = equalize(graph, seen)
    graph = rewrite(graph, changes)
    moments = InputMoments(graph)
    calibration = measured(graph, pictures(), method, moments.see)
    clock.lap("second pass")
    numbers = quantize(graph, calibration.ranges, hard_swish=hard_swish, bits=bits)
    numbers = rounded(graph, numbers, moments.matrices())
    clock.lap("round")
    compared = Quantized(untouched, {}, Calibration(ranges, calibration.pictures, None), first)
    return compared, Quantized(numbers, changes, calibration, clock.seconds)


def weights_only(
    graph: Graph, pictures: Pictures, scheme: Scheme, group: int = 0, *, repair: bool = True
) -> tuple[Quantized, ...]:
    """Weights in fewer bits: plain, and, where that is more than float16's rounding, repaired.

    Repaired: rounded by second order (:mod:`~edgecnn.compress.rounding`). Raises as ``weight_only.narrowed``.
    """
    clock = _Stopwatch()
    numbers = narrowed(graph, scheme, group)
    clock.lap("round")
    plain = Quantized(numbers, {}, None, dict(clock.seconds))
    if not repair or scheme is Scheme.FP16:
        return (plain,)
    moments = InputMoments(graph)
    watch(graph, pictures(), moments.see)
    clock.lap("pass")
    numbers = rounded(graph, numbers, moments.matrices())
    clock.lap("round again")
    return plain, Quantized(numbers, {}, None, clock.seconds)


def first(pictures: Pictures, count: int) -> Pixels:
    """The first ``count`` calibration pictures (N, H, W, C) uint8, or all if there are fewer."""
    found: list[Pixels] = []
    for batch in pictures():
        found.append(batch[: count - sum(map(len, found))])
        if sum(map(len, found)) >= count:
            break
    return np.concatenate(found)


class _Stopwatch:
    """Seconds from lap to lap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now
