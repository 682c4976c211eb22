"""How each operator of the graph is said in TFLite.

Tensors are NHWC. In int8, this is done so that XNNPACK takes every operator and rounds as the graph says:

* ``factor * x + offset`` is an ADD: ``x + offset / factor``. The tensor's *declared* scale is then ``1 / factor``
  times the graph's while its integers are the graph's. MUL, MEAN and reshapes hand that ratio on, a convolution
  divides it out of its weight scales; only where true values are needed (ADD with another ratio, CONCAT, SIGMOID, the
  output) does a MUL by a constant restore it, which changes no integer. Hard-swish costs one ADD and one MUL this way;
  TFLite's own int8 HARD_SWISH is not taken by XNNPACK and is ten times slower.
* an AVG_POOL is a depthwise convolution with weights 1, since XNNPACK has no int8 average pooling.
* other numbers for a tensor are a MUL by 1: XNNPACK's QUANTIZE between int8 tensors is a step off for one in eight.
* a clamp implied by the int8 range is not written.

Weights that are stored in fewer bits and computed in float32 are constants of int8, INT4 or float16 behind a
DEQUANTIZE, which LiteRT computes once. Where activations are quantized while the network runs, the int8 constants go
into the operators as they are: with a float input that makes them hybrid ones. With 16-bit activations (TFLite's 16x8
scheme: weights int8, biases int64) the built-in kernels compute, not XNNPACK.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecnn.export.borders import kind_of
from edgecnn.export.numbers import integer_clamp
from edgecnn.export.tflite_builder import Quantization, TFLiteBuilder
from edgecnn.export.tflite_padding import padding_word
from edgecnn.graph.ir import Array, Graph, Node
from edgecnn.graph.weights import is_int4
from edgecnn.spec import IO

Options = dict[str, Any]

# The newest operator version each integer kernel needs (1 in float), and that of the others; older runtimes refuse a
# newer version, so no higher than that.
_VERSIONS = {
    "int8": ({"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "RESHAPE": 1}, 2),
    "int16": (
        {
            **{"CONV_2D": 4, "DEPTHWISE_CONV_2D": 5, "FULLY_CONNECTED": 7, "RESHAPE": 1, "QUANTIZE": 2, "MUL": 4},
            **{"MAXIMUM": 4, "MINIMUM": 4, "TRANSPOSE": 5, "STRIDED_SLICE": 4},
        },
        3,
    ),
}
# Clamps as a fused activation and, where one does not say it, an operator after it (XNNPACK takes no RELU_0_TO_1).
_FUSED: dict[tuple[float | None, float | None], tuple[str, str]] = {
    (0.0, None): ("RELU", ""),
    (0.0, 6.0): ("RELU6", ""),
    (-1.0, 1.0): ("RELU_N1_TO_1", ""),
    (0.0, 1.0): ("RELU_N1_TO_1", "RELU"),
}
_FUSING_TABLES = {"Conv2DOptions", "DepthwiseConv2DOptions", "FullyConnectedOptions", "AddOptions", "MulOptions"}


@dataclass
class TFLiteWriter:
    """The state of one rendering: what each tensor of the graph has become."""

    graph: Graph
    io: IO = IO.PICTURE
    builder: TFLiteBuilder = field(default_factory=TFLiteBuilder)
    index: dict[str, int] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)  # declared scale over the graph's scale, where it is not 1
    flattened: dict[str, tuple[int, ...]] = field(
        default_factory=dict
    )  # tensors in (H, W, C) order, with their (C, H, W)
    restored: dict[str, int] = field(default_factory=dict)

    def quantization(self, name: str, ratio: float = 1.0) -> Quantization | None:
        """The declared quantization of a tensor of the graph; ``None`` for float."""
        q = self.graph.qparams.get(name)
        if q is None:
            return None
        return Quantization(np.array([q.scale * ratio]), np.array([q.zero_point]))

    def kind(self, name: str) -> str:
        """What a tensor is made of: all around a node, but for its own weights, are of one kind."""
        return kind_of(self.graph, name)

    def is_float(self, node: Node) -> bool:
        """Whether a node computes in float."""
        return self.kind(node.name) == "float32"

    def tensor(self, node: Node, suffix: str = "", ratio: float = 1.0, like: str = "") -> int:
        """A tensor shaped as ``node``'s, quantized as ``like``'s (default: as its own)."""
        return self.builder.activation(
            node.name + suffix,
            channels_last(node.shape),
            self.kind(like or node.name),
            self.quantization(like or node.name, ratio),
        )

    def named(self, name: str, index: int) -> int:
        """The tensor at ``index``, which is called ``name`` from now on."""
        self.builder.tensors[index].name = name
        return index

    def true(self, name: str) -> int:
        """The tensor ``name`` at the graph's own scale."""
        if self.ratio.get(name, 1.0) == 1.0:
            return self.index[name]
        if name not in self.restored:
            output = self.tensor(self.graph.node(name), "/restored")
            self.restored[name] = self.operator("MUL", self.times_one(name), output, table="MulOptions")
        return self.restored[name]

    def times_one(self, name: str, reader: str = "") -> list[int]:
        """The inputs of a MUL by 1 of the tensor ``name`` (by whatever makes its declared scale the graph's).

        In int8 this is how a tensor gets other numbers: XNNPACK rounds a MUL exactly, its requantizing QUANTIZE does
        not.
        """
        ratio = self.ratio.get(name, 1.0)
        one = np.array([1], self.kind(name))
        numbers = None if self.kind(name) == "float32" else symmetric(1 / ratio)
        return [self.index[name], self.builder.constant(f"{name}/one{reader and '/for/'}{reader}", one, numbers)]

    def operator(
        self, kind: str, inputs: list[int], output: int, options: Options | None = None, *, table: str = ""
    ) -> int:
        """An operator in the version that the arithmetic needs."""
        options = dict(options or {})
        kinds = {self.builder.dtypes[index] for index in (inputs[0], output)}
        integer = next((each for each in ("int16", "int8") if each in kinds), None)
        versions, others = _VERSIONS[integer] if integer else ({}, 1)
        if kind == "ADD" and integer == "int16":
            options["potScaleInt16"] = False  # any scale, not only powers of two
        return self.builder.operator(kind, inputs, output, options, table=table, version=versions.get(kind, others))

    def emit(
        self,
        node: Node,
        kind: str,
        inputs: list[int],
        options: Options | None = None,
        *,
        table: str = "",
        ratio: float = 1.0,
    ) -> None:
        """The operator that computes ``node``, with its clamp: fused if possible, else a MAXIMUM and a MINIMUM."""
        clamp = node.attrs.get("clamp")
        if ratio != 1.0:
            self.ratio[node.name] = ratio
        if _is_open(clamp) or (not self.is_float(node) and self._steps(node) is None):
            self.index[node.name] = self.operator(kind, inputs, self.tensor(node, ratio=ratio), options, table=table)
        elif table in _FUSING_TABLES and _bounds(clamp) in _FUSED and ratio == 1.0:
            self._fuse(node, kind, inputs, dict(options or {}), table)
        else:
            wide = self.operator(kind, inputs, self.tensor(node, "/unclamped", ratio), options, table=table)
            self.clamp(node, wide, ratio)

    def _fuse(self, node: Node, kind: str, inputs: list[int], options: Options, table: str) -> None:
        first, second = _FUSED[_bounds(node.attrs["clamp"])]
        options["fusedActivationFunction"] = getattr(self.builder.schema.ActivationFunctionType, first)
        output = self.operator(kind, inputs, self.tensor(node, "/unclamped" if second else ""), options, table=table)
        self.index[node.name] = self.operator(second, [output], self.tensor(node)) if second else output

    def clamp(self, node: Node, source: int, ratio: float = 1.0) -> None:
        """Clamp ``source``, which is quantized as ``node`` is, into ``node``'s tensor."""
        bounds: tuple[Any, Any] = _bounds(node.attrs["clamp"])
        ends: tuple[int, ...] = ()
        if not self.is_float(node):
            bounds, ends = self._steps(node) or (None, None), self.graph.qparams[node.name].ends
        steps = [
            (kind, end)
            for kind, end in zip(("MAXIMUM", "MINIMUM"), bounds, strict=True)
            if end is not None and end not in ends
        ]
        for number, (kind, end) in enumerate(steps):
            name, dtype = f"{node.name}/{kind.lower()}", self.kind(node.name)
            limit = self.builder.constant(name, np.array([end], dtype), self.quantization(node.name, ratio))
            target = self.tensor(node, "" if number == len(steps) - 1 else f"/{number}", ratio)
            source = self.operator(kind, [source, limit], target, table="MaximumMinimumOptions")
        self.index[node.name] = source

    def weights(self, node: Node, weight: Array, axis: int) -> list[int]:
        """Constants for a weight (in TFLite's layout, output channels along ``axis``) and the bias of ``node``."""
        bias = self.graph.weights[f"{node.name}.bias"]
        if self.is_float(node):
            scale = self.graph.weight_scales.get(node.name)
            numbers = None if scale is None else Quantization(scale, np.zeros(len(scale), np.int64), axis)
            return [self._stored(node, "weight", weight, numbers), self._stored(node, "bias", bias, None)]
        source = node.inputs[0]
        zeros = np.zeros(len(bias), np.int64)
        scales = self.graph.weight_scales[node.name].astype(np.float64)
        weight_numbers = Quantization(scales / self.ratio.get(source, 1.0), zeros, axis)
        steps = scales * self.graph.qparams[source].scale
        bias_numbers = Quantization(steps, zeros)
        if node.bits == 16:
            bias = np.rint(bias.astype(np.float64) / steps).astype(np.int64)
        return [
            self.builder.constant(f"{node.name}.weight", weight, weight_numbers),
            self.builder.constant(f"{node.name}.bias", bias, bias_numbers),
        ]

    def _stored(self, node: Node, word: str, value: Array, numbers: Quantization | None) -> int:
        """A weight or bias of a network that is computed in real numbers, made float32 where it is stored in less.

        Where activations are quantized while the network runs, the kernel takes the int8 weight as it is.
        """
        name = f"{node.name}.{word}"
        if value.dtype == np.float32 or (node.attrs.get("dynamic") and numbers is not None):
            return self.builder.constant(name, value, numbers)
        write = self.builder.constant
        if numbers is not None and is_int4(self.graph, node.name):
            write = self.builder.constant_int4
        source, output = write(name, value, numbers), self.builder.computed(f"{name}/real", value.shape)
        return self.builder.operator("DEQUANTIZE", [source], output, table="DequantizeOptions")

    def ratio_in(self, node: Node) -> float:
        """The ratio of ``node``'s first input."""
        return self.ratio.get(node.inputs[0], 1.0)

    def padding_word(self, node: Node) -> str | None:
        """``SAME``, ``VALID`` or ``None`` for ``node``'s padding."""
        a = node.attrs
        size, dilation = self.graph.node(node.inputs[0]).shape[1:], a.get("dilation", [1, 1])
        padding = a.get("padding", [0, 0, 0, 0])
        return padding_word(size, node.shape[1:], a["kernel"], a["stride"], dilation, padding)

    def padded(self, node: Node, lowest: bool = False) -> tuple[int, int]:
        """``node``'s input, padded (zeros or the lowest value) where neither SAME nor VALID says it, and the word."""
        (name,) = node.inputs
        words = self.builder.schema.Padding
        word = self.padding_word(node)
        if word is not None:
            return self.index[name], getattr(words, word)
        value = None
        if lowest and not self._never_negative(name):
            least = np.finfo(np.float32).min if self.is_float(node) else self.graph.qparams[name].ends[0]
            numbers = self.quantization(name, self.ratio_in(node))
            value = self.builder.constant(f"{node.name}/lowest", np.array([least], self.kind(name)), numbers)
        return self.pad(node, f"{node.name}/padded", value), words.VALID

    def pad(self, node: Node, name: str, value: int | None = None) -> int:
        """A tensor ``name``: ``node``'s input with zeros (or the constant ``value``) around H and W."""
        top, left, bottom, right = node.attrs["padding"]
        channels, height, width = self.graph.node(node.inputs[0]).shape
        wide = (height + top + bottom, width + left + right, channels)
        source = node.inputs[0]
        numbers = self.quantization(source, self.ratio_in(node))
        output = self.builder.activation(name, wide, self.kind(source), numbers)
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        inputs = [self.index[source], self.builder.constant(f"{node.name}/padding", amounts)]
        if value is not None:
            return self.operator("PADV2", [*inputs, value], output, table="PadV2Options")
        return self.operator("PAD", inputs, output, table="PadOptions")

    def requantized(self, name: str, like: Node) -> int:
        """The tensor ``name`` in the numbers of ``like``'s output."""
        if self.graph.qparams.get(name) == self.graph.qparams.get(like.name):
            return self.true(name)
        output = self.tensor(self.graph.node(name), f"/for/{like.name}", like=like.name)
        return self.operator("MUL", self.times_one(name, like.name), output, table="MulOptions")

    def _steps(self, node: Node) -> tuple[int, int] | None:
        """The clamp of a node in steps of its output, if it is not implied."""
        return integer_clamp(self.graph.qparams[node.name], node.attrs.get("clamp"))

    def _never_negative(self, name: str) -> bool:
        """Whether zeros around the tensor are as good as the lowest value."""
        qparams = self.graph.qparams.get(name)
        if qparams is not None and qparams.bits == 8:
            return qparams.zero_point == -128
        low, _ = _bounds(self.graph.node(name).attrs.get("clamp"))
        return low is not None and low >= 0


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, H, W) -> (H, W, C); (C,) as it is."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _bounds(clamp: list[float | None] | None) -> tuple[float | None, float | None]:
    low, high = clamp or (None, None)
    return (None if low is None else float(low)), (None if high is None else float(high))


def _is_open(clamp: list[float | None] | None) -> bool:
    return _bounds(clamp) == (None, None)


def symmetric(scale: float) -> Quantization:
    """One scale, zero point 0."""
    return Quantization(np.array([scale]), np.array([0]))
