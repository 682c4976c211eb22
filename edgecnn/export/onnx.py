"""ONNX, written straight from the graph: float32, or int8 as quantize-dequantize (QDQ) pairs that runtimes fuse.

Choices, each because ONNX Runtime's CPU kernels want it so (the result is valid ONNX for every other runtime):

* Activations are **uint8** (the graph's int8 plus 128), weights int8 per output channel, biases int32 dequantized at
  ``input_scale * weight_scale``: the one combination that becomes QLinearConv with fast kernels on x86 and arm64.
  On x86 **without VNNI** those kernels saturate pairs of products at 16 bits (``vpmaddubsw``). That is no detail:
  EfficientNet-Lite0 then agrees with its own int8 simulation on 84 % of 64 photos, and on 100 %, to the last bit, with
  the session option ``session.x64quantprecision`` = "1", which costs 1.25 to 1.4 times the time there. Weights written
  as uint8 would be exact everywhere without the option, and as slow; but CPUs with VNNI or AMX have their fast kernels
  for int8 weights only. So the file has int8 weights, and who runs it sets the option where VNNI is missing.
* A clamp that the output's quantized range already implies is not written; one that it does not imply follows the
  QuantizeLinear as an integer Clip, where it does not keep the convolution from fusing.
* ``factor * x + offset`` becomes one quantized addition: ``x + offset / factor`` is quantized at ``scale / factor`` and
  dequantized at ``scale``. Hard-swish then runs as an integer addition and an integer multiplication.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgecnn.bundle import write_atomically
from edgecnn.export.lowering import lower
from edgecnn.export.numbers import folds, integer_clamp, pixel_qparams
from edgecnn.export.onnx_trace import trace
from edgecnn.graph.ir import Array, Graph, Node, Op, QParams

__all__ = ["build", "render", "trace"]

META_PREFIX = "edgecnn."  # of metadata keys: other tools write into the same table
OPSET = 17
IR_VERSION = 8  # what opset 17 came with: readable by ONNX Runtime 1.12 and later


def render(graph: Graph, path: Path, *, meta: dict[str, str]) -> None:
    """Write ``graph`` to ``path`` as ONNX.

    Input ``image`` uint8 (batch, H, W, C), output ``logits`` float32 (batch, classes); intermediate tensors are NCHW
    and carry the graph's names (in an int8 file: the uint8 tensors). ``meta`` goes into the model's metadata. Raises
    ``ModelError`` when the graph holds something that has no ONNX counterpart.
    """
    write_atomically(path, build(graph, meta=meta).SerializeToString())


def build(graph: Graph, *, meta: dict[str, str]) -> onnx.ModelProto:
    """The same as :func:`render`, as a checked model in memory."""
    graph = lower(graph)
    writer = _Writer(graph)
    for node in graph.nodes:
        _EMITTERS[node.op](writer, node)
    writer.op("Identity", [writer.real(graph.output)], "logits")
    channels, height, width = graph.input.shape
    (classes,) = graph.node(graph.output).shape
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            "edgecnn",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", height, width, channels])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
            writer.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="edgecnn",
    )
    helper.set_model_props(model, {META_PREFIX + key: value for key, value in meta.items()})
    onnx.checker.check_model(model)
    return model


@dataclass
class _Writer:
    graph: Graph
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    dequantized: set[str] = field(default_factory=set)

    def op(self, kind: str, inputs: list[str], output: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attrs))
        return output

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def numbers(self, name: str, scale: Any, zero_point: Any) -> list[str]:
        return [self.constant(f"{name}/scale", np.float32(scale)), self.constant(f"{name}/zero_point", zero_point)]

    def scalar(self, name: str, value: float) -> str:
        """The float view of a quantized constant: one step of size ``abs(value)``."""
        step = self.constant(name, np.array(int(value > 0), np.uint8))
        numbers = self.numbers(name, abs(value), np.array(int(value < 0), np.uint8))
        return self.op("DequantizeLinear", [step, *numbers], f"{name}/real")

    def real(self, name: str) -> str:
        """The float view of a tensor: itself, or its DequantizeLinear (written once)."""
        if not self.graph.quantized:
            return name
        if name not in self.dequantized:
            self.dequantized.add(name)
            numbers = self.numbers(name, self.graph.qparams[name].scale, _unsigned(self.graph.qparams[name]))
            self.op("DequantizeLinear", [name, *numbers], f"{name}/real")
        return f"{name}/real"

    def weight(self, node: Node) -> list[str]:
        """The float views of a node's weight and bias."""
        names = [f"{node.name}.weight", f"{node.name}.bias"]
        for name in names:
            self.constant(name, self.graph.weights[name])
        if not self.graph.quantized:
            return names
        scales = self.graph.weight_scales[node.name].astype(np.float32)
        bias_scales = (scales.astype(np.float64) * self.graph.qparams[node.inputs[0]].scale).astype(np.float32)
        for name, scale, kind in zip(names, (scales, bias_scales), (np.int8, np.int32), strict=True):
            self.op(
                "DequantizeLinear",
                [name, *self.numbers(name, scale, np.zeros(len(scale), kind))],
                f"{name}/real",
                axis=0,
            )
        return [f"{name}/real" for name in names]

    def emit(self, node: Node, kind: str, inputs: list[str], *, scale_by: float = 1.0, **attrs: Any) -> None:
        """Write the operator, then what its output needs: a clamp, or quantization at ``scale * scale_by``."""
        low, high = node.attrs.get("clamp") or (None, None)
        if self.graph.quantized:
            self._quantize(node, self.op(kind, inputs, f"{node.name}/float", **attrs), scale_by)
        elif low is None and high is None:
            self.op(kind, inputs, node.name, **attrs)
        else:
            self.clip(node.name, self.op(kind, inputs, f"{node.name}/unclamped", **attrs), low, high)

    def clip(self, name: str, source: str, low: float | None, high: float | None, dtype: Any = np.float32) -> None:
        if low == 0 and high is None and dtype is np.float32:
            self.op("Relu", [source], name)
            return
        ends = [
            "" if end is None else self.constant(f"{name}/{word}", np.array(end, dtype))
            for word, end in (("low", low), ("high", high))
        ]
        self.op("Clip", [source, *ends], name)

    def _quantize(self, node: Node, source: str, scale_by: float) -> None:
        qparams = self.graph.qparams[node.name]
        bounds = integer_clamp(qparams, node.attrs.get("clamp"))
        name = node.name if bounds is None else f"{node.name}/unclamped"
        numbers = self.numbers(f"{node.name}/out", qparams.scale * scale_by, _unsigned(qparams))
        self.op("QuantizeLinear", [source, *numbers], name)
        if bounds is not None:
            self.clip(node.name, name, bounds[0] + 128, bounds[1] + 128, np.uint8)


