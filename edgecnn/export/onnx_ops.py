"""The nodes and constants of an ONNX file while it is written; :mod:`edgecnn.export.onnx` explains the int8 choices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgecnn.export.numbers import integer_clamp
from edgecnn.graph.ir import Array, Graph, Node, QParams


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
        if not self.graph.quantized:
            return name
        if name not in self.dequantized:
            self.dequantized.add(name)
            numbers = self.numbers(name, self.graph.qparams[name].scale, unsigned(self.graph.qparams[name]))
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
        numbers = self.numbers(f"{node.name}/out", qparams.scale * scale_by, unsigned(qparams))
        self.op("QuantizeLinear", [source, *numbers], name)
        if bounds is not None:
            self.clip(node.name, name, bounds[0] + 128, bounds[1] + 128, np.uint8)


def unsigned(qparams: QParams) -> Array:
    """The zero point of the uint8 that stands for an int8."""
    return np.array(qparams.zero_point + 128, np.uint8)
