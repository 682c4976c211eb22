"""What is measured of each layer of an int8 network against its float one: noise, ranges, channels.

Everything is streamed over batches of pictures: sums, extremes and a histogram per tensor, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecnn.compress.observer import BINS, Observer, Range
from edgecnn.compress.ranges import percentile_range
from edgecnn.compress.simulate import Simulation, batches, walk
from edgecnn.errors import DataError
from edgecnn.graph.integer import INT8
from edgecnn.graph.interpret import Images
from edgecnn.graph.ir import SHARING, WEIGHTED, Graph, Node, Op

EXACT_DB = 200.0  # SQNR of equal tensors: finite, and more than float32 can reach
BULK = 99.8  # percent of the values between the ends of ``bulk``: 0.1 % lie beyond either
GATE = [0.0, 1.0]
UNLIMITED = (-math.inf, math.inf)


@dataclass(frozen=True)
class LayerFacts:
    """One layer: a node with its weights, if it has any, and the tensor it produces.

    SQNR in dB of its output, against the float network's: with its weights rounded (``weights_db``), its activation
    (``activation_db``) or both (``own_db``) on inputs that are exact; ``accumulated_db`` with everything rounded up to
    here. What no reader can tell apart (below -3 in front of a hard-swish) counts in none of them.

    Attributes:
        observed: smallest and largest value.
        bulk: the same without the outermost 0.1 % at either end.
        grid: the real values that -128 and 127 stand for.
        step: the distance of two levels.
        peaks: (C,) the largest magnitude of each channel.
        saturated: share of the values beyond the ends of the grid.
        bias_shift: root mean square over channels of the mean error that rounded weights and bias make, in standard
            deviations of the layer's output.
        bias_share: share of the noise of rounded weights and bias that these mean errors are.
        shifted_channel: the channel of the largest mean error in its own standard deviations, and that error.
        histogram: counts (2048,) of a sample of the values, and the width of a bin; the middle is 0.
    """

    node: Node
    weights_db: float | None
    activation_db: float
    own_db: float
    accumulated_db: float
    observed: Range
    bulk: Range
    grid: Range
    step: float
    peaks: NDArray[np.float64]
    saturated: float
    bias_shift: float
    bias_share: float
    shifted_channel: tuple[int, float]
    histogram: tuple[NDArray[np.int64], float]

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def dead(self) -> int:
        """How many channels are 0 on every picture."""
        return int((self.peaks == 0).sum())

    @property
    def peak_ratio(self) -> float:
        """The largest channel's peak over the median one's, dead channels left out; 1 where there are none."""
        alive = self.peaks[self.peaks > 0]
        return float(alive.max() / np.median(alive)) if len(alive) else 1.0

    @property
    def peaked(self) -> int:
        """How many channels reach a quarter of the largest peak."""
        return int((self.peaks > self.peaks.max() / 4).sum())

    @property
    def tail(self) -> float:
        """The observed range over the range of the bulk: how far few values stretch it."""
        return span(self.observed) / span(self.bulk) if span(self.bulk) else 1.0

    @property
    def excess(self) -> float:
        """How far values go beyond the grid, in its widths."""
        beyond = max(0.0, self.grid[0] - self.observed[0], self.observed[1] - self.grid[1])
        return beyond / span(self.grid)


class _Sums:
    """Running sums over one node's tensors."""

    def __init__(self, graph: Graph, node: Node, integer: Graph) -> None:
        self.node, self.grid, self.step = node, grid_of(integer, node.name), integer.qparams[node.name].scale
        self.reach = reach(graph, node)
        self.signal = 0.0
        self.noise = np.zeros(4)
        self.count = self.beyond = 0
        self.moments = np.zeros((3, node.shape[0]))  # of the values, of their squares, of the weights' error
        self.peaks = np.zeros(node.shape[0])
        self.observed = (math.inf, -math.inf)
        self.observer = Observer(histogram=True)

    def update(self, values: Tensor, others: Sequence[Tensor]) -> None:
        """``others``: weights rounded, activation rounded, both, everything so far."""
        values = self._limited(values)
        errors = [self._limited(other) - values for other in others]
        self.signal += _energy(values)
        self.noise += [_energy(error) for error in errors]
        planes, error = (each.reshape(*each.shape[:2], -1) for each in (values, errors[0]))  # (N, C, H * W)
        lengths = torch.linalg.vector_norm(planes, dim=2)
        self.moments += [_by_channel(planes), (lengths.double() ** 2).sum(0).numpy(), _by_channel(error)]
        self.peaks = np.maximum(self.peaks, planes.abs().amax((0, 2)).numpy())
        self.count += values.numel()
        self.beyond += int(((values < self.grid[0] - self.step / 2) | (values > self.grid[1] + self.step / 2)).sum())
        low, high = (float(end) for end in values.aminmax())
        if not math.isfinite(high - low):
            raise DataError(f"'{self.node.name}' holds inf or nan", hint="the float model itself is broken there")
        self.observed = min(self.observed[0], low), max(self.observed[1], high)
        self.observer.update(values)

    def _limited(self, values: Tensor) -> Tensor:
        return values if self.reach == UNLIMITED else values.clamp(*self.reach)

    def facts(self) -> LayerFacts:
        """The figures of everything seen."""
        weights, activation, own, accumulated = (_db(self.signal, noise) for noise in self.noise)
        assert self.observer.counts is not None
        each = self.count / len(self.peaks)
        mean, square, error = self.moments / each
        deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
        relative = np.divide(np.abs(error), deviation, out=np.zeros_like(error), where=deviation > 0)
        overall, common = math.sqrt(float((deviation**2).mean())), float((error**2).mean())
        low, high = percentile_range(self.observer.counts, self.observer.width, BULK)
        return LayerFacts(
            node=self.node,
            weights_db=weights if self.node.op in WEIGHTED else None,
            activation_db=activation,
            own_db=own,
            accumulated_db=accumulated,
            observed=self.observed,
            bulk=(max(low, self.observed[0]), min(high, self.observed[1])),
            grid=self.grid,
            step=self.step,
            peaks=self.peaks,
            saturated=self.beyond / self.count,
            bias_shift=math.sqrt(common) / overall if overall else 0.0,
            bias_share=common * self.count / self.noise[0] if self.noise[0] else 0.0,
            shifted_channel=(int(relative.argmax()), float(relative.max())),
            histogram=(self.observer.counts, self.observer.width),
        )


