"""One function per operator of the graph, and the table that finds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgecnn.export.lowering import SMOOTH_GATE
from edgecnn.export.numbers import folds, pixel_qparams
from edgecnn.export.tflite_builder import Quantization
from edgecnn.export.tflite_moves import MOVES
from edgecnn.export.tflite_ops import TFLiteWriter, channels_last, symmetric
from edgecnn.graph.ir import Node, Op, QParams
from edgecnn.spec import IO

LOGISTIC = {"int8": SMOOTH_GATE, "int16": QParams(1 / 32768, 0, 16)}  # what it demands of its output


def emit_input(w: TFLiteWriter, node: Node) -> None:
    """uint8 pixels to real or int8 numbers; exact when the normalization is one scale and one whole zero point."""
    shape = channels_last(node.shape)
    if not folds(w.graph):
        _normalize_per_channel(w, node)
        return
    scale, zero_point = pixel_qparams(w.graph)
    if w.io is IO.INT8:
        w.index["image"] = w.index[node.name] = w.named("image", w.tensor(node))
        return
    numbers = Quantization(np.array([scale]), np.array([zero_point]))
    w.index["image"] = w.builder.activation("image", shape, "uint8", numbers)
    if not w.graph.quantized:
        w.index[node.name] = w.operator("DEQUANTIZE", [w.index["image"]], w.tensor(node), table="DequantizeOptions")
        return
    # By way of float: XNNPACK does not take a QUANTIZE from uint8 to int8, which is 4 times slower than these two.
    real = w.builder.activation(f"{node.name}/real", shape, "float32")
    w.operator("DEQUANTIZE", [w.index["image"]], real, table="DequantizeOptions")
    w.index[node.name] = w.operator("QUANTIZE", [real], w.tensor(node), table="QuantizeOptions")


def emit_logits(w: TFLiteWriter, source: int) -> int:
    """The output ``logits`` from the graph's own: float32, or the integers that were asked for. Returns its index."""
    name = w.graph.output
    if name not in w.graph.qparams or w.io is IO.INT8:
        return w.named("logits", source)
    shape, own = w.graph.node(name).shape, w.graph.qparams[name]
    if w.io is IO.PICTURE:
        logits = w.builder.activation("logits", shape, "float32")
        return w.operator("DEQUANTIZE", [source], logits, table="DequantizeOptions")
    numbers = Quantization(np.array([own.scale]), np.array([own.zero_point + 128]))
    logits = w.builder.activation("logits", shape, "uint8", numbers)
    return w.operator("QUANTIZE", [source], logits, table="QuantizeOptions")


def _normalize_per_channel(w: TFLiteWriter, node: Node) -> None:
    if w.graph.quantized:
        pixel_qparams(w.graph)  # raises: says what a quantized input must look like
    mean, std = (np.array(node.attrs[word], np.float64) for word in ("mean", "std"))
    factor = w.builder.constant(f"{node.name}/factor", (1 / (255 * std)).astype(np.float32))
    offset = w.builder.constant(f"{node.name}/offset", (-mean / std).astype(np.float32))
    w.index["image"] = w.builder.activation("image", channels_last(node.shape), "uint8")
    options = {"inDataType": w.builder.schema.TensorType.UINT8, "outDataType": w.builder.schema.TensorType.FLOAT32}
    cast = w.operator("CAST", [w.index["image"]], w.tensor(node, "/cast"), options, table="CastOptions")
    scaled = w.operator("MUL", [cast, factor], w.tensor(node, "/scaled"), table="MulOptions")
    w.index[node.name] = w.operator("ADD", [scaled, offset], w.tensor(node), table="AddOptions")


def emit_conv(w: TFLiteWriter, node: Node) -> None:
    """CONV_2D (grouped too) or DEPTHWISE_CONV_2D."""
    a = node.attrs
    weight = w.graph.weights[f"{node.name}.weight"]
    channels = w.graph.node(node.inputs[0]).shape[0]
    source, padding = w.padded(node)
    options = {
        "padding": padding,
        "strideH": a["stride"][0],
        "strideW": a["stride"][1],
        "dilationHFactor": a["dilation"][0],
        "dilationWFactor": a["dilation"][1],
    }
    if a["groups"] == channels and channels > 1:
        options["depthMultiplier"] = weight.shape[0] // channels
        inputs = [source, *w.weights(node, weight.transpose(1, 2, 3, 0), 3)]
        w.emit(node, "DEPTHWISE_CONV_2D", inputs, options, table="DepthwiseConv2DOptions")
    else:
        inputs = [source, *w.weights(node, weight.transpose(0, 2, 3, 1), 0)]
        w.emit(node, "CONV_2D", inputs, options, table="Conv2DOptions")


