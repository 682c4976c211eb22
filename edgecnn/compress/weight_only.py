"""Store weights in fewer bits and compute in real numbers: int8, 4 bits in groups, float16.

Nothing is calibrated. Activations stay float32 or, with ``dynamic``, are quantized while the network runs
(:func:`edgecnn.graph.real.quantized_while_running`). Biases stay real, which costs one number per output channel.

* **int8**: symmetric per output channel in [-127, 127], as in the int8 network.
* **4 bits**: symmetric in [-7, 7], one scale for ``group`` neighbouring weights of a row, since 15 levels do not span a
  whole row well (Dettmers and Zettlemoyer 2022, arXiv 2212.09720, on the size of blocks). Groups are equal: a row is
  cut into the fewest of at most ``group`` weights. Grouped and depthwise convolutions, and rows of less than 32 weights
  (the first layer), keep 8 bits: they hold few weights, and a scale costs as much as eight of them.
* **float16**: weights and biases to the nearest; beyond the largest, 65504, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgecnn.compress.quantize import WEIGHT_MAX
from edgecnn.errors import ModelError, UsageError
from edgecnn.graph.ir import WEIGHTED, Array, Graph, Node
from edgecnn.graph.weights import INT4_MAX
from edgecnn.spec import Scheme

SHORTEST = 8  # weights of a group: below, the whole row is one
ROW_WITH_SCALE = 32  # weights: a shorter row keeps 8 bits


def narrowed(graph: Graph, scheme: Scheme, group: int = 0) -> Graph:
    """The float ``graph`` with its weights stored as ``scheme`` says, each rounded to the nearest.

    Args:
        graph: from ``capture``; not changed.
        scheme: one that leaves activations real, or quantizes them while the network runs.
        group: of 4-bit weights at most so many share a scale; 0: a whole row.

    Raises ``UsageError`` for a quantized graph or another scheme, ``ModelError`` for weights that float16 cannot hold.
    """
    if graph.quantized or graph.weight_scales:
        raise UsageError("the graph is already quantized", hint="start from the float graph")
    if scheme is Scheme.FP16:
        return replace(graph, weights={key: _half(key, array) for key, array in graph.weights.items()})
    if scheme not in _LAYERS:
        raise UsageError(f"{scheme} is not a scheme of weights only", hint=f"choose one of: {', '.join(_LAYERS)}, fp16")
    weights, scales = dict(graph.weights), {}
    for node in graph.nodes:
        if node.op in WEIGHTED:
            key = f"{node.name}.weight"
            weights[key], scales[node.name] = _LAYERS[scheme](node, weights[key], group)
    nodes = graph.nodes
    if scheme is Scheme.INT8_DYNAMIC:
        nodes = tuple(replace(n, attrs=n.attrs | {"dynamic": True}) if n.op in WEIGHTED else n for n in nodes)
    return replace(graph, nodes=nodes, weights=weights, weight_scales=scales)


def nearest(weight: Array, groups: int | None, largest: int) -> tuple[Array, Array]:
    """Symmetric integers in [-largest, largest] and their scales: (O,), or (O, ``groups``) of neighbours in a row.

    ``scale = max |w| / largest`` (Krishnamoorthi 2018, arXiv 1806.08342, section 2.2).
    """
    rows = weight.astype(np.float64).reshape(len(weight), groups or 1, -1)
    scale = (np.abs(rows).max(2) / largest).astype(np.float32)
    scale = np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1))  # of nothing but zeros
    steps = np.rint(rows / scale.astype(np.float64)[..., None])
    integers = np.clip(steps, -largest, largest).astype(np.int8).reshape(weight.shape)
    return integers, scale if groups else scale[:, 0]


def group_count(row: int, group: int) -> int:
    """The fewest equal groups of at most ``group`` weights in a row; one where these would be too short, or for 0."""
    if group == 0:
        return 1
    counts = (count for count in range(-(-row // group), row + 1) if row % count == 0)
    count = next(counts)
    return count if row // count >= min(SHORTEST, group) else 1


def _half(key: str, array: Array) -> Array:
    largest = float(np.abs(array).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        raise ModelError(f"'{key}' holds {largest:.3g}, beyond float16's 65504", hint="take int8-weights")
    return array.astype(np.float16)


def _int8(node: Node, weight: Array, group: int) -> tuple[Array, Array]:
    return nearest(weight, None, WEIGHT_MAX)


def _int4(node: Node, weight: Array, group: int) -> tuple[Array, Array]:
    row = weight[0].size
    if node.attrs.get("groups", 1) > 1 or row < ROW_WITH_SCALE:
        return _int8(node, weight, group)
    return nearest(weight, group_count(row, group), INT4_MAX)


_LAYERS: dict[Scheme, Callable[[Node, Array, int], tuple[Array, Array]]] = {
    Scheme.INT8_WEIGHTS: _int8,
    Scheme.INT8_DYNAMIC: _int8,
    Scheme.INT4_WEIGHTS: _int4,
}
