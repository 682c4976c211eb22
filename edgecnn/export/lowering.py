"""What is the same for all formats: the graph said in operators that integer kernels have.

In integers an activation function becomes the two operators that runtimes execute: hard-swish and SiLU are a gate and a
multiplication. The gate's numbers are fixed, since its values are in [0, 1]. What computes in float keeps these
functions: runtimes have fast float kernels for them.
"""

from __future__ import annotations

import dataclasses

from edgecnn.graph.ir import Graph, Node, Op, QParams

GROUPED = "/columns"  # between the name of a tensor and how many of its columns are one in the file
RESERVED = ("image", "logits")  # the names of the file's input and output
HARD_GATE = QParams(1 / 255, -128)
SMOOTH_GATE = QParams(1 / 256, -128)


def tensor_name(name: str) -> str:
    """The tensor's name in a file: the graph's, unless it is the name of the file's input or output."""
    return f"{name}/tensor" if name in RESERVED else name


def lower(graph: Graph) -> Graph:
    """The graph with file-safe names and, when quantized, with gates spelled out."""
    renamed = _rename(graph)
    if not graph.quantized:
        return renamed
    nodes: list[Node] = []
    qparams = dict(renamed.qparams)
    for node in renamed.nodes:
        parts = _spell_out(node) if renamed.is_integer(node) else [node]
        nodes += parts
        for gate in parts[:-1]:
            qparams[gate.name] = HARD_GATE if gate.op is Op.AFFINE else SMOOTH_GATE
    return renamed.with_nodes(tuple(nodes), qparams=qparams)


def _spell_out(node: Node) -> list[Node]:
    hard = {"factor": 1 / 6, "offset": 0.5, "clamp": [0.0, 1.0]}
    if node.op is Op.HARD_SIGMOID:
        return [dataclasses.replace(node, op=Op.AFFINE, attrs=hard)]
    if node.op not in (Op.HARD_SWISH, Op.SILU):
        return [node]
    name = f"{node.name}/gate"
    kind, attrs = (Op.AFFINE, hard) if node.op is Op.HARD_SWISH else (Op.SIGMOID, {})
    gate = Node(name, kind, node.inputs, node.shape, attrs)
    return [gate, dataclasses.replace(node, op=Op.MUL, inputs=(node.inputs[0], name))]


def _rename(graph: Graph) -> Graph:
    if not any(node.name in RESERVED for node in graph.nodes):
        return graph
    nodes = tuple(
        dataclasses.replace(node, name=tensor_name(node.name), inputs=tuple(map(tensor_name, node.inputs)))
        for node in graph.nodes
    )
    return graph.with_nodes(
        nodes,
        output=tensor_name(graph.output),
        weights={_rename_key(key): value for key, value in graph.weights.items()},
        qparams={tensor_name(key): value for key, value in graph.qparams.items()},
        weight_scales={tensor_name(key): value for key, value in graph.weight_scales.items()},
    )


def _rename_key(key: str) -> str:
    node, _, kind = key.rpartition(".")
    return f"{tensor_name(node)}.{kind}"


def graph_name(tensor: str) -> str | None:
    """The graph's name of a file's tensor; ``None`` for the file's input and output and for an operator's helpers."""
    if tensor in RESERVED:
        return None
    grouped, _, columns = tensor.rpartition(GROUPED)
    name = (grouped if columns.isdigit() else tensor).removesuffix("/tensor")
    return None if "/" in name else name
