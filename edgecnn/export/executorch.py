"""ExecuTorch (``.pte``) for its XNNPACK backend: float32, or int8 as quantize and dequantize operators.

The graph becomes a torch module in the operators that XNNPACK's partitioner knows, and ``to_edge_transform_and_lower``
hands them to XNNPACK: all of them are in one delegate, but for the conversion of the pixels. What int8 needs for that:

* Between a convolution or linear layer and its quantize there may be a relu or a hardtanh. With any other operator
  there, a clamp say, the layer's weights stay outside the delegate and no file can be written ("Missing out variants:
  quantized_decomposed::dequantize_per_channel"). A clamp that the int8 range implies is not written.
* Every reader has a dequantize of its own.
* Weights are dequantized per channel; biases are float, and XNNPACK rounds them back to the same int32.
* An AVG_POOL is a depthwise convolution with weights 1: there is no int8 average pooling.
* What has no int8 kernel there (AFFINE, PAD, SIGMOID, a clamped addition, other numbers for a tensor in a CONCAT) is
  computed in float32 between a dequantize and a quantize, which is what :mod:`edgecnn.graph.integer` says, up to ties.

A program has fixed shapes: its batch is 1. ``meta`` is in the program as methods ``edgecnn_KEY`` without arguments.
Tensors inside the delegate cannot be looked at, so there is no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.bundle import write_atomically
from edgecnn.catalog import require
from edgecnn.errors import ModelError
from edgecnn.export.lowering import lower
from edgecnn.export.numbers import integer_clamp
from edgecnn.graph import real
from edgecnn.graph.ir import Array, Graph, Node, Op, QParams

META_PREFIX = "edgecnn_"
INT8 = (-128, 127, torch.int8)


def render(graph: Graph, path: Path, *, meta: dict[str, str]) -> None:
    """Write ``graph`` to ``path`` as an ExecuTorch program.

    Input uint8 (1, H, W, C), output logits float32 (1, classes). Raises ``ModelError`` for a graph that is
    neither float32 nor int8 throughout, ``MissingPackageError`` without ExecuTorch.
    """
    narrowed = not graph.quantized and any(array.dtype != np.float32 for array in graph.weights.values())
    if narrowed or (graph.quantized and any(node.bits != 8 for node in graph.nodes)):
        raise ModelError(
            "the graph is neither float32 nor int8 throughout", hint="no others are written for ExecuTorch"
        )
    exir = require("executorch.exir", extra="executorch")
    partition = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", extra="executorch")
    channels, height, width = graph.input.shape
    module = Int8(lower(graph)) if graph.quantized else Float(graph)
    picture = torch.zeros(1, height, width, channels, dtype=torch.uint8)
    lowered = exir.to_edge_transform_and_lower(
        torch.export.export(module.eval(), (picture,)),
        partitioner=[partition.XnnpackPartitioner()],
        constant_methods={META_PREFIX + key: value for key, value in meta.items()},
    )
    write_atomically(path, lowered.to_executorch().buffer)


class Float(nn.Module):
    """A float graph: images (1, H, W, C) uint8 -> logits (1, K) float32."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        for key, array in graph.weights.items():
            self.register_buffer(_buffer(key), torch.from_numpy(np.array(array)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of one picture."""
        values: dict[str, Tensor] = {}
        for node in self.graph.nodes:
            inputs = [values[name] for name in node.inputs]
            weight, bias = (self._buffers.get(_buffer(f"{node.name}.{key}")) for key in ("weight", "bias"))
            is_input = node.op is Op.INPUT
            values[node.name] = real.read_pixels(node, images) if is_input else real.compute(node, inputs, weight, bias)
        return values[self.graph.output]


class Int8(nn.Module):
    """A quantized, lowered graph: images (1, H, W, C) uint8 -> logits (1, K) float32."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        for name, scale in graph.weight_scales.items():
            source = graph.qparams[graph.node(name).inputs[0]].scale
            bias = graph.weights[f"{name}.bias"] * (scale.astype(np.float64) * source)
            self._hold(name, graph.weights[f"{name}.weight"], scale, bias)
        for node in graph.nodes:
            if node.op is Op.AVG_POOL:
                channels, kernel = node.shape[0], node.attrs["kernel"]
                share = np.full(channels, 1 / (kernel[0] * kernel[1]))
                self._hold(node.name, np.ones((channels, 1, *kernel), np.int8), share, np.zeros(channels))

    def _hold(self, name: str, weight: Array, scale: Array, bias: Array) -> None:
        """Keep what ``_layer`` will read: weight int8 (O, ...), its scale (O,), bias (O,) in real numbers."""
        zero = np.zeros(len(weight), np.int64)
        for key, value in {
            "weight": weight,
            "scale": np.float32(scale),
            "zero": zero,
            "bias": np.float32(bias),
        }.items():
            self.register_buffer(_buffer(f"{name}.{key}"), torch.from_numpy(np.array(value)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of one picture."""
        values: dict[str, Tensor] = {}
        for node in self.graph.nodes:
            target = self.graph.qparams[node.name]
            inputs = [_dequantize(values[name], self.graph.qparams[name]) for name in node.inputs]
            found = self._read(images, target) if node.op is Op.INPUT else self._compute(node, inputs)
            values[node.name] = _quantize(_clamp(found, target, node), target)
        return _dequantize(values[self.graph.output], self.graph.qparams[self.graph.output])

    def _read(self, images: Tensor, numbers: QParams) -> Tensor:
        return (images.permute(0, 3, 1, 2).float() - (128 + numbers.zero_point)) * numbers.scale

    def _compute(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """The node's output in real numbers, before its clamp."""
        if node.op in _RULES:
            return _RULES[node.op](self, node, inputs)
        return real.compute(replace(node, attrs={**node.attrs, "clamp": None}), inputs, None, None)

    def _layer(self, node: Node) -> tuple[Tensor, Tensor]:
        """Weight and bias in real numbers."""
        weight, scale, zero, bias = (
            self.get_buffer(_buffer(f"{node.name}.{key}")) for key in ("weight", "scale", "zero", "bias")
        )
        dequantize = torch.ops.quantized_decomposed.dequantize_per_channel
        return dequantize(weight, scale, zero, 0, -127, 127, torch.int8), bias

    def _convolution(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        return real.convolve(node, inputs[0], *self._layer(node))

    def _linear(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        return F.linear(inputs[0], *self._layer(node))

    def _average(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        return F.conv2d(inputs[0], *self._layer(node), node.attrs["stride"], groups=node.shape[0])

    def _concat(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """XNNPACK's concatenation copies numbers: all must be the output's before."""
        target = self.graph.qparams[node.name]
        same = [self.graph.qparams[name] == target for name in node.inputs]
        own = [x if equal else _dequantize(_quantize(x, target), target) for x, equal in zip(inputs, same, strict=True)]
        return torch.cat(own, 1)


_RULES: dict[Op, Callable[[Int8, Node, Sequence[Tensor]], Tensor]] = {
    Op.CONV: Int8._convolution,
    Op.LINEAR: Int8._linear,
    Op.AVG_POOL: Int8._average,
    Op.CONCAT: Int8._concat,
}


def _buffer(key: str) -> str:
    """A legal buffer name (torch allows no dots)."""
    return key.replace(".", "/")


def _quantize(x: Tensor, numbers: QParams) -> Tensor:
    found: Tensor = torch.ops.quantized_decomposed.quantize_per_tensor(x, numbers.scale, numbers.zero_point, *INT8)
    return found


def _dequantize(x: Tensor, numbers: QParams) -> Tensor:
    found: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(x, numbers.scale, numbers.zero_point, *INT8)
    return found


def _clamp(x: Tensor, numbers: QParams, node: Node) -> Tensor:
    """The node's clamp, where the int8 range does not imply it."""
    ends = integer_clamp(numbers, node.attrs.get("clamp"))
    if ends is None:
        return x
    if node.attrs["clamp"] == [0.0, None]:
        return F.relu(x)
    low, high = ((end - numbers.zero_point) * numbers.scale for end in ends)
    return F.hardtanh(x, low, high)