def emit_linear(w: TFLiteWriter, node: Node) -> None:
    """FULLY_CONNECTED; after a flattened picture, with its columns in (H, W, C) order."""
    weight = w.graph.weights[f"{node.name}.weight"]
    if node.inputs[0] in w.flattened:
        channels, height, width = w.flattened[node.inputs[0]]
        weight = weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(weight.shape)
    inputs = [w.index[node.inputs[0]], *w.weights(node, weight, 0)]
    w.emit(node, "FULLY_CONNECTED", inputs, table="FullyConnectedOptions")


def emit_add(w: TFLiteWriter, node: Node) -> None:
    """ADD of tensors declared alike."""
    ratios = {w.ratio.get(name, 1.0) for name in node.inputs}
    if len(ratios) == 1 and not node.attrs.get("clamp"):
        w.emit(node, "ADD", [w.index[name] for name in node.inputs], table="AddOptions", ratio=ratios.pop())
    else:
        w.emit(node, "ADD", [w.true(name) for name in node.inputs], table="AddOptions")


def emit_mul(w: TFLiteWriter, node: Node) -> None:
    """MUL; the second input may be (C, 1, 1)."""
    ratio = float(np.prod([w.ratio.get(name, 1.0) for name in node.inputs]))
    w.emit(node, "MUL", [w.index[name] for name in node.inputs], table="MulOptions", ratio=ratio)


def emit_mean(w: TFLiteWriter, node: Node) -> None:
    """MEAN over H and W."""
    axes = w.builder.constant(f"{node.name}/axes", np.array([1, 2], np.int32))
    ratio = w.ratio.get(node.inputs[0], 1.0)
    w.emit(node, "MEAN", [w.index[node.inputs[0]], axes], {"keepDims": True}, table="ReducerOptions", ratio=ratio)


def emit_max_pool(w: TFLiteWriter, node: Node) -> None:
    """MAX_POOL_2D; SAME's padded cells never win, and explicit padding is made of the lowest value."""
    source, padding = w.padded(node, lowest=True)
    w.emit(node, "MAX_POOL_2D", [source], _pool_options(node, padding), table="Pool2DOptions", ratio=w.ratio_in(node))


def emit_avg_pool(w: TFLiteWriter, node: Node) -> None:
    """AVERAGE_POOL_2D in float, a depthwise convolution with weights 1 in int8."""
    words = w.builder.schema.Padding
    if w.kind(node.name) != "int8":
        source = [w.index[node.inputs[0]]]
        w.emit(node, "AVERAGE_POOL_2D", source, _pool_options(node, words.VALID), table="Pool2DOptions")
        return
    (height, width), channels = node.attrs["kernel"], node.shape[0]
    ones = Quantization(np.full(channels, 1 / (height * width)), np.zeros(channels), 3)
    scale = w.graph.qparams[node.inputs[0]].scale * w.ratio_in(node)
    zeros = Quantization(np.full(channels, scale / (height * width)), np.zeros(channels))
    weight = w.builder.constant(f"{node.name}/ones", np.ones((1, height, width, channels), np.int8), ones)
    bias = w.builder.constant(f"{node.name}/zeros", np.zeros(channels, np.int32), zeros)
    options = _pool_options(node, words.VALID, filters=False) | {
        "depthMultiplier": 1,
        "dilationHFactor": 1,
        "dilationWFactor": 1,
    }
    inputs = [w.index[node.inputs[0]], weight, bias]
    w.emit(node, "DEPTHWISE_CONV_2D", inputs, options, table="DepthwiseConv2DOptions", ratio=w.ratio_in(node))


def _pool_options(node: Node, padding: int, *, filters: bool = True) -> dict[str, Any]:
    a = node.attrs
    options = {"padding": padding, "strideH": a["stride"][0], "strideW": a["stride"][1]}
    return options | ({"filterHeight": a["kernel"][0], "filterWidth": a["kernel"][1]} if filters else {})


def emit_clamp(w: TFLiteWriter, node: Node) -> None:
    """A clamp that no operator before it could take, or other numbers for the same values."""
    (name,) = node.inputs
    kinds = w.kind(name), w.kind(node.name)
    if kinds == ("float32", "float32"):
        w.clamp(node, w.index[name])
    elif kinds[0] == kinds[1]:
        w.emit(node, "MUL", w.times_one(name, node.name), table="MulOptions")
    elif kinds[1] == "float32":
        w.emit(node, "DEQUANTIZE", [w.true(name)], table="DequantizeOptions")
    else:
        w.emit(node, "QUANTIZE", [w.true(name)], table="QuantizeOptions")


