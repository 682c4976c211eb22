"""Decide every integer of an int8 network, once: scales, zero points, weights, biases (see the folder's docstring)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgecnn.compress.bits import ALL_8, Bits, tensor_bits, with_bits
from edgecnn.compress.grid import Grid
from edgecnn.errors import ModelError, UsageError
from edgecnn.graph.integer import INT8
from edgecnn.graph.ir import SHARING, WEIGHTED, Array, Graph, Node, Op, QParams
from edgecnn.graph.simplify import decompose_hard_sigmoid, decompose_hard_swish, decompose_silu
from edgecnn.graph.ties import Ties

Range = tuple[float, float]
Gating = Literal["decompose", "native"]

INT8_GRID = Grid()
WEIGHT_MAX = INT8_GRID.largest
LEVELS = INT8[1] - INT8[0]
BIAS_MAX = 2**30  # leaves the int32 accumulator room for the products
BIAS_LIMITS = (-(2**31), 2**31 - 1)  # int32
FINEST_STEP = 2.0**-24  # smallest multiplier from accumulator to output: XNNPACK refuses below 2^-32
UNIT = QParams(float(np.float32(1 / LEVELS)), INT8[0])  # [0, 1]
UNIT_16 = QParams(float(np.float32(1 / 32767)), 0, 16)
SIGMOID = QParams(1 / 256, INT8[0])  # what TFLite's LOGISTIC demands
SIGMOID_16 = QParams(1 / 32768, 0, 16)


def quantize(
    graph: Graph,
    ranges: Mapping[str, Range],
    *,
    hard_swish: Gating = "decompose",
    silu: Gating = "decompose",
    bits: Bits = ALL_8,
    grid: Grid = INT8_GRID,
) -> Graph:
    """The int8 graph of a float ``graph`` for the observed ``ranges`` (low, high) of its tensors.

    Activations: per tensor, affine, the range widened to hold 0, which is represented exactly. Weights: symmetric per
    output channel. Biases: int32 at ``input_scale * weight_scale[channel]``. Jacob et al. 2018 (arXiv 1712.05877),
    section 2, with per-channel weights as in Krishnamoorthi 2018 (arXiv 1806.08342), section 3. Activations of 16 bits
    are symmetric, and the bias of a layer of 16 bits stays float32.

    Args:
        graph: from ``capture``; not changed.
        ranges: from ``calibrate`` on the same graph.
        hard_swish: "decompose" into an affine gate and a product, which are integer operators in every runtime;
            "native" keeps the operator, which no runtime computes in integers fast.
        silu: likewise, with a sigmoid as the gate.
        bits: the nodes of ``graph`` that compute in 16 bits or in float (32); see :mod:`edgecnn.compress.bits`.
        grid: what weights are rounded to.

    Raises:
        UsageError: the graph is quantized already, or a range is missing; or as ``with_bits``.
        ModelError: a clamp that excludes 0 (int8 ranges always hold 0).
    """
    if graph.quantized:
        raise UsageError("the graph is already quantized", hint="start from the float graph")
    limits = _limits(graph, ranges)
    graph = decompose(with_bits(graph, bits), hard_swish=hard_swish, silu=silu)
    qparams = _activations(graph, limits)
    weights = dict(graph.weights)
    weight_scales: dict[str, Array] = {}
    for node in graph.nodes:
        if node.op in WEIGHTED and node.bits < 32:
            numbers = _layer(graph, node, qparams, grid)
            weights |= {f"{node.name}.weight": numbers.weight, f"{node.name}.bias": numbers.bias}
            weight_scales[node.name] = numbers.scale
    return replace(graph, weights=weights, qparams=qparams, weight_scales=weight_scales)


def decompose(graph: Graph, *, hard_swish: Gating = "decompose", silu: Gating = "decompose") -> Graph:
    """The float ``graph`` with the operators that its quantized form has; see ``quantize``. Computes the same.

    What is to compute in float keeps its operators: these runtimes have fast.
    """
    graph = decompose_hard_sigmoid(graph)
    graph = decompose_hard_swish(graph) if hard_swish == "decompose" else graph
    return decompose_silu(graph) if silu == "decompose" else graph


def activation_qparams(low: float, high: float, bits: int = 8) -> QParams:
    """Numbers for real values in [low, high], widened to hold 0; a range of nothing but 0 becomes [0, 1]."""
    low, high = min(low, 0.0), max(high, 0.0)
    symmetric = bits == 16
    scale = np.float32(max(-low, high) / 32767 if symmetric else (high - low) / LEVELS)
    if scale < np.finfo(np.float32).tiny:
        return UNIT_16 if symmetric else UNIT
    if symmetric:
        return QParams(float(scale), 0, 16)
    zero_point = round(INT8[0] - low / float(scale))
    return QParams(float(scale), min(INT8[1], max(INT8[0], zero_point)))


@dataclass(frozen=True)
class LayerNumbers:
    """A convolution's or linear layer's integers: weight int8 (O, ...), bias int32 (O,), scale float32 (O,).

    In a layer of 16 bits the bias is float32.
    """

    weight: Array
    bias: Array
    scale: Array


def quantize_layer(
    weight: Array, bias: Array, source: QParams, target: QParams, grid: Grid = INT8_GRID
) -> LayerNumbers:
    """Symmetric int8 weights per output channel, or those of another ``grid``, and int32 biases, from float ones.

    ``scale[c] = max |w[c]| / 127`` by default. It is made wider where that would overflow the bias, or where a channel
    of (nearly) no weight would give a multiplier so small that runtimes refuse it; the wider scale then costs less than
    a step of the output.
    """
    scale = np.maximum(grid.scales(weight), np.abs(bias.astype(np.float64)) / (source.scale * BIAS_MAX))
    scale = np.maximum(scale, FINEST_STEP * target.scale / source.scale).astype(np.float32)
    scale = np.full_like(scale, scale.max()) if grid.per_tensor else scale
    column = scale.astype(np.float64).reshape(-1, *([1] * (weight.ndim - 1)))
    integers = np.clip(np.rint(weight / column), -grid.largest, grid.largest).astype(np.int8)
    offsets = np.rint(bias.astype(np.float64) / (scale.astype(np.float64) * source.scale))
    return LayerNumbers(integers, np.clip(offsets, *BIAS_LIMITS).astype(np.int32), scale)


def input_qparams(node: Node) -> QParams:
    """Numbers that make ``pixel - 128`` the quantized input, exactly."""
    mean, std = node.attrs["mean"][0], node.attrs["std"][0]
    return QParams(float(np.float32(1 / (255 * std))), round(255 * mean) - 128)


def _layer(graph: Graph, node: Node, qparams: dict[str, QParams], grid: Grid) -> LayerNumbers:
    weight, bias = graph.weights[f"{node.name}.weight"], graph.weights[f"{node.name}.bias"]
    numbers = quantize_layer(weight, bias, qparams[node.inputs[0]], qparams[node.name], grid)
    return replace(numbers, bias=bias) if node.bits == 16 else numbers


def _limits(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The range each tensor needs: what was observed, inside its clamp and inside what its only reader cares about."""
    missing = [node.name for node in graph.nodes if node.name not in ranges]
    if missing:
        raise UsageError(f"no range for {len(missing)} tensors, first '{missing[0]}'", hint="calibrate this very graph")
    limits = {}
    for node in graph.nodes:
        low, high = ranges[node.name]
        for bottom, top in (_clamp_of(node), _saturation(graph, node)):
            low, high = max(low, bottom), min(high, top)
        limits[node.name] = (min(low, 0.0), max(high, 0.0))
    return limits