def _unsigned(qparams: QParams) -> Array:
    return np.array(qparams.zero_point + 128, np.uint8)


def _input(w: _Writer, node: Node) -> None:
    if w.graph.quantized:
        pixel_qparams(w.graph)  # the pixels are the quantized tensor; this checks that
        w.op("Transpose", ["image"], node.name, perm=[0, 3, 1, 2])
        return
    planes = w.op("Transpose", ["image"], f"{node.name}/planes", perm=[0, 3, 1, 2])
    if folds(w.graph):
        scale, zero_point = pixel_qparams(w.graph)
        w.op(
            "DequantizeLinear",
            [planes, *w.numbers(f"{node.name}/pixel", scale, np.array(zero_point, np.uint8))],
            node.name,
        )
        return
    mean, std = (np.array(node.attrs[word], np.float64).reshape(-1, 1, 1) for word in ("mean", "std"))
    factor = w.constant(f"{node.name}/factor", (1 / (255 * std)).astype(np.float32))
    offset = w.constant(f"{node.name}/offset", (-mean / std).astype(np.float32))
    scaled = w.op(
        "Mul", [w.op("Cast", [planes], f"{node.name}/cast", to=TensorProto.FLOAT), factor], f"{node.name}/scaled"
    )
    w.op("Add", [scaled, offset], node.name)


def _conv(w: _Writer, node: Node) -> None:
    a = node.attrs
    w.emit(
        node,
        "Conv",
        [w.real(node.inputs[0]), *w.weight(node)],
        kernel_shape=a["kernel"],
        strides=a["stride"],
        pads=a["padding"],
        dilations=a["dilation"],
        group=a["groups"],
    )


def _linear(w: _Writer, node: Node) -> None:
    w.emit(node, "Gemm", [w.real(node.inputs[0]), *w.weight(node)], transB=1)


