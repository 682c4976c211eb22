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
into the operators as they are: with a float input that makes them hybrid ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecnn.export.numbers import integer_clamp
from edgecnn.export.tflite_builder import Quantization, TFLiteBuilder
from edgecnn.graph.ir import Array, Graph, Node
from edgecnn.graph.weights import is_int4

Options = dict[str, Any]

# The newest operator version each int8 kernel needs (1 in float); older runtimes refuse a newer version, so no higher
# than that.
_INT8_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "RESHAPE": 1}
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
    builder: TFLiteBuilder = field(default_factory=TFLiteBuilder)
    index: dict[str, int] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)  # declared scale over the graph's scale, where it is not 1
    flattened: dict[str, tuple[int, ...]] = field(
        default_factory=dict
    )  # tensors in (H, W, C) order, with their (C, H, W)
    restored: dict[str, int] = field(default_factory=dict)

    def quantization(self, name: str, ratio: float = 1.0) -> Quantization | None:
        """The declared quantization of a tensor of the graph; ``None`` in a float graph."""
        if not self.graph.quantized:
            return None
        q = self.graph.qparams[name]
        return Quantization(np.array([q.scale * ratio]), np.array([q.zero_point]))

    @property
    def dtype(self) -> str:
        """What activations are made of."""
        return "int8" if self.graph.quantized else "float32"

    def tensor(self, node: Node, suffix: str = "", ratio: float = 1.0, like: str = "") -> int:
        """A tensor shaped as ``node``'s, quantized as ``like``'s (default: as its own)."""
        return self.builder.activation(
            node.name + suffix, channels_last(node.shape), self.dtype, self.quantization(like or node.name, ratio)
        )

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
        one = np.array([1], self.dtype)
        numbers = symmetric(1 / ratio) if self.graph.quantized else None
        return [self.index[name], self.builder.constant(f"{name}/one{reader and '/for/'}{reader}", one, numbers)]

    def operator(
        self, kind: str, inputs: list[int], output: int, options: Options | None = None, *, table: str = ""
    ) -> int:
        """An operator in the version that the arithmetic needs."""
        version = _INT8_VERSIONS.get(kind, 2) if self.graph.quantized else 1
        return self.builder.operator(kind, inputs, output, options, table=table, version=version)

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
        if _is_open(clamp) or (self.graph.quantized and integer_clamp(self.graph.qparams[node.name], clamp) is None):
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
        low, high = _bounds(node.attrs["clamp"])
        bounds: tuple[Any, Any] = (low, high)
        if self.graph.quantized:
            bounds = integer_clamp(self.graph.qparams[node.name], [low, high]) or (None, None)
        steps = [
            (kind, end)
            for kind, end in zip(("MAXIMUM", "MINIMUM"), bounds, strict=True)
            if end not in (None, -128, 127)
        ]
        for number, (kind, end) in enumerate(steps):
            name = f"{node.name}/{kind.lower()}"
            limit = self.builder.constant(name, np.array([end], self.dtype), self.quantization(node.name, ratio))
            target = self.tensor(node, "" if number == len(steps) - 1 else f"/{number}", ratio)
            source = self.operator(kind, [source, limit], target, table="MaximumMinimumOptions")
        self.index[node.name] = source

    def weights(self, node: Node, weight: Array, axis: int) -> list[int]:
        """Constants for a weight (in TFLite's layout, output channels along ``axis``) and the bias of ``node``."""
        bias = self.graph.weights[f"{node.name}.bias"]
        if not self.graph.quantized:
            scale = self.graph.weight_scales.get(node.name)
            numbers = None if scale is None else Quantization(scale, np.zeros(len(scale), np.int64), axis)
            return [self._stored(node, "weight", weight, numbers), self._stored(node, "bias", bias, None)]
        source = node.inputs[0]
        zeros = np.zeros(len(bias), np.int64)
        scales = self.graph.weight_scales[node.name].astype(np.float64)
        weight_numbers = Quantization(scales / self.ratio.get(source, 1.0), zeros, axis)
        bias_numbers = Quantization(scales * self.graph.qparams[source].scale, zeros)
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
            least = -128 if self.graph.quantized else np.finfo(np.float32).min
            numbers = self.quantization(name, self.ratio_in(node))
            value = self.builder.constant(f"{node.name}/lowest", np.array([least], self.dtype), numbers)
        return self.pad(node, f"{node.name}/padded", value), words.VALID

    def pad(self, node: Node, name: str, value: int | None = None) -> int:
        """A tensor ``name``: ``node``'s input with zeros (or the constant ``value``) around H and W."""
        top, left, bottom, right = node.attrs["padding"]
        channels, height, width = self.graph.node(node.inputs[0]).shape
        wide = (height + top + bottom, width + left + right, channels)
        output = self.builder.activation(name, wide, self.dtype, self.quantization(node.inputs[0], self.ratio_in(node)))
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        inputs = [self.index[node.inputs[0]], self.builder.constant(f"{node.name}/padding", amounts)]
        if value is not None:
            return self.operator("PADV2", [*inputs, value], output, table="PadV2Options")
        return self.operator("PAD", inputs, output, table="PadOptions")

    def requantized(self, name: str, like: Node) -> int:
        """The tensor ``name`` in the numbers of ``like``'s output."""
        if not self.graph.quantized or self.graph.qparams[name] == self.graph.qparams[like.name]:
            return self.true(name)
        output = self.tensor(self.graph.node(name), f"/for/{like.name}", like=like.name)
        return self.operator("MUL", self.times_one(name, like.name), output, table="MulOptions")

    def _never_negative(self, name: str) -> bool:
        """Whether zeros around the tensor are as good as the lowest value."""
        if self.graph.quantized:
            return self.graph.qparams[name].zero_point == -128
        low, _ = _bounds(self.graph.node(name).attrs.get("clamp"))
        return low is not None and low >= 0


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, H, W) -> (H, W, C); (C,) as it is."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def padding_word(
    size: tuple[int, ...],
    output: tuple[int, ...],
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    padding: list[int],
) -> str | None:
    """``VALID`` or ``SAME`` if that means exactly ``padding``, else ``None``. All are (height, width).

    TensorFlow's SAME: ``output = ceil(size / stride)``, and ``max((output - 1) * stride + reach - size, 0)`` zeros,
    the smaller half of them before. Zeros after that no window reaches do not count.
    """
    words = {"SAME", "VALID"}
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * dilation[axis] + 1
        before = padding[axis]
        after = max((output[axis] - 1) * stride[axis] + reach - size[axis] - before, 0)
        if before or after:
            words.discard("VALID")
        total = max((output[axis] - 1) * stride[axis] + reach - size[axis], 0)
        if output[axis] != -(-size[axis] // stride[axis]) or before != total // 2 or after != total - total // 2:
            words.discard("SAME")
    return min(words, key=("VALID", "SAME").index, default=None)


def _bounds(clamp: list[float | None] | None) -> tuple[float | None, float | None]:
    low, high = clamp or (None, None)
    return (None if low is None else float(low)), (None if high is None else float(high))


def _is_open(clamp: list[float | None] | None) -> bool:
    return _bounds(clamp) == (None, None)


def symmetric(scale: float) -> Quantization:
    """One scale, zero point 0."""
    return Quantization(np.array([scale]), np.array([0]))
