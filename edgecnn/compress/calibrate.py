"""Which range of real values each tensor of a float graph takes on calibration pictures.

Everything is streamed: minimum, maximum and 2,048 counts per tensor, however many pictures there are. The result does
not depend on how the pictures are batched, nor (but for the moving average) on their order: bin edges are whole
multiples of a power of two, so widening a histogram merges pairs of bins exactly, and it ends in the same bins
whichever picture came first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecnn.compress.choosing import choose
from edgecnn.compress.observer import ChannelObserver, ChannelRange, Observer, Range
from edgecnn.compress.ranges import CANDIDATES, METHODS, Method, range_of
from edgecnn.errors import DataError, UsageError
from edgecnn.graph.interpret import GraphModule, Observe
from edgecnn.graph.ir import Graph
from edgecnn.train.allocator import keep_freed_memory

Pixels = NDArray[np.uint8]
MICRO_BATCH = 16  # pictures per pass: bounds memory, changes nothing else
JUDGES = 16  # pictures on which ``auto`` tries the candidates
MOVED = 0.05  # a range that another doubling of the pictures would move by less is settled


@dataclass(frozen=True)
class Calibration:
    """Ranges (low, high) by tensor, and how many pictures it took.

    ``enough``: with so many of the pictures, the first ones, 19 of 20 ranges were within ``MOVED`` of the final ones;
    ``None``: they still moved between half of the pictures and all.
    """

    ranges: dict[str, Range]
    pictures: int
    enough: int | None


def watch(graph: Graph, batches: Iterable[Pixels], *observers: Observe) -> int:
    """Run the float ``graph`` over batches of pictures (N, H, W, C) uint8, every tensor seen by every observer.

    Returns the number of pictures. Raises ``DataError`` without any, ``UsageError`` for a quantized graph.
    """
    if graph.quantized:
        raise UsageError("the graph is already quantized", hint="calibrate the float graph")
    keep_freed_memory()  # a third of the time goes into mapping activations anew otherwise
    module, count = GraphModule(graph), 0

    def see(name: str, values: Tensor) -> None:
        for observe in observers:
            observe(name, values)

    for batch in batches:
        for part in torch.split(torch.from_numpy(np.ascontiguousarray(batch)), MICRO_BATCH):
            module.evaluate(part, see)
            count += len(part)
    if not count:
        raise DataError("no calibration pictures were given", hint="calibrate with at least one batch")
    return count


def channel_ranges(graph: Graph, batches: Iterable[Pixels]) -> dict[str, ChannelRange]:
    """Each channel's ends and mean of every tensor of the float ``graph``. Raises as ``watch``."""
    observers = {node.name: ChannelObserver() for node in graph.nodes}
    watch(graph, batches, lambda name, values: observers[name].update(values))
    return {name: observer.range() for name, observer in observers.items()}


def calibrate(graph: Graph, batches: Iterable[Pixels], method: Method = "minmax") -> dict[str, Range]:
    """Range (low, high) of every tensor of the float ``graph`` over batches of pictures (N, H, W, C) uint8.

    Methods:
        minmax: the smallest and the largest value seen.
        moving_average: of each picture's own ends; it depends on the pictures' order and forgets the first ones.
        percentile: without the outermost 0.001 % of the values.
        entropy: the 8-bit distribution nearest to the values' own (``ranges.entropy_range``).
        mse: the range with the smallest squared error of int8 quantization on the values seen.
        auto: of these (without the moving average) the one with the least error in what reads the tensor.

    Raises:
        DataError: no pictures, or values that are not finite (named).
        UsageError: an unknown method, or a graph that is already quantized.
    """
    return measured(graph, batches, method).ranges


def measured(graph: Graph, batches: Iterable[Pixels], method: Method, *more: Observe) -> Calibration:
    """As ``calibrate``, with how many pictures were enough; ``more`` observers see the same pass."""
    if method not in METHODS:
        raise UsageError(f"unknown calibration method '{method}'", hint=f"choose one of: {', '.join(METHODS)}")
    histogram, average = method not in ("minmax", "moving_average"), method == "moving_average"
    observers = {node.name: Observer(histogram=histogram, average=average) for node in graph.nodes}
    settling = "mse" if method == "auto" else method
    judges: list[Pixels] = []
    history: list[tuple[int, dict[str, Range]]] = []

    def observe(name: str, values: Tensor) -> None:
        try:
            observers[name].update(values)
        except DataError as error:
            raise DataError(f"'{name}': {error.message}", hint=error.hint) from error

    def passing(batches: Iterable[Pixels]) -> Iterable[Pixels]:
        """The batches, looking at the ranges each time the number of pictures has doubled."""
        count = 0
        for batch in batches:
            yield batch
            count += len(batch)
            judges.extend(batch[: JUDGES - len(judges)])
            if count >= 2 * (history[-1][0] if history else MICRO_BATCH // 2):
                history.append((count, {name: range_of(each, settling) for name, each in observers.items()}))

    count = watch(graph, passing(batches), observe, *more)
    if method == "auto":
        candidates = {name: {m: range_of(each, m) for m in CANDIDATES} for name, each in observers.items()}
        ranges, final = choose(graph, candidates, np.stack(judges)), {n: c["mse"] for n, c in candidates.items()}
    else:
        ranges = final = {name: range_of(each, method) for name, each in observers.items()}
    return Calibration(ranges, count, _enough([*history, (count, final)]))


def _enough(history: Sequence[tuple[int, dict[str, Range]]]) -> int | None:
    """The first number of pictures from which on the ranges stayed, ``None`` if only the last has them."""
    count, final = history[-1]
    settled = None
    for pictures, ranges in reversed([entry for entry in history if entry[0] < count]):
        widths = np.array([[high - low for low, high in each.values()] for each in (ranges, final)])
        moved = np.abs(widths[0] - widths[1]) / np.maximum(widths[1], np.finfo(np.float32).tiny)
        if np.percentile(moved, 95) > MOVED:
            break
        settled = pictures
    return settled