@torch.no_grad()
def measure(simulation: Simulation, images: Images) -> dict[str, LayerFacts]:
    """The facts of every node that has numbers of its own, in order, on pictures (N, H, W, C) uint8.

    Operators that only move values have their input's numbers and cost nothing. Raises ``DataError`` where the float
    network is not finite.
    """
    graph = simulation.real
    sums = {node.name: _Sums(graph, node, simulation.integer) for node in graph.nodes if node.op not in SHARING}
    for part in batches(images):

        def compute(node: Node, inputs: list[tuple[Tensor, Tensor]], part: Tensor = part) -> tuple[Tensor, Tensor]:
            exact, noisy = [pair[0] for pair in inputs], [pair[1] for pair in inputs]
            values = simulation.compute(node, exact, part, rounded=False)
            weighted = simulation.compute(node, exact, part, rounded=True) if node.op in WEIGHTED else values
            accumulated = simulation.round(node, simulation.compute(node, noisy, part, rounded=True), part)
            if node.name in sums:
                activation = simulation.round(node, values, part)
                own = activation if weighted is values else simulation.round(node, weighted, part)
                sums[node.name].update(values, [weighted, activation, own, accumulated])
            return values, accumulated

        walk(graph, compute)
    return {name: each.facts() for name, each in sums.items()}


def reach(graph: Graph, node: Node) -> Range:
    """Beyond which values its readers cannot tell a tensor's values apart.

    A hard-swish, often written as a gate ``clamp(x / 6 + 1/2, 0, 1)`` and a product, is 0 below -3; a gate alone, a
    hard-sigmoid, is 1 above 3 too.
    """
    readers = graph.consumers(node.name)
    gates = [reader for reader in readers if is_hard_gate(reader)]
    swish = [reader for reader in readers if hard_swish_gate(graph, reader) in (node, *gates)]
    if node.name == graph.output or not readers or len(gates) + len(swish) < len(readers):
        return UNLIMITED
    return -3.0, math.inf if swish else 3.0


def is_hard_gate(node: Node) -> bool:
    """Whether the node is ``clamp(x / 6 + 1/2, 0, 1)``."""
    if node.op is not Op.AFFINE or node.attrs["clamp"] != GATE:
        return False
    return bool(np.allclose([node.attrs["factor"], node.attrs["offset"]], [1 / 6, 0.5]))


def hard_swish_gate(graph: Graph, node: Node) -> Node | None:
    """Of a hard-swish the node that gates it: that of the same product, or what the whole operator reads."""
    if node.op is Op.HARD_SWISH:
        return graph.node(node.inputs[0])
    if node.op is not Op.MUL:
        return None
    for gate, value in (node.inputs, node.inputs[::-1]):
        if is_hard_gate(graph.node(gate)) and graph.node(gate).inputs == (value,):
            return graph.node(gate)
    return None


def grid_of(integer: Graph, name: str) -> Range:
    """The real values that -128 and 127 stand for in a tensor of an int8 graph."""
    qparams = integer.qparams[name]
    low, high = ((end - qparams.zero_point) * qparams.scale for end in INT8)
    return low, high


def span(ends: Range) -> float:
    """The width of a range."""
    return ends[1] - ends[0]


def bin_edges(width: float) -> NDArray[np.float64]:
    """The edges (2049,) of a histogram's bins."""
    return (np.arange(BINS + 1, dtype=np.float64) - BINS // 2) * np.float64(width)


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    """``10 log10(sum reference^2 / sum (reference - other)^2)`` in dB."""
    return _db(_energy(reference), _energy(reference - other))


def _energy(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2


def _by_channel(values: Tensor) -> NDArray[np.float64]:
    """Sums (C,) over everything but channels of (N, C, H * W)."""
    sums: NDArray[np.float64] = values.sum(2).double().sum(0).numpy()
    return sums


def _db(signal: float, noise: float) -> float:
    if noise == 0:
        return EXACT_DB
    return max(-EXACT_DB, min(EXACT_DB, 10 * math.log10(signal / noise))) if signal else -EXACT_DB
