"""Which channels of which tensors can only be rescaled together, and which not at all.

Between two layers with weights a channel may be rescaled as long as every operator on the way passes the factor on:
additions tie channel to channel, concatenations, slices and shuffles hand channels on to other places, an activation
lets positive factors through, and everything else fixes what it reads and writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from edgecnn.graph.ir import SHARING, WEIGHTED, Graph, Node, Op
from edgecnn.graph.ties import Ties

MOVING = (Op.CONCAT, *SHARING)  # values stay what they are
SHIFTABLE = {Op.ADD, Op.MEAN, Op.FLATTEN, Op.AVG_POOL, Op.CONCAT, Op.SLICE, Op.SHUFFLE}  # commute with a shift too
SCALABLE = SHIFTABLE | {Op.CLAMP, Op.MAX_POOL, Op.PAD}  # commute with a positive factor

Vector = NDArray[Any]


@dataclass(frozen=True)
class ChannelTies:
    """Classes of channels that share one factor, numbered from 0.

    ``of``: by tensor, the class of each channel (C,). By class: ``fixed``: no factor but 1; ``shiftable``: may be
    shifted too; ``top``: the least upper end of a clamp on the way, ``inf`` without one.
    """

    of: dict[str, NDArray[np.int64]]
    fixed: NDArray[np.bool_]
    shiftable: NDArray[np.bool_]
    top: NDArray[np.float64]


def channel_ties(graph: Graph) -> ChannelTies:
    """The classes of the float ``graph``."""
    of, count = _classes(graph)
    fixed, shiftable, top = np.zeros(count, bool), np.ones(count, bool), np.full(count, np.inf)
    for name in (graph.input.name, graph.output):
        fixed[of[name]] = True
    for node in graph.nodes[1:]:
        written, read = of[node.name], node.inputs
        low, high = node.attrs.get("clamp") or (None, None)
        if (low, high) != (None, None):
            shiftable[written] = False
            fixed[written] |= low != 0 or high == 1  # [0, 1] is a gate, whose numbers are known
            top[written] = np.minimum(top[written], np.inf if high is None else high)
        if node.op in WEIGHTED:
            shiftable[of[read[0]]] &= not any(node.attrs.get("padding", ()))
        elif passes_on(graph, node):
            shiftable[written] &= node.op in SHIFTABLE
        elif _is_gated(graph, node):
            shiftable[written] = False
            fixed[of[read[1]]] = True
        else:
            for name in (node.name, *read):
                fixed[of[name]] = True
    return ChannelTies(of, fixed, shiftable & ~fixed, top)


def sharing_numbers(graph: Graph) -> list[tuple[str, ...]]:
    """Groups of tensors which hold the same values in other places, so that one scale serves them all."""
    ties = Ties(graph)
    for node in graph.nodes:
        if node.op in MOVING:
            ties.join(node.name, node.inputs)
    return ties.groups()


def passes_on(graph: Graph, node: Node) -> bool:
    """Whether a factor on the channels of what ``node`` reads becomes one on the channels that it writes.

    Not so where a map is flattened: its elements are no channels any more.
    """
    flat = node.op is Op.FLATTEN and graph.node(node.inputs[0]).shape[1:] != (1, 1)
    return node.op in SCALABLE and not flat


def handed_on(graph: Graph, node: Node, vectors: Mapping[str, Vector]) -> list[Vector]:
    """For each input of a node that passes factors on: its vector (C,) where its channels go, one element per channel
    of the output.
    """
    sources = [vectors[name] for name in node.inputs]
    if node.op is Op.CONCAT:
        return [np.concatenate(sources)]
    if node.op is Op.SLICE:
        return [sources[0][node.attrs["start"] : node.attrs["stop"]]]
    if node.op is Op.SHUFFLE:
        return [sources[0].reshape(node.attrs["groups"], -1).T.reshape(-1)]
    return sources


def _classes(graph: Graph) -> tuple[dict[str, NDArray[np.int64]], int]:
    """The class of each channel of each tensor, and how many classes there are."""
    ends = np.cumsum([0, *(node.shape[0] for node in graph.nodes)])
    numbers = {node.name: np.arange(*ends[at : at + 2]) for at, node in enumerate(graph.nodes)}
    pairs = []
    for node in graph.nodes[1:]:
        tied = handed_on(graph, node, numbers) if passes_on(graph, node) else []
        tied += [numbers[node.inputs[0]]] if _is_gated(graph, node) else []
        pairs += [np.stack([numbers[node.name], each]) for each in tied]
    rows, columns = np.concatenate([np.empty((2, 0), np.int64), *pairs], 1)
    edges = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(ends[-1], ends[-1]))
    count, labels = connected_components(edges, directed=False)
    return {name: labels[places].astype(np.int64) for name, places in numbers.items()}, int(count)


def _is_gated(graph: Graph, node: Node) -> bool:
    """Whether the node multiplies its first input by a gate: squeeze-and-excite's one number per channel, or a
    hard-swish's, which is a map.
    """
    return node.op is Op.MUL and len(graph.node(node.inputs[0]).shape) == 3
