"""One function per operator of the graph, and the table that finds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from edgecnn.export.numbers import folds, pixel_qparams
from edgecnn.export.onnx_ops import MOVED, ONNXWriter, zero_point
from edgecnn.export.onnx_picture import emit_picture
from edgecnn.graph.ir import Node, Op


def emit_input(w: ONNXWriter, node: Node) -> None:
    """The picture as real numbers; quantized, the pixels are them."""
    if w.graph.quantized:
        emit_picture(w, node)
        return
    planes = w.op("Transpose", ["image"], f"{node.name}/planes", perm=[0, 3, 1, 2])
    if folds(w.graph):
        scale, zero = pixel_qparams(w.graph)
        numbers = w.numbers(f"{node.name}/pixel", scale, np.array(zero, np.uint8))
        w.op("DequantizeLinear", [planes, *numbers], node.name)
        return
    mean, std = (np.array(node.attrs[word], np.float64).reshape(-1, 1, 1) for word in ("mean", "std"))
    factor = w.constant(f"{node.name}/factor", (1 / (255 * std)).astype(np.float32))
    offset = w.constant(f"{node.name}/offset", (-mean / std).astype(np.float32))
    scaled = w.op(
        "Mul", [w.op("Cast", [planes], f"{node.name}/cast", to=TensorProto.FLOAT), factor], f"{node.name}/scaled"
    )
    w.op("Add", [scaled, offset], node.name)


def emit_conv(w: ONNXWriter, node: Node) -> None:
    """Conv."""
    a = node.attrs
    w.emit(
        node,
        "Conv",
        [w.source(node), *w.weight(node)],
        kernel_shape=a["kernel"],
        strides=a["stride"],
        pads=a["padding"],
        dilations=a["dilation"],
        group=a["groups"],
    )


def emit_linear(w: ONNXWriter, node: Node) -> None:
    """Gemm."""
    w.emit(node, "Gemm", [w.source(node), *w.weight(node)], transB=1)


def emit_max_pool(w: ONNXWriter, node: Node) -> None:
    """MaxPool, whose padded cells never win."""
    a = node.attrs
    pads = a.get("padding", [0, 0, 0, 0])
    w.emit(node, "MaxPool", [w.real(node.inputs[0])], kernel_shape=a["kernel"], strides=a["stride"], pads=pads)


def emit_avg_pool(w: ONNXWriter, node: Node) -> None:
    """AveragePool in float, a Conv with weights 1 in int8."""
    kernel, stride = node.attrs["kernel"], node.attrs["stride"]
    source = w.real(node.inputs[0])
    if not w.graph.is_integer(node):
        w.emit(node, "AveragePool", [source], kernel_shape=kernel, strides=stride)
        return
    # A depthwise convolution with weights 1: QLinearAveragePool rounds halves another way.
    channels = node.shape[0]
    ones = w.constant(f"{node.name}/ones", np.ones((channels, 1, *kernel), np.int8))
    numbers = w.numbers(
        f"{node.name}/ones", np.full(channels, 1 / (kernel[0] * kernel[1])), np.zeros(channels, np.int8)
    )
    weight = w.op("DequantizeLinear", [ones, *numbers], f"{node.name}/ones/real", axis=0)
    w.emit(node, "Conv", [source, weight], kernel_shape=kernel, strides=stride, group=channels)


def emit_flatten(w: ONNXWriter, node: Node) -> None:
    """Flatten; to three dimensions, a reshape of int8 numbers with channels last.

    OpenVINO moves integers as float32 where it does not see them dequantized before and quantized after, and does that
    in earnest where the zero point is not 0. So 0 is what is said here, which changes no integer; ONNX Runtime leaves
    the pair out.
    """
    if len(node.shape) == 1:
        w.emit(node, "Flatten", [w.real(node.inputs[0])], axis=1)
        return
    channels, height, width = node.shape
    numbers = w.numbers(f"{node.name}/numbers", w.graph.qparams[node.name].scale, np.uint8(0))
    source = w.op("DequantizeLinear", [node.inputs[0], *numbers], node.name + MOVED)
    shape = w.constant(f"{node.name}/shape", np.array([0, height, width, channels], np.int64))
    rows = w.op("Transpose", [source], f"{node.name}/rows", perm=[0, 2, 3, 1])
    reshaped = w.op("Reshape", [rows, shape], f"{node.name}/reshaped")
    w.op(
        "QuantizeLinear", [w.op("Transpose", [reshaped], f"{node.name}/planes", perm=[0, 3, 1, 2]), *numbers], node.name
    )


def emit_pad(w: ONNXWriter, node: Node) -> None:
    """Pad with real zeros."""
    top, left, bottom, right = node.attrs["padding"]
    pads = w.constant(f"{node.name}/pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    more = []
    if w.graph.is_integer(node):  # ONNX Runtime does not fuse a Pad between DequantizeLinear and QuantizeLinear
        more = [w.constant(f"{node.name}/zero", zero_point(w.graph.qparams[node.name]))]
    w.move(node, "Pad", pads, *more)


def emit_slice(w: ONNXWriter, node: Node) -> None:
    """Slice, quantized on the integers: nothing is computed."""
    words = {"starts": node.attrs["start"], "ends": node.attrs["stop"], "axes": 1}
    limits = [w.constant(f"{node.name}/{word}", np.array([value], np.int64)) for word, value in words.items()]
    w.move(node, "Slice", *limits)


def emit_shuffle(w: ONNXWriter, node: Node) -> None:
    """Gather, quantized on the integers: Reshape, Transpose, Reshape take 0.8 to 10 times as long in ONNX Runtime."""
    order = np.arange(node.shape[0]).reshape(node.attrs["groups"], -1).T.reshape(-1)
    w.move(node, "Gather", w.constant(f"{node.name}/order", order.astype(np.int64)), axis=1)


def plain(kind: str, **attrs: Any) -> Callable[[ONNXWriter, Node], None]:
    """An emitter for an operator of the same meaning."""

    def emit(w: ONNXWriter, node: Node) -> None:
        w.emit(node, kind, [w.real(name) for name in node.inputs], **attrs)

    return emit


def emit_silu(w: ONNXWriter, node: Node) -> None:
    """In float: ``x * sigmoid(x)``."""
    source = w.real(node.inputs[0])
    w.emit(node, "Mul", [source, w.op("Sigmoid", [source], f"{node.name}/sigmoid")])


def emit_affine(w: ONNXWriter, node: Node) -> None:
    """``factor * (x + offset / factor)``; quantized, the factor lives in the output's scale."""
    factor, offset = float(node.attrs["factor"]), float(node.attrs["offset"])
    source = w.real(node.inputs[0])
    if not w.graph.is_integer(node):
        scaled = w.op("Mul", [source, w.constant(f"{node.name}/factor", np.float32(factor))], f"{node.name}/scaled")
        w.emit(node, "Add", [scaled, w.constant(f"{node.name}/offset", np.float32(offset))])
    elif offset == 0:
        w.emit(node, "Mul", [source, w.scalar(f"{node.name}/factor", factor)])
    else:
        source = source if factor > 0 else _negated(w, node, source)
        shift = w.scalar(f"{node.name}/shift", offset / abs(factor))
        w.emit(node, "Add", [source, shift], scale_by=1 / abs(factor))


