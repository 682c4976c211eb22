"""The network as plain data: a short list of named nodes, each producing one tensor.

This is what all formats are rendered from and what the quantizer decides numbers for. Shapes are written without the
batch dimension, channels first: ``(C, H, W)`` or ``(C,)``. A node's name is the name of its output tensor in every
format; it is the path of the torch module that computes it, so a parity report, an ONNX viewer and a TFLite viewer
show the same words.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Op(StrEnum):
    """The operators a graph may hold, with the attributes each one has.

    ``clamp`` is ``[low, high]`` with ``None`` for an open end: relu is ``[0, None]``, relu6 is ``[0, 6]``.
    ``padding`` is ``[top, left, bottom, right]`` of zeros; ``kernel``, ``stride``, ``dilation`` are ``[height,
    width]``.
    """

    INPUT = "input"  # uint8 pixels (C, H, W) read as (pixel / 255 - mean) / std; mean: [C floats], std: [C floats]
    CONV = "conv"  # weight (O, I / groups, kh, kw), bias (O,); stride, padding, dilation, groups, clamp
    LINEAR = "linear"  # weight (O, I), bias (O,); clamp; both, in a float graph, dynamic: see real.py
    ADD = "add"  # two inputs of equal shape; clamp
    MUL = "mul"  # two inputs, the second may be (C, 1, 1)
    MEAN = "mean"  # global average over H and W -> (C, 1, 1)
    MAX_POOL = "max_pool"  # kernel, stride, padding (padded cells never win)
    AVG_POOL = "avg_pool"  # kernel, stride; unpadded
    FLATTEN = "flatten"  # (C, H, W) -> (C * H * W,)
    CONCAT = "concat"  # any number of inputs, along channels
    SLICE = "slice"  # start, stop: channels start ... stop - 1
    SHUFFLE = "shuffle"  # groups: channel g * (C / groups) + i goes to i * groups + g
    PAD = "pad"  # padding: zeros around H and W
    CLAMP = "clamp"  # clamp
    AFFINE = "affine"  # scalars: clamp(factor * x + offset)
    HARD_SWISH = "hard_swish"  # x * clamp(x / 6 + 1/2, 0, 1)
    HARD_SIGMOID = "hard_sigmoid"  # clamp(x / 6 + 1/2, 0, 1)
    SIGMOID = "sigmoid"
    SILU = "silu"


WEIGHTED = (Op.CONV, Op.LINEAR)
"""Operators with weights."""
SHARING = (Op.FLATTEN, Op.MAX_POOL, Op.PAD, Op.AVG_POOL, Op.SLICE, Op.SHUFFLE)
"""Operators whose output has the numbers of their input: its values, in other places, or averages of them."""


@dataclass(frozen=True)
class Node:
    """One operator and the tensor it produces.

    ``bits`` of its arithmetic once the graph is quantized: 8 (integers throughout), 16 (int8 weights, 16-bit
    activations) or 32 (float).
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    bits: int = 8


@dataclass(frozen=True)
class QParams:
    """Affine numbers of an activation tensor: ``real = scale * (q - zero_point)``.

    8 ``bits``: q in [-128, 127]; 16: q in [-32767, 32767] and the zero point is 0.
    """

    scale: float
    zero_point: int
    bits: int = 8

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest q."""
        return (-128, 127) if self.bits == 8 else (-32767, 32767)

    @property
    def widened(self) -> QParams:
        """16-bit numbers for the range of these."""
        reach = max(abs(end - self.zero_point) for end in self.ends)
        return QParams(float(np.float32(reach * self.scale / 32767)), 0, 16)


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order (``nodes[0]`` is the input) and their numbers.

    ``weights`` holds ``"<node>.weight"`` and ``"<node>.bias"``: float32, or, once quantized, int8 (symmetric, per
    output channel, in [-127, 127]) and int32 (at scale ``input_scale * weight_scale[channel]``). An int8 graph has
    ``qparams`` for every tensor and ``weight_scales`` (O,) float32 for every conv and linear node; a float graph
    has no ``qparams``, so it is computed in real numbers, but its weights too may be stored in fewer bits, with scales
    or in float16: :mod:`edgecnn.graph.weights` has the ways. Its biases are float32, or float16 beside such weights.

    In between, one rule: a node computes in integers (:mod:`edgecnn.graph.integer`) when its ``bits`` are 8 and its
    inputs and its output have 8-bit qparams. Any other computes in float on the real values of its inputs, clamps, and
    rounds to its output's qparams where that has some. The weights of such a layer are float32 (``bits`` 32), or int8
    with ``weight_scales`` and a float32 bias (``bits`` 16). The input of a quantized graph always has qparams: a pixel
    is known exactly.

    A layer with weights that reads 8-bit integers and has 8 ``bits`` may have no numbers for its output, which then is
    *open*: sums of integers, made real by their scale, clamped, and rounded to nothing. All that read it compute in
    float.
    """

    nodes: tuple[Node, ...]
    output: str
    weights: dict[str, Array]
    qparams: dict[str, QParams] = field(default_factory=dict)
    weight_scales: dict[str, Array] = field(default_factory=dict)

    @property
    def quantized(self) -> bool:
        """Whether there are integers among the activations."""
        return bool(self.qparams)

    def is_integer(self, node: Node) -> bool:
        """Whether the node computes in 8-bit integers and writes them: see the rule above."""
        return node.bits == 8 and all(map(self._has_8_bits, (*node.inputs, node.name)))

    def is_open(self, node: Node) -> bool:
        """Whether the node is a layer that sums 8-bit integers and leaves its sums unrounded: see above."""
        whole = node.op in WEIGHTED and node.bits == 8 and self.quantized
        return whole and node.name not in self.qparams and all(map(self._has_8_bits, node.inputs))

    def _has_8_bits(self, name: str) -> bool:
        numbers = self.qparams.get(name)
        return numbers is not None and numbers.bits == 8

    @property
    def input(self) -> Node:
        """The input node."""
        return self.nodes[0]

    def node(self, name: str) -> Node:
        """The node of that name. Raises ``KeyError``."""
        return self.by_name[name]

    @property
    def by_name(self) -> dict[str, Node]:
        """All nodes by name."""
        return {node.name: node for node in self.nodes}

    def consumers(self, name: str) -> list[Node]:
        """The nodes that read the tensor ``name``."""
        return [node for node in self.nodes if name in node.inputs]

    def with_nodes(self, nodes: tuple[Node, ...], **changes: Any) -> Graph:
        """A copy with other nodes (and other fields)."""
        return replace(self, nodes=nodes, **changes)
