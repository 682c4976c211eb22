"""Where numbers change their kind, said with operators: for formats that have no float view of an integer tensor.

In a graph that is only partly in 8-bit integers a node may read or write tensors of another kind than it computes in.
Here each such border becomes a CLAMP of its own, without a clamp: the same values in other numbers. After that all
tensors around a node are of one kind: int8, int16 or float32. A layer of integers whose output is open becomes one of
float32, for which TFLite has no kernel either, with real weights (TFLite Micro reads one scale for all channels of
weights that are to be made real).
"""

from __future__ import annotations

import dataclasses

from edgecnn.graph.ir import SHARING, Array, Graph, Node, Op, QParams
from edgecnn.graph.weights import real_weight

INT16 = {Op.CONV, Op.LINEAR, Op.ADD, Op.MUL, Op.MEAN, Op.CONCAT, Op.AFFINE, Op.SIGMOID, Op.CLAMP}
"""Operators with 16-bit kernels in TFLite, beside those that share numbers; its hard-swish is float or int8."""


def kind_of(graph: Graph, name: str) -> str:
    """What a tensor is made of."""
    qparams = graph.qparams.get(name)
    return "float32" if qparams is None else f"int{qparams.bits}"


def arithmetic(graph: Graph, node: Node) -> str:
    """What a node computes in."""
    if graph.is_integer(node):
        return "int8"
    numbers = [graph.qparams.get(name) for name in (*node.inputs, node.name)]
    same = node.op in SHARING and numbers[0] == numbers[-1]
    wide = node.bits == 16 and None not in numbers
    return "int16" if wide and (node.op in INT16 or same) else "float32"


def with_borders(graph: Graph) -> Graph:
    """The graph with a node of its own wherever numbers change their kind."""
    border = _Borders(graph)
    for node in graph.nodes:
        border.cross(node)
    return graph.with_nodes(
        tuple(border.nodes), qparams=border.qparams, weights=border.weights, weight_scales=border.weight_scales
    )


class _Borders:
    """The nodes and numbers so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.qparams: dict[str, QParams] = dict(graph.qparams)
        self.weights: dict[str, Array] = dict(graph.weights)
        self.weight_scales: dict[str, Array] = dict(graph.weight_scales)

    def cross(self, node: Node) -> None:
        """Add the node, with what its inputs and its output need around it."""
        if self.graph.is_open(node):
            keys = [f"{node.name}.{part}" for part in ("weight", "bias")]
            self.weights |= {key: real_weight(self.graph, key) for key in keys}
            del self.weight_scales[node.name]
        kind = "int8" if node.op is Op.INPUT and self.graph.quantized else arithmetic(self.graph, node)
        inputs = tuple(self._read(name, kind) for name in node.inputs)
        if kind_of(self.graph, node.name) == kind:
            self.nodes.append(dataclasses.replace(node, inputs=inputs))
            return
        inner = f"{node.name}/{kind}/before"
        if kind == "int16":
            self.qparams[inner] = self.graph.qparams[node.name].widened
        for key in ("weight", "bias"):
            if f"{node.name}.{key}" in self.weights:
                self.weights[f"{inner}.{key}"] = self.weights.pop(f"{node.name}.{key}")
        if node.name in self.weight_scales:
            self.weight_scales[inner] = self.weight_scales.pop(node.name)
        self.nodes.append(dataclasses.replace(node, name=inner, inputs=inputs))
        self.nodes.append(Node(node.name, Op.CLAMP, (inner,), node.shape, bits=node.bits))

    def _read(self, name: str, kind: str) -> str:
        """The name of a tensor in the numbers of a ``kind``."""
        if kind_of(self.graph, name) == kind:
            return name
        view = f"{name}/{kind}"
        if all(node.name != view for node in self.nodes):
            if kind == "int16":  # exactly: a step stays a step
                self.qparams[view] = QParams(self.graph.qparams[name].scale, 0, 16)
            self.nodes.append(Node(view, Op.CLAMP, (name,), self.graph.node(name).shape, bits=16))
        return view
