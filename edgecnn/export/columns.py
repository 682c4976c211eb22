"""The first convolution, made fit for int8 kernels: several columns of the picture at once.

A picture's three channels are few for an integer kernel. XNNPACK takes channels in groups of eight, ONNX Runtime copies
nine bytes at a time when it gathers a 3x3 window, and both pay for every place of the output. In memory (NHWC) four
neighbouring columns of three channels are one column of twelve, and two neighbouring columns of sixteen outputs are one
of thirty-two: a convolution of stride 2 over columns is one of stride 1 over groups of four, with two columns of the
output in each place. The products are the same and the added weights are zeros, so every sum and every number stays.

Measured with AVX512-VNNI and AMX: MobileNetV3-small's stem at 224 px takes 0.33 times as long in ONNX Runtime, although
2.7 times as many products are computed; groups of eight columns gain nothing more there.

What is computed value by value on the convolution's output (an activation function) is computed on the groups too, and
they are taken apart after it: OpenVINO then needs not change the order of its memory on the way.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from edgecnn.export.lowering import GROUPED
from edgecnn.graph.ir import Array, Graph, Node, Op

COLUMNS = (4, 2)  # how many at once, the best first
NARROW = 4  # channels; more of them fill a kernel by themselves
VALUE_BY_VALUE = (Op.AFFINE, Op.CLAMP, Op.MUL, Op.SIGMOID, Op.HARD_SWISH, Op.HARD_SIGMOID, Op.SILU)


def group_columns(graph: Graph) -> Graph:
    """The lowered graph with its narrow int8 convolutions of stride 2 reading several columns at once.

    Groups are made and taken apart by a FLATTEN whose result has three dimensions, which means what a reshape of an
    NHWC tensor does.
    """
    for node in graph.nodes:
        columns = _columns_at_once(graph, node)
        if columns:
            graph = _grouped(graph, node, columns)
    return graph


def ungrouped(name: str, value: Array) -> Array:
    """What a file's tensor ``name`` (N, H, W, C) is in the graph: its groups of columns taken apart."""
    columns = int(name.partition(GROUPED)[2] or 1)
    batch, height, width, channels = value.shape
    return value.reshape(batch, height, width * columns, channels // columns)


def _columns_at_once(graph: Graph, node: Node) -> int | None:
    if node.op is not Op.CONV or node.attrs["groups"] != 1 or not (graph.is_integer(node) or graph.is_open(node)):
        return None
    channels, _, width = graph.node(node.inputs[0]).shape
    if channels > NARROW or node.attrs["kernel"][1] == 1 or node.attrs["dilation"][1] != 1:
        return None
    stride, whole = node.attrs["stride"][1], width == node.attrs["stride"][1] * node.shape[2]
    fitting = (n for n in COLUMNS if stride == 2 and width % n == 0 and (whole or n == stride))
    return next(fitting, None)


def _grouped(graph: Graph, conv: Node, columns: int) -> Graph:
    """The graph with ``conv``, and what follows it value by value, on groups of ``columns`` of its input."""
    channels, height, width = graph.node(conv.inputs[0]).shape
    outputs = columns // conv.attrs["stride"][1]
    groups = Node(f"{conv.name}/groups", Op.FLATTEN, conv.inputs, (columns * channels, height, width // columns))
    followers = _followers(graph, conv) if outputs > 1 else [conv]
    last = followers[-1]
    if outputs > 1 and last.name not in graph.qparams:  # real numbers would be moved: dearer than what is gained
        return graph
    names = {node.name: f"{node.name}{GROUPED}{outputs}" for node in followers}
    names[last.name] = f"{last.name}/grouped" if outputs > 1 else last.name
    wide = [_on_groups(node, names, outputs) for node in followers]
    wide[0] = dataclasses.replace(wide[0], inputs=(groups.name,), attrs=_attrs(conv, columns, width))
    apart = [Node(last.name, Op.FLATTEN, (names[last.name],), last.shape)] if outputs > 1 else []

    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name == conv.name:
            nodes += [groups, *wide, *apart]
        elif node.name not in names:
            nodes.append(node)
    qparams = graph.qparams | {groups.name: graph.qparams[conv.inputs[0]]}
    qparams |= {names[node.name]: graph.qparams[node.name] for node in followers if node.name in graph.qparams}
    weights, scales = dict(graph.weights), dict(graph.weight_scales)
    weights[f"{wide[0].name}.weight"] = _weight(conv, weights.pop(f"{conv.name}.weight"), columns)
    weights[f"{wide[0].name}.bias"] = np.tile(weights.pop(f"{conv.name}.bias"), outputs)
    scales[wide[0].name] = np.tile(scales.pop(conv.name), outputs)
    return graph.with_nodes(tuple(nodes), qparams=qparams, weights=weights, weight_scales=scales)


def _followers(graph: Graph, conv: Node) -> list[Node]:
    """``conv`` and what is computed from it alone, value by value, up to the one tensor that others read.

    In integers like it, or from its open output.
    """
    found = {conv.name: conv}
    for node in graph.nodes:
        alike = graph.is_integer(node) or graph.is_open(conv)
        if node.op in VALUE_BY_VALUE and alike and all(name in found for name in node.inputs):
            found[node.name] = node
    read = [name for name in found if name == graph.output or any(r.name not in found for r in graph.consumers(name))]
    return list(found.values()) if read == [list(found)[-1]] else [conv]


def _on_groups(node: Node, names: dict[str, str], outputs: int) -> Node:
    channels, height, width = node.shape
    shape = (outputs * channels, height, width // outputs)
    inputs = tuple(names.get(name, name) for name in node.inputs)
    return dataclasses.replace(node, name=names[node.name], inputs=inputs, shape=shape)


def _window(conv: Node, columns: int) -> tuple[int, int]:
    """How many groups a window touches, and how many of them lie left of its own place."""
    stride, left = conv.attrs["stride"][1], conv.attrs["padding"][1]
    first, last = -left // columns, (columns - stride + conv.attrs["kernel"][1] - 1 - left) // columns
    return last - first + 1, -first


def _attrs(conv: Node, columns: int, width: int) -> dict[str, object]:
    """The convolution's attributes on groups."""
    kernel, left = _window(conv, columns)
    (row_stride, stride), (top, _, bottom, _) = conv.attrs["stride"], conv.attrs["padding"]
    places = conv.shape[2] * stride // columns
    right = max(places - 1 + kernel - left - width // columns, 0)
    return conv.attrs | {
        "kernel": [conv.attrs["kernel"][0], kernel],
        "stride": [row_stride, 1],
        "padding": [top, left, bottom, right],
    }


def _weight(conv: Node, weight: Array, columns: int) -> Array:
    """(O, C, kh, kw) -> (outputs O, columns C, kh, groups): each column in its group, zeros elsewhere."""
    filters, channels, height, width = weight.shape
    stride, (kernel, left) = conv.attrs["stride"][1], _window(conv, columns)
    wide = np.zeros((columns // stride, filters, columns, channels, height, kernel), weight.dtype)
    for output in range(columns // stride):
        for j in range(width):
            group, column = divmod(output * stride + j - conv.attrs["padding"][1], columns)
            wide[output, :, column, :, :, group + left] = weight[:, :, :, j]
    return wide.reshape(-1, columns * channels, height, kernel)