def _max_pool(w: _Writer, node: Node) -> None:
    a = node.attrs
    pads = a.get("padding", [0, 0, 0, 0])
    w.emit(node, "MaxPool", [w.real(node.inputs[0])], kernel_shape=a["kernel"], strides=a["stride"], pads=pads)


def _avg_pool(w: _Writer, node: Node) -> None:
    kernel, stride = node.attrs["kernel"], node.attrs["stride"]
    source = w.real(node.inputs[0])
    if not w.graph.quantized:
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


def _pad(w: _Writer, node: Node) -> None:
    top, left, bottom, right = node.attrs["padding"]
    pads = w.constant(f"{node.name}/pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    if (
        w.graph.quantized
    ):  # on the integers: ONNX Runtime does not fuse a Pad between DequantizeLinear and QuantizeLinear
        zero = w.constant(f"{node.name}/zero", _unsigned(w.graph.qparams[node.name]))
        w.op("Pad", [node.inputs[0], pads, zero], node.name)
    else:
        w.emit(node, "Pad", [w.real(node.inputs[0]), pads])


def _plain(kind: str, **attrs: Any) -> Callable[[_Writer, Node], None]:
    def emit(w: _Writer, node: Node) -> None:
        w.emit(node, kind, [w.real(name) for name in node.inputs], **attrs)

    return emit


def _silu(w: _Writer, node: Node) -> None:
    source = w.real(node.inputs[0])
    w.emit(node, "Mul", [source, w.op("Sigmoid", [source], f"{node.name}/sigmoid")])


def _affine(w: _Writer, node: Node) -> None:
    """``factor * (x + offset / factor)``; quantized, the factor lives in the output's scale."""
    factor, offset = float(node.attrs["factor"]), float(node.attrs["offset"])
    source = w.real(node.inputs[0])
    if not w.graph.quantized:
        scaled = w.op("Mul", [source, w.constant(f"{node.name}/factor", np.float32(factor))], f"{node.name}/scaled")
        w.emit(node, "Add", [scaled, w.constant(f"{node.name}/offset", np.float32(offset))])
    elif offset == 0:
        w.emit(node, "Mul", [source, w.scalar(f"{node.name}/factor", factor)])
    else:
        source = source if factor > 0 else _negated(w, node, source)
        shift = w.scalar(f"{node.name}/shift", offset / abs(factor))
        w.emit(node, "Add", [source, shift], scale_by=1 / abs(factor))


def _negated(w: _Writer, node: Node, source: str) -> str:
    """``-x``, exactly: q becomes ``255 - q``."""
    q = w.graph.qparams[node.inputs[0]]
    name = f"{node.name}/negated"
    numbers = w.numbers(name, q.scale, np.array(127 - q.zero_point, np.uint8))
    product = w.op("Mul", [source, w.scalar(f"{node.name}/minus", -1.0)], f"{name}/float")
    return w.op("DequantizeLinear", [w.op("QuantizeLinear", [product, *numbers], name), *numbers], f"{name}/real")


def _clamp(w: _Writer, node: Node) -> None:
    if w.graph.quantized:
        # Times one: with nothing between them, the two roundings would be merged into one.
        w.emit(node, "Mul", [w.real(node.inputs[0]), w.scalar(f"{node.name}/one", 1.0)])
    else:
        w.clip(node.name, node.inputs[0], *node.attrs["clamp"])


_EMITTERS: dict[Op, Callable[[_Writer, Node], None]] = {
    Op.INPUT: _input,
    Op.CONV: _conv,
    Op.LINEAR: _linear,
    Op.ADD: _plain("Add"),
    Op.MUL: _plain("Mul"),
    Op.MEAN: _plain("GlobalAveragePool"),
    Op.MAX_POOL: _max_pool,
    Op.AVG_POOL: _avg_pool,
    Op.FLATTEN: _plain("Flatten", axis=1),
    Op.CONCAT: _plain("Concat", axis=1),
    Op.PAD: _pad,
    Op.CLAMP: _clamp,
    Op.AFFINE: _affine,
    Op.HARD_SWISH: _plain("HardSwish"),
    Op.HARD_SIGMOID: _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    Op.SIGMOID: _plain("Sigmoid"),
    Op.SILU: _silu,
}
