"""Operators of the graph that move numbers without computing any; the others are in :mod:`edgecnn.export.tflite_emit`.

A channel shuffle is RESHAPE, TRANSPOSE, RESHAPE, all of which XNNPACK takes: 2.4 to 15 times as fast as a GATHER, which
it does not, and 4 to 25 times as fast as joining the groups along an axis of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgecnn.export.tflite_ops import TFLiteWriter, channels_last
from edgecnn.graph.ir import Node, Op


def emit_flatten(w: TFLiteWriter, node: Node) -> None:
    """RESHAPE. A picture stays in (H, W, C) order when only linear layers read it: their columns are reordered."""
    source, shape = w.index[node.inputs[0]], w.graph.node(node.inputs[0]).shape
    readers = w.graph.consumers(node.name)
    if len(node.shape) == 1 and shape[1:] != (1, 1) and len(shape) == 3:
        if readers and node.name != w.graph.output and all(reader.op is Op.LINEAR for reader in readers):
            w.flattened[node.name] = shape
        else:
            order = w.builder.constant(f"{node.name}/order", np.array([0, 3, 1, 2], np.int32))
            numbers = w.quantization(node.inputs[0], w.ratio_in(node))
            planes = w.builder.activation(f"{node.name}/planes", shape, w.kind(node.inputs[0]), numbers)
            source = w.operator("TRANSPOSE", [source, order], planes, table="TransposeOptions")
    target = np.array([-1, *channels_last(node.shape)], np.int32)
    inputs = [source, w.builder.constant(f"{node.name}/shape", target)]
    w.emit(node, "RESHAPE", inputs, {"newShape": target}, table="ReshapeOptions", ratio=w.ratio_in(node))


def emit_concat(w: TFLiteWriter, node: Node) -> None:
    """CONCATENATION along channels; int8 inputs with other numbers than the output's are requantized first."""
    sources = [w.requantized(name, node) for name in node.inputs]
    options = {"axis": len(node.shape)}
    w.emit(node, "CONCATENATION", sources, options, table="ConcatenationOptions")


def emit_pad(w: TFLiteWriter, node: Node) -> None:
    """PAD with real zeros."""
    w.index[node.name] = w.pad(node, node.name)
    w.ratio[node.name] = w.ratio_in(node)


def emit_slice(w: TFLiteWriter, node: Node) -> None:
    """STRIDED_SLICE of neighbouring channels, all of the other dimensions: XNNPACK takes no SLICE of "all"."""
    others = len(node.shape)
    whole = 2**others - 1  # bits of the dimensions whose ends do not count
    ends = [np.array([0] * others + [node.attrs[word]], np.int32) for word in ("start", "stop")]
    steps = np.ones(others + 1, np.int32)
    inputs = [w.builder.constant(f"{node.name}/{word}", v) for word, v in zip(("start", "stop"), ends, strict=True)]
    inputs = [w.index[node.inputs[0]], *inputs, w.builder.constant(f"{node.name}/steps", steps)]
    options = {"beginMask": whole, "endMask": whole}
    w.emit(node, "STRIDED_SLICE", inputs, options, table="StridedSliceOptions", ratio=w.ratio_in(node))


def emit_shuffle(w: TFLiteWriter, node: Node) -> None:
    """RESHAPE to groups of channels, TRANSPOSE, RESHAPE."""
    (channels, *places), groups = node.shape, node.attrs["groups"]
    size, last = channels // groups, len(places) + 1
    numbers = w.quantization(node.inputs[0], w.ratio_in(node))
    apart = w.builder.activation(f"{node.name}/apart", (*places, groups, size), w.kind(node.inputs[0]), numbers)
    dealt = w.builder.activation(f"{node.name}/dealt", (*places, size, groups), w.kind(node.inputs[0]), numbers)
    shape = np.array([-1, *places, groups, size], np.int32)
    inputs = [w.index[node.inputs[0]], w.builder.constant(f"{node.name}/groups", shape)]
    source = w.operator("RESHAPE", inputs, apart, {"newShape": shape}, table="ReshapeOptions")
    order = w.builder.constant(f"{node.name}/order", np.array([*range(last), last + 1, last], np.int32))
    source = w.operator("TRANSPOSE", [source, order], dealt, table="TransposeOptions")
    shape = np.array([-1, *channels_last(node.shape)], np.int32)
    inputs = [source, w.builder.constant(f"{node.name}/shape", shape)]
    w.emit(node, "RESHAPE", inputs, {"newShape": shape}, table="ReshapeOptions", ratio=w.ratio_in(node))


MOVES: dict[Op, Callable[[TFLiteWriter, Node], None]] = {
    Op.FLATTEN: emit_flatten,
    Op.CONCAT: emit_concat,
    Op.PAD: emit_pad,
    Op.SLICE: emit_slice,
    Op.SHUFFLE: emit_shuffle,
}
