"""Post-training quantization: from a float graph and pictures to int8 numbers, each stage timed.

Two passes over the pictures: the first sees the channels' ranges, from which they are equalized; the second sees the
ranges of the equalized tensors and what the layers' weights meet, from which the weights are rounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from edgecnn.compress.calibrate import Calibration, Pixels, channel_ranges, measured
from edgecnn.compress.equalize import Change, equalize, rewrite
from edgecnn.compress.quantize import Gating, quantize
from edgecnn.compress.ranges import Method
from edgecnn.compress.rounding import InputMoments, rounded
from edgecnn.graph.ir import Graph

Pictures = Callable[[], Iterable[Pixels]]
"""Gives the calibration pictures in batches (N, H, W, C) uint8, from the start each time it is called."""


@dataclass(frozen=True)
class Quantized:
    """What came out.

    ``graph``: the int8 numbers. ``changes``: how the float graph's tensors were rewritten before (none for plain
    quantization). ``calibration``: the ranges, and how many pictures were enough. ``seconds`` by stage.
    """

    graph: Graph
    changes: dict[str, Change]
    calibration: Calibration
    seconds: dict[str, float] = field(default_factory=dict)


def plain(graph: Graph, pictures: Pictures, method: Method = "minmax", hard_swish: Gating = "decompose") -> Quantized:
    """Ranges as observed, weights to nearest. Raises as ``calibrate`` and ``quantize``."""
    watch = _Stopwatch()
    calibration = measured(graph, pictures(), method)
    watch.lap("calibrate")
    numbers = quantize(graph, calibration.ranges, hard_swish=hard_swish)
    watch.lap("quantize")
    return Quantized(numbers, {}, calibration, watch.seconds)


def plain_and_repaired(
    graph: Graph, pictures: Pictures, method: Method = "auto", hard_swish: Gating = "decompose"
) -> tuple[Quantized, Quantized]:
    """Two ways at the cost of the second.

    Repaired: channels equalized (:mod:`~edgecnn.compress.equalize`), weights rounded by second order
    (:mod:`~edgecnn.compress.rounding`). Plain, to compare with: minimum and maximum of what the first pass looked at.
    Raises as ``plain``.
    """
    watch = _Stopwatch()
    seen = channel_ranges(graph, pictures())
    ranges = {name: (float(each.low.min()), float(each.high.max())) for name, each in seen.items()}
    untouched = quantize(graph, ranges, hard_swish=hard_swish)
    watch.lap("first pass")
    first = dict(watch.seconds)
    changes = equalize(graph, seen)
    graph = rewrite(graph, changes)
    moments = InputMoments(graph)
    calibration = measured(graph, pictures(), method, moments.see)
    watch.lap("second pass")
    numbers = quantize(graph, calibration.ranges, hard_swish=hard_swish)
    numbers = rounded(graph, numbers, moments.matrices())
    watch.lap("round")
    compared = Quantized(untouched, {}, Calibration(ranges, calibration.pictures, None), first)
    return compared, Quantized(numbers, changes, calibration, watch.seconds)


class _Stopwatch:
    """Seconds from lap to lap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now