def _clamp_of(node: Node) -> Range:
    low, high = node.attrs.get("clamp") or (None, None)
    bottom, top = -np.inf if low is None else low, np.inf if high is None else high
    if bottom > 0 or top < 0:
        raise ModelError(f"'{node.name}' clamps to [{low}, {high}]", hint="int8 needs a range that holds 0")
    return bottom, top


def _saturation(graph: Graph, node: Node) -> Range:
    """Hard-swish and hard-sigmoid are constant below -3 (and the latter above 3): what lies beyond needs no numbers."""
    readers = {reader.op for reader in graph.consumers(node.name)}
    if node.name == graph.output or not readers or not readers <= {Op.HARD_SWISH, Op.HARD_SIGMOID}:
        return -np.inf, np.inf
    return -3.0, 3.0 if readers == {Op.HARD_SIGMOID} else np.inf


def _activations(graph: Graph, limits: Mapping[str, Range]) -> dict[str, QParams]:
    """Numbers for every tensor that has any; tensors that must share theirs get the hull of their ranges."""
    bits = tensor_bits(graph)
    numbered = [node for node in graph.nodes if node.name in bits]
    fixed = {node.name: known for node in numbered if (known := fixed_qparams(node, bits[node.name])) is not None}
    qparams: dict[str, QParams] = {}
    for members in _sharing_groups(graph, limits, fixed, bits).groups():
        if members[0] not in bits:
            continue
        given = [fixed[member] for member in members if member in fixed]
        ranges = [limits.get(member, (0.0, 1.0)) for member in members]
        hull = min(low for low, _ in ranges), max(high for _, high in ranges)
        qparams |= dict.fromkeys(members, given[0] if given else activation_qparams(*hull, bits[members[0]]))
    return {node.name: qparams[node.name] for node in numbered}


def fixed_qparams(node: Node, bits: int = 8) -> QParams | None:
    """Numbers that follow from the operator alone."""
    if node.op is Op.INPUT:
        return input_qparams(node)
    if node.op is Op.SIGMOID:
        return SIGMOID_16 if bits == 16 else SIGMOID
    if node.attrs.get("clamp") != [0.0, 1.0]:
        return None
    return UNIT_16 if bits == 16 else UNIT


def _sharing_groups(
    graph: Graph, limits: Mapping[str, Range], fixed: Mapping[str, QParams], bits: Mapping[str, int]
) -> Ties:
    """Which tensors have the same numbers; tensors of other bits never have."""
    ties = Ties(graph)
    for node in graph.nodes:
        if node.op in SHARING and bits.get(node.name) == bits.get(node.inputs[0]):
            ties.join(node.name, node.inputs[:1])
    for node in graph.nodes:
        if node.op is Op.CONCAT and node.name in bits:
            for name in node.inputs:
                if bits.get(name) == bits[node.name] and _may_join(graph, node, ties.group(name), limits, fixed):
                    ties.join(node.name, [name])
    return ties


def _may_join(
    graph: Graph,
    concat: Node,
    members: Sequence[str],
    limits: Mapping[str, Range],
    fixed: Mapping[str, QParams],
) -> bool:
    """Whether a concatenation's input can take the output's numbers: not fixed, no clamp of its own lost."""
    low, high = limits[concat.name]
    for member in members:
        bottom, top = _clamp_of(graph.node(member))
        if member in fixed or low < bottom or high > top:
            return False
    return True
