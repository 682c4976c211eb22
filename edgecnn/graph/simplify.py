"""Passes over the IR, each a function Graph -> Graph that leaves the computed function as it is.

``simplify`` runs those that every graph gets. ``decompose_*`` are for the quantizer: they rewrite what has no fast
integer kernel into two operators which all formats compute alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgecnn.errors import ModelError
from edgecnn.graph.ir import WEIGHTED, Array, Graph, Node, Op

CLAMPING = (Op.CONV, Op.LINEAR, Op.ADD, Op.AFFINE)


def simplify(graph: Graph) -> Graph:
    """Fold padding, batch normalization and activations into the operators before them, then drop what nobody reads."""
    passes: tuple[Callable[[Graph], Graph], ...] = (
        merge_padding,
        fold_scale_shift,
        recognise_hard_sigmoid,
        recognise_gated,
        fold_hard_sigmoid,
        fuse_clamp,
        drop_unused,
    )
    for one in passes:
        graph = one(graph)
    _check_leftovers(graph)
    return graph


def merge_padding(graph: Graph) -> Graph:
    """A convolution that reads zero padding pads itself."""
    pads = {node.name: node for node in graph.nodes if node.op is Op.PAD}
    nodes = []
    for node in graph.nodes:
        if node.op is Op.CONV and node.inputs[0] in pads:
            pad = pads[node.inputs[0]]
            padding = [a + b for a, b in zip(node.attrs["padding"], pad.attrs["padding"], strict=True)]
            node = replace(node, inputs=pad.inputs, attrs={**node.attrs, "padding": padding})
        nodes.append(node)
    return drop_unused(graph.with_nodes(tuple(nodes)))


def fold_scale_shift(graph: Graph) -> Graph:
    """A per-channel scale and shift (batch normalization) goes into the weights of the convolution or linear layer
    before it.

    Jacob et al. 2018 (arXiv 1712.05877), section 3.2: w' = gamma w / sqrt(var + eps), b' = gamma (b - mean) / ... +
    beta. Computed in float64.
    """
    return _rewrite(graph, Op.CONV, _fold_scale_shift)


def _fold_scale_shift(graph: Graph, node: Node) -> Graph:
    producer = _sole_producer(graph, node, WEIGHTED) if is_scale_shift(graph, node) else None
    if producer is None or producer.attrs["clamp"] is not None:
        return graph
    scale, shift = graph.weights[f"{node.name}.weight"].reshape(-1), graph.weights[f"{node.name}.bias"]
    graph = _rescale(graph, producer.name, scale, shift)
    return _absorb(graph, node, replace(producer, attrs={**producer.attrs, "clamp": node.attrs["clamp"]}))


def is_scale_shift(graph: Graph, node: Node) -> bool:
    """Whether the node computes ``scale[c] * x[c] + shift[c]`` and nothing else."""
    if node.op is not Op.CONV:
        return False
    weight, attrs = graph.weights[f"{node.name}.weight"], node.attrs
    plain = attrs["stride"] == [1, 1] and not any(attrs["padding"])
    return plain and weight.shape[1:] == (1, 1, 1) and attrs["groups"] == len(weight)


def recognise_hard_sigmoid(graph: Graph) -> Graph:
    """``clamp(x + 3, 0, 6) / 6`` written out by hand is HARD_SIGMOID."""
    return _rewrite(graph, Op.AFFINE, _recognise_hard_sigmoid)


def _recognise_hard_sigmoid(graph: Graph, node: Node) -> Graph:
    middle = _sole_producer(graph, node, (Op.CLAMP,))
    first = _sole_producer(graph, middle, (Op.AFFINE,)) if middle else None
    if middle is None or first is None or middle.attrs["clamp"] != [0.0, 6.0]:
        return graph
    if not _is_affine(first, 1.0, 3.0) or not _is_affine(node, 1 / 6, 0.0):
        return graph
    return drop_unused(_swap(graph, Node(node.name, Op.HARD_SIGMOID, first.inputs, node.shape)))


def recognise_gated(graph: Graph) -> Graph:
    """``x * hard_sigmoid(x)`` is HARD_SWISH and ``x * sigmoid(x)`` is SILU."""
    return _rewrite(graph, Op.MUL, _recognise_gated)


def _recognise_gated(graph: Graph, node: Node) -> Graph:
    fused = {Op.HARD_SIGMOID: Op.HARD_SWISH, Op.SIGMOID: Op.SILU}
    for main, gate in (node.inputs, node.inputs[::-1]):
        source = graph.node(gate)
        if source.op in fused and source.inputs == (main,) and _sole_reader(graph, gate):
            return drop_unused(_swap(graph, Node(node.name, fused[source.op], (main,), node.shape)))
    return graph


def fold_hard_sigmoid(graph: Graph) -> Graph:
    """A hard-sigmoid after a convolution or linear layer: 1/6 and 1/2 go into its weights, and it clamps to (0, 1)."""
    return _rewrite(graph, Op.HARD_SIGMOID, _fold_hard_sigmoid)


def _fold_hard_sigmoid(graph: Graph, node: Node) -> Graph:
    producer = _sole_producer(graph, node, WEIGHTED)
    if producer is None or producer.attrs["clamp"] is not None:
        return graph
    outputs = len(graph.weights[f"{producer.name}.bias"])
    graph = _rescale(graph, producer.name, np.full(outputs, 1 / 6), np.full(outputs, 0.5))
    return _absorb(graph, node, replace(producer, attrs={**producer.attrs, "clamp": [0.0, 1.0]}))


def fuse_clamp(graph: Graph) -> Graph:
    """A clamp (relu, relu6, ...) whose input nobody else reads becomes part of the operator before it."""
    return _rewrite(graph, Op.CLAMP, _fuse_clamp)


def _fuse_clamp(graph: Graph, node: Node) -> Graph:
    producer = _sole_producer(graph, node, CLAMPING)
    clamp = None if producer is None else intersect(producer.attrs["clamp"], node.attrs["clamp"])
    if producer is None or clamp is None:
        return graph
    return _absorb(graph, node, replace(producer, attrs={**producer.attrs, "clamp": clamp}))


def drop_unused(graph: Graph) -> Graph:
    """Without the nodes (and weights) that the output does not depend on."""
    needed = {graph.output, graph.input.name}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    nodes = tuple(node for node in graph.nodes if node.name in needed)
    weights = {key: array for key, array in graph.weights.items() if key.rpartition(".")[0] in needed}
    return graph.with_nodes(nodes, weights=weights)


def decompose_hard_swish(graph: Graph) -> Graph:
    """HARD_SWISH as ``gate = clamp(x / 6 + 1/2, 0, 1)`` (AFFINE, named ``<name>.gate``) and ``x * gate`` (MUL)."""
    return _decompose_gated(graph, Op.HARD_SWISH, hard_gate)


def decompose_silu(graph: Graph) -> Graph:
    """SILU as ``gate = sigmoid(x)`` (named ``<name>.gate``) and ``x * gate`` (MUL)."""
    return _decompose_gated(graph, Op.SILU, lambda name, source, shape: Node(name, Op.SIGMOID, (source,), shape))


def decompose_hard_sigmoid(graph: Graph) -> Graph:
    """HARD_SIGMOID as AFFINE. This one, and those below, leave nodes alone that are to compute in float."""

    def decomposed(node: Node) -> Node:
        if node.op is not Op.HARD_SIGMOID or node.bits == 32:
            return node
        return replace(hard_gate(node.name, node.inputs[0], node.shape), bits=node.bits)

    return graph.with_nodes(tuple(map(decomposed, graph.nodes)))


def hard_gate(name: str, source: str, shape: tuple[int, ...]) -> Node:
    """``clamp(x / 6 + 1/2, 0, 1)`` as a node."""
    return Node(name, Op.AFFINE, (source,), shape, {"factor": 1 / 6, "offset": 0.5, "clamp": [0.0, 1.0]})


def intersect(one: list[Any] | None, other: list[Any] | None) -> list[Any] | None:
    """The clamp that does what two clamps in a row do; ``None`` when it is no single clamp (disjoint intervals)."""
    if one is None or other is None:
        return other if one is None else one
    low = max((end for end in (one[0], other[0]) if end is not None), default=None)
    high = min((end for end in (one[1], other[1]) if end is not None), default=None)
    return None if low is not None and high is not None and low > high else [low, high]


def _decompose_gated(graph: Graph, op: Op, gate: Callable[[str, str, tuple[int, ...]], Node]) -> Graph:
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op is not op or node.bits == 32:
            nodes.append(node)
            continue
        name = f"{node.name}.gate"
        nodes.append(replace(gate(name, node.inputs[0], node.shape), bits=node.bits))
        nodes.append(Node(node.name, Op.MUL, (node.inputs[0], name), node.shape, bits=node.bits))
    return graph.with_nodes(tuple(nodes))


def _rewrite(graph: Graph, op: Op, step: Callable[[Graph, Node], Graph]) -> Graph:
    """``step`` on every node of kind ``op``, in order, each as it is after the steps before."""
    for name in [node.name for node in graph.nodes if node.op is op]:
        node = graph.by_name.get(name)
        if node is not None:
            graph = step(graph, node)
    return graph


def _sole_reader(graph: Graph, name: str) -> bool:
    return name != graph.output and sum(reader.inputs.count(name) for reader in graph.consumers(name)) == 1


def _sole_producer(graph: Graph, node: Node, ops: tuple[Op, ...]) -> Node | None:
    """The node before ``node`` if it is one of ``ops`` and nobody else reads it."""
    producer = graph.by_name.get(node.inputs[0])
    if producer is None or producer.op not in ops or not _sole_reader(graph, producer.name):
        return None
    return producer


def _is_affine(node: Node, factor: float, offset: float) -> bool:
    close = abs(node.attrs["factor"] - factor) < 1e-6 and abs(node.attrs["offset"] - offset) < 1e-6
    return close and node.attrs["clamp"] is None


def _swap(graph: Graph, new: Node) -> Graph:
    """``new`` in the place of the node of the same name."""
    return graph.with_nodes(tuple(new if node.name == new.name else node for node in graph.nodes))


def _absorb(graph: Graph, gone: Node, into: Node) -> Graph:
    """Without ``gone``; ``into`` replaces the node of its name and is read where ``gone`` was."""

    def rename(name: str) -> str:
        return into.name if name == gone.name else name

    kept = (into if node.name == into.name else node for node in graph.nodes if node.name != gone.name)
    nodes = tuple(replace(node, inputs=tuple(rename(name) for name in node.inputs)) for node in kept)
    prefix = (f"{gone.name}.weight", f"{gone.name}.bias")
    weights = {key: array for key, array in graph.weights.items() if key not in prefix}
    return graph.with_nodes(nodes, output=rename(graph.output), weights=weights)


def _rescale(graph: Graph, name: str, scale: Array, shift: Array) -> Graph:
    """The weighted node's output times ``scale`` plus ``shift``, per output channel."""
    weight = graph.weights[f"{name}.weight"].astype(np.float64)
    bias = graph.weights[f"{name}.bias"].astype(np.float64)
    column = scale.astype(np.float64).reshape(-1, *([1] * (weight.ndim - 1)))
    changed = {f"{name}.weight": weight * column, f"{name}.bias": bias * scale + shift}
    return replace(
        graph, weights={**graph.weights, **{key: array.astype(np.float32) for key, array in changed.items()}}
    )


def _check_leftovers(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op is Op.CONV and len(node.shape) != 3:
            hint = "put it directly after a linear layer, or leave it out"
            raise ModelError(f"the normalization '{node.name}' on a vector follows no linear layer", hint=hint)