def _negated(w: ONNXWriter, node: Node, source: str) -> str:
    """``-x``, exactly: q becomes ``255 - q``."""
    q = w.graph.qparams[node.inputs[0]]
    name = f"{node.name}/negated"
    numbers = w.numbers(name, q.scale, np.array(127 - q.zero_point, np.uint8))
    product = w.op("Mul", [source, w.scalar(f"{node.name}/minus", -1.0)], f"{name}/float")
    return w.op("DequantizeLinear", [w.op("QuantizeLinear", [product, *numbers], name), *numbers], f"{name}/real")


def emit_clamp(w: ONNXWriter, node: Node) -> None:
    """A clamp that no operator before it could take."""
    if w.graph.is_integer(node):
        # Times one: with nothing between them, the two roundings would be merged into one.
        w.emit(node, "Mul", [w.real(node.inputs[0]), w.scalar(f"{node.name}/one", 1.0)])
    else:
        w.finish(node, w.real(node.inputs[0]))


EMITTERS: dict[Op, Callable[[ONNXWriter, Node], None]] = {
    Op.INPUT: emit_input,
    Op.CONV: emit_conv,
    Op.LINEAR: emit_linear,
    Op.ADD: plain("Add"),
    Op.MUL: plain("Mul"),
    Op.MEAN: plain("GlobalAveragePool"),
    Op.MAX_POOL: emit_max_pool,
    Op.AVG_POOL: emit_avg_pool,
    Op.FLATTEN: emit_flatten,
    Op.CONCAT: plain("Concat", axis=1),
    Op.SLICE: emit_slice,
    Op.SHUFFLE: emit_shuffle,
    Op.PAD: emit_pad,
    Op.CLAMP: emit_clamp,
    Op.AFFINE: emit_affine,
    Op.HARD_SWISH: plain("HardSwish"),
    Op.HARD_SIGMOID: plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    Op.SIGMOID: plain("Sigmoid"),
    Op.SILU: emit_silu,
}
