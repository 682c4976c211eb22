"""The nodes and constants of an ONNX file while it is written; :mod:`edgecnn.export.onnx` explains the int8 choices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgecnn.export.numbers import integer_clamp
from edgecnn.graph.ir import Array, Graph, Node, QParams
from edgecnn.graph.weights import is_int4, pack_int4, real_weight

MOVED = "/moved"  # of an integer tensor whose values are only moved: what it is dequantized to does not matter
SOURCE = "/source"  # of a tensor that is made real by plain arithmetic


@dataclass
class ONNXWriter:
    """The state of one rendering."""

    graph: Graph
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    dequantized: set[str] = field(default_factory=set)

    def op(self, kind: str, inputs: list[str], output: str, **attrs: Any) -> str:
        """Write an operator of one output, which is named as it is. Returns ``output``."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attrs))
        return output

    def constant(self, name: str, value: Any) -> str:
        """A tensor whose value is in the file. Returns ``name``."""
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def numbers(self, name: str, scale: Any, zero_point: Any) -> list[str]:
        """Scale and zero point as constants."""
        return [self.constant(f"{name}/scale", np.float32(scale)), self.constant(f"{name}/zero_point", zero_point)]

    def scalar(self, name: str, value: float) -> str:
        """The float view of a quantized constant: one step of size ``abs(value)``."""
        step = self.constant(name, np.array(int(value > 0), np.uint8))
        numbers = self.numbers(name, abs(value), np.array(int(value < 0), np.uint8))
        return self.op("DequantizeLinear", [step, *numbers], f"{name}/real")

    def real(self, name: str) -> str:
        """The float view of a tensor: itself, or its DequantizeLinear (written once)."""
        qparams = self.graph.qparams.get(name)
        if qparams is None:
            return name
        if name not in self.dequantized:
            self.dequantized.add(name)
            self.op("DequantizeLinear", [name, *self.numbers(name, qparams.scale, zero_point(qparams))], f"{name}/real")
        return f"{name}/real"

    def source(self, node: Node) -> str:
        """The float view of what a layer with weights reads.

        ONNX Runtime takes float weights between DequantizeLinear and QuantizeLinear for a mistake and rounds them to
        int8, with one scale for all; and it moves these two about. A layer that is to stay in float gets its input by
        plain arithmetic.
        """
        (name,) = node.inputs
        qparams, view = self.graph.qparams.get(name), f"{node.name}{SOURCE}"
        if self.graph.is_integer(node) or qparams is None:
            return self.real(name)
        whole = self.op("Cast", [name], f"{view}/whole", to=onnx.TensorProto.FLOAT)
        zero = self.constant(f"{view}/zero", zero_point(qparams).astype(np.float32))
        scale = self.constant(f"{view}/scale", np.float32(qparams.scale))
        return self.op("Mul", [self.op("Sub", [whole, zero], f"{view}/centred"), scale], view)

    def weight(self, node: Node) -> list[str]:
        """The float views of a node's weight and bias."""
        names = [f"{node.name}.weight", f"{node.name}.bias"]
        if not self.graph.is_integer(node):
            return [self._stored(node, name) for name in names]
        for name in names:
            self.constant(name, self.graph.weights[name])
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

    def _stored(self, node: Node, name: str) -> str:
        """The float32 view of a weight or bias of a layer that is computed in real numbers.

        Cast and Mul, not DequantizeLinear: see :mod:`edgecnn.export.onnx`.
        """
        value, scale = self.graph.weights[name], self.graph.weight_scales.get(node.name)
        if value.dtype == np.float32:
            return self.constant(name, value)
        if value.dtype == np.int32:  # of a layer whose output is open
            return self.constant(name, real_weight(self.graph, name))
        if value.dtype == np.float16 or scale is None:
            return self.op("Cast", [self.constant(name, value)], f"{name}/real", to=onnx.TensorProto.FLOAT)
        if not is_int4(self.graph, node.name):
            self.constant(name, value)
            return self._scaled(name, scale.reshape(-1, *[1] * (value.ndim - 1)), f"{name}/real")
        dims = (*scale.shape, value[0].size // scale.shape[1])
        packed = pack_int4(value).tobytes()
        self.constants.append(helper.make_tensor(name, onnx.TensorProto.INT4, dims, packed, raw=True))
        shape = self.constant(f"{name}/shape", np.array(value.shape, np.int64))
        return self.op("Reshape", [self._scaled(name, scale[..., None], f"{name}/groups"), shape], f"{name}/real")

    def _scaled(self, name: str, scale: Array, output: str) -> str:
        cast = self.op("Cast", [name], f"{name}/cast", to=onnx.TensorProto.FLOAT)
        return self.op("Mul", [cast, self.constant(f"{name}/scale", scale)], output)

    def emit(self, node: Node, kind: str, inputs: list[str], *, scale_by: float = 1.0, **attrs: Any) -> None:
        """Write the operator, then what its output needs: a clamp, or quantization at ``scale * scale_by``."""
        if self.graph.is_integer(node):
            self._quantize(node, self.op(kind, inputs, f"{node.name}/float", **attrs), scale_by)
            return
        clamped, quantized = has_clamp(node), node.name in self.graph.qparams
        suffix = "/unclamped" if clamped else "/float" if quantized else ""
        self.finish(node, self.op(kind, inputs, node.name + suffix, **attrs))

    def finish(self, node: Node, source: str) -> None:
        """What the output of a node that computes in float needs: its clamp, and its numbers if it has some."""
        qparams = self.graph.qparams.get(node.name)
        if has_clamp(node):
            target = node.name if qparams is None else f"{node.name}/float"
            self.clip(target, source, *node.attrs["clamp"])
            source = target
        if qparams is not None:
            numbers = self.numbers(f"{node.name}/out", qparams.scale, zero_point(qparams))
            self.op("QuantizeLinear", [source, *numbers], node.name)

    def move(self, node: Node, kind: str, *more: str, **attrs: Any) -> None:
        """An operator that moves values and computes nothing: on the integers where the node has them."""
        if self.graph.is_integer(node):
            self.op(kind, [node.inputs[0], *more], node.name, **attrs)
        else:
            self.emit(node, kind, [self.real(node.inputs[0]), *more], **attrs)

    def clip(self, name: str, source: str, low: float | None, high: float | None, dtype: Any = np.float32) -> None:
        """A clamp: Relu where that says it, else Clip."""
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
        numbers = self.numbers(f"{node.name}/out", qparams.scale * scale_by, zero_point(qparams))
        self.op("QuantizeLinear", [source, *numbers], name)
        if bounds is not None:
            self.clip(node.name, name, bounds[0] + 128, bounds[1] + 128, np.uint8)


def has_clamp(node: Node) -> bool:
    """Whether the node clamps its output."""
    return any(end is not None for end in node.attrs.get("clamp") or ())


def zero_point(qparams: QParams) -> Array:
    """The zero point in the file: of the uint8 that stands for an int8, or of an int16."""
    return np.array(0, np.int16) if qparams.bits == 16 else np.array(qparams.zero_point + 128, np.uint8)
