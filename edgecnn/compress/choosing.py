"""Choose each tensor's range among candidates by the error that its readers make of it."""

from __future__ import annotations

from collections.abc import Mapping

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
            errors = [
                _error(values, on_grid(values, activation_qparams(*ends)), readers[name], weights) for ends in ranges
            ]
            ranges = [ranges[errors.index(min(errors))]]
        chosen[name] = ranges[0]

    GraphModule(graph).evaluate(torch.from_numpy(pictures), see)
    return chosen


def _error(values: Tensor, rounded: Tensor, readers: list[Node], weights: Mapping[str, Tensor]) -> float:
    difference = rounded - values
    return sum((_share(node, difference, values, weights) for node in readers), 0.0) or _ratio(difference, values)


def _share(node: Node, difference: Tensor, values: Tensor, weights: Mapping[str, Tensor]) -> float:
    weight = weights.get(f"{node.name}.weight")
    if weight is None:
        return _ratio(difference, values)
    changed, whole = (
        real.convolve(node, x, weight, None) if node.op is Op.CONV else F.linear(x, weight)
        for x in (difference, values)
    )
    return _ratio(changed, whole)


def _ratio(difference: Tensor, values: Tensor) -> float:
    return float((difference**2).sum() / values.double().pow(2).sum().clamp_min(torch.finfo(torch.float32).tiny))