def emit_affine(w: TFLiteWriter, node: Node) -> None:
    """``factor * (x + offset / factor)``: see the module's docstring for where the factor goes in int8."""
    factor, offset = float(node.attrs["factor"]), float(node.attrs["offset"])
    if w.is_float(node):
        _affine_float(w, node, factor, offset)
        return
    (name,) = node.inputs
    source, ratio = w.index[name], w.ratio_in(node)
    if offset == 0.0:
        constant = _scalar(w, node, "factor", factor)
        w.emit(node, "MUL", [source, constant], table="MulOptions", ratio=ratio)
        return
    if factor < 0:
        source = _negated(w, node, source)
    shift = ratio * offset / abs(factor)
    constant = _scalar(w, node, "shift", shift)
    w.emit(node, "ADD", [source, constant], table="AddOptions", ratio=ratio / abs(factor))


def _scalar(w: TFLiteWriter, node: Node, word: str, value: float) -> int:
    """A constant in the arithmetic of the node: its last step."""
    top = w.graph.qparams[node.name].ends[1]
    steps = np.array([top * np.sign(value)], w.kind(node.name))
    return w.builder.constant(f"{node.name}/{word}", steps, symmetric(abs(value) / top))


def _negated(w: TFLiteWriter, node: Node, source: int) -> int:
    """``-x``, exactly: q becomes ``-1 - q``, or ``-q`` where the numbers are symmetric."""
    q, kind = w.graph.qparams[node.inputs[0]], w.kind(node.inputs[0])
    numbers = Quantization(np.array([q.scale * w.ratio_in(node)]), np.array([sum(q.ends) - q.zero_point]))
    output = w.builder.activation(f"{node.name}/negated", channels_last(node.shape), kind, numbers)
    minus = w.builder.constant(f"{node.name}/minus", np.array([-1], kind), symmetric(1.0))
    return w.operator("MUL", [source, minus], output, table="MulOptions")


def _affine_float(w: TFLiteWriter, node: Node, factor: float, offset: float) -> None:
    scale = w.builder.constant(f"{node.name}/factor", np.array([factor], np.float32))
    shift = w.builder.constant(f"{node.name}/offset", np.array([offset], np.float32))
    scaled = w.operator("MUL", [w.index[node.inputs[0]], scale], w.tensor(node, "/scaled"), table="MulOptions")
    w.emit(node, "ADD", [scaled, shift], table="AddOptions")


def emit_hard_sigmoid(w: TFLiteWriter, node: Node) -> None:
    """Float only: ``relu6(x + 3) / 6``."""
    three = w.builder.constant(f"{node.name}/three", np.array([3.0], np.float32))
    sixth = w.builder.constant(f"{node.name}/sixth", np.array([1 / 6], np.float32))
    options = {"fusedActivationFunction": w.builder.schema.ActivationFunctionType.RELU6}
    six = w.operator("ADD", [w.index[node.inputs[0]], three], w.tensor(node, "/six"), options, table="AddOptions")
    w.emit(node, "MUL", [six, sixth], table="MulOptions")


def emit_sigmoid(w: TFLiteWriter, node: Node) -> None:
    """LOGISTIC, whose integer output has fixed numbers by TFLite's rules."""
    source, kind = w.true(node.inputs[0]), w.kind(node.name)
    fixed = LOGISTIC.get(kind)
    if w.graph.qparams.get(node.name) == fixed or fixed is None:
        w.emit(node, "LOGISTIC", [source])
        return
    numbers = Quantization(np.array([fixed.scale]), np.array([fixed.zero_point]))
    steps = w.builder.activation(f"{node.name}/steps", channels_last(node.shape), kind, numbers)
    w.emit(node, "QUANTIZE", [w.operator("LOGISTIC", [source], steps)], table="QuantizeOptions")


def emit_silu(w: TFLiteWriter, node: Node) -> None:
    """Float only: ``x * sigmoid(x)``."""
    source = w.index[node.inputs[0]]
    gate = w.operator("LOGISTIC", [source], w.tensor(node, "/sigmoid"))
    w.emit(node, "MUL", [source, gate], table="MulOptions")


def emit_hard_swish(w: TFLiteWriter, node: Node) -> None:
    """Float only: HARD_SWISH."""
    w.emit(node, "HARD_SWISH", [w.index[node.inputs[0]]], table="HardSwishOptions")


EMITTERS: dict[Op, Callable[[TFLiteWriter, Node], None]] = {
    Op.INPUT: emit_input,
    Op.CONV: emit_conv,
    Op.LINEAR: emit_linear,
    Op.ADD: emit_add,
    Op.MUL: emit_mul,
    Op.MEAN: emit_mean,
    Op.MAX_POOL: emit_max_pool,
    Op.AVG_POOL: emit_avg_pool,
    **MOVES,
    Op.CLAMP: emit_clamp,
    Op.AFFINE: emit_affine,
    # Only float graphs still have these: see lowering.
    Op.HARD_SWISH: emit_hard_swish,
    Op.HARD_SIGMOID: emit_hard_sigmoid,
    Op.SIGMOID: emit_sigmoid,
    Op.SILU: emit_silu,
}
