"""Choose each tensor's range among candidates by the error that its readers make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgecnn.compress.observer import Range
from edgecnn.compress.quantize import activation_qparams
from edgecnn.graph import real
from edgecnn.graph.integer import on_grid
from edgecnn.graph.interpret import GraphModule
from edgecnn.graph.ir import Graph, Node, Op


def choose(
    graph: Graph, candidates: Mapping[str, Mapping[str, Range]], pictures: NDArray[np.uint8]
) -> dict[str, Range]:
    """For every tensor the candidate with the least output error on ``pictures`` (N, H, W, C) uint8.

    The error of a range is what it changes in the linear part of each reader, ``|W (q(x) - x)|^2 / |W x|^2``, summed
    over the readers; where a reader has no weights, or there is none, ``|q(x) - x|^2 / |x|^2``. Equal ranges are tried
    once, and the first of equals wins.
    """
    weights = {key: torch.from_numpy(array) for key, array in graph.weights.items()}
    readers = {node.name: graph.consumers(node.name) for node in graph.nodes}
    chosen: dict[str, Range] = {}

    def see(name: str, values: Tensor) -> None:
        ranges = list(dict.fromkeys(candidates[name].values()))
        if len(ranges) > 1:
            linear = [_linear(node, weights) for node in readers[name]] or [_itself]
            sizes = [_energy(function(values)) for function in linear]
            errors = []
            for ends in ranges:
                lost = on_grid(values, activation_qparams(*ends)).sub_(values)
                errors.append(sum(_energy(f(lost)) / size for f, size in zip(linear, sizes, strict=True)))
            ranges = [ranges[errors.index(min(errors))]]
        chosen[name] = ranges[0]

    GraphModule(graph).evaluate(torch.from_numpy(pictures), see)
    return chosen


def _linear(node: Node, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """The linear part of a reader: its weights without bias and clamp, or nothing."""
    weight = weights.get(f"{node.name}.weight")
    if weight is None:
        return _itself
    return lambda x: real.convolve(node, x, weight, None) if node.op is Op.CONV else F.linear(x, weight)


def _itself(values: Tensor) -> Tensor:
    return values


def _energy(values: Tensor) -> float:
    return max(float(values.square().sum()), torch.finfo(torch.float32).tiny)
