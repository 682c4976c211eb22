"""Give every channel of a tensor the same range, by moving factors between the layers around it.

One scale serves a whole tensor of activations, so a channel that never leaves a tenth of the tensor's range has a tenth
of the levels. Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721, section 4.1, equations 7 and 8) uses that
``f(s x) = s f(x)`` for a relu and any ``s > 0``: with ``S = diag(s)`` of one factor per channel

    W2 f(W1 x + b1) + b2  =  (W2 S) f(S^-1 W1 x + S^-1 b1) + b2.

The paper's ``s`` equalizes the ranges of two weights because it has one scale per weight tensor. Weights have one scale
per output channel here, which takes up ``S^-1 W1`` without any loss, so ``s`` is free to equalize the activations:
``s`` is each channel's largest magnitude on calibration pictures.

What is added to the paper:

* **Whole residual streams.** Tensors that an addition ties together share one ``s``; all layers that write into the
  stream and all that read from it are rescaled. The linear bottlenecks of MobileNetV2, where no activation is in the
  way, gain most.
* **relu6.** ``min(x, 6)`` does not commute with a factor, but a channel which calibration pictures never drove beyond
  ``m < 6`` may be stretched until ``m`` meets 6: the clamp then cuts where the range would have ended anyway.
  ``CLAMP_MARGIN`` leaves some room, ``CLAMP_SHARE`` stretches by less than all, since the layer behind pays for it
  with columns of unequal weights.
* **Shift** (the paper's section 4.2, high-bias absorption, without its condition): where no activation and no padding
  is in the way, the mean of every channel is moved from the bias of the layer before into the bias of the layer behind:
  ``W2 (x + mu) + b2 = W2 x + (b2 + W2 mu)``. Means add up along a residual stream, so the shifts of its tensors agree.

The float network computes the same before and after but for rounding, and beyond relu6's margin.
MCUNet-320kB at 176 px, 256 ImageNet photos to calibrate, 488 others to compare: mean KL divergence to the float network
with activations alone in int8 0.0338 before, 0.0123 after; what remains is spread evenly over all tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edgecnn.compress.observer import ChannelRange
from edgecnn.graph.ir import Array, Graph, Node, Op
from edgecnn.graph.ties import Ties

SHIFTABLE = {Op.ADD, Op.MEAN, Op.FLATTEN, Op.AVG_POOL}  # commute with a factor and with a shift
SCALABLE = SHIFTABLE | {Op.CLAMP, Op.MAX_POOL, Op.PAD}  # commute with a positive factor
WEIGHTED = (Op.CONV, Op.LINEAR)
CLAMP_MARGIN = 1.05
CLAMP_SHARE = 0.7  # exponent of s where a clamp has an upper end
FILE_NAME = "equalization.safetensors"
PARTS = ("scale", "shift")
SMALLEST = 1e-3  # of s: a nearly dead channel is not blown up without end

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """How a tensor is rewritten: ``old = scale * new + shift``, both (C,) float64."""

    scale: Vector
    shift: Vector


@dataclass(frozen=True)
class Stream:
    """Tensors that must share one ``scale`` because element-wise operators tie them together."""

    members: tuple[str, ...]
    shiftable: bool
    top: float | None  # upper end of a clamp among them


def equalize(graph: Graph, ranges: Mapping[str, ChannelRange]) -> dict[str, Change]:
    """The changes that equalize the channels of the float ``graph``; ``ranges`` as observed on the same graph."""
    changes: dict[str, Change] = {}
    for stream in streams(graph):
        changes |= _equalized(stream, ranges)
    return changes


def rewrite(graph: Graph, changes: Mapping[str, Change]) -> Graph:
    """The float ``graph`` with the given tensors rewritten and the weights around them adapted: the same function."""
    weights = dict(graph.weights)
    for node in graph.nodes:
        if node.op not in WEIGHTED:
            continue
        weight, bias = (weights[f"{node.name}.{key}"].astype(np.float64) for key in ("weight", "bias"))
        if (read := changes.get(node.inputs[0])) is not None:
            bias = bias + _total(weight * _columns(node, weight, read.shift))
            weight = weight * _columns(node, weight, read.scale)
        if (written := changes.get(node.name)) is not None:
            bias = (bias - written.shift) / written.scale
            weight = weight / written.scale.reshape(-1, *[1] * (weight.ndim - 1))
        weights |= {f"{node.name}.weight": weight.astype(np.float32), f"{node.name}.bias": bias.astype(np.float32)}
    return replace(graph, weights=weights)


def save(changes: Mapping[str, Change], folder: Path) -> None:
    """Write the changes into ``folder`` as ``equalization.safetensors``; nothing when there are none."""
    if changes:
        parts = {f"{name}.{key}": getattr(each, key) for name, each in changes.items() for key in PARTS}
        save_file(parts, folder / FILE_NAME)


def load(folder: Path) -> dict[str, Change]:
    """The changes saved in ``folder``; none where there is no such file."""
    if not (folder / FILE_NAME).is_file():
        return {}
    parts = load_file(folder / FILE_NAME)
    names = {key.rpartition(".")[0] for key in parts}
    return {name: Change(*(parts[f"{name}.{key}"] for key in PARTS)) for name in sorted(names)}


def streams(graph: Graph) -> list[Stream]:
    """What may be rescaled: everything between layers with weights, unless an operator fixes its scale."""
    tied = Ties(graph)
    fixed, unshiftable = {graph.input.name, graph.output}, set[str]()
    tops: dict[str, float] = {}
    for node in graph.nodes[1:]:
        low, high = node.attrs.get("clamp") or (None, None)
        if (low, high) != (None, None):
            unshiftable.add(node.name)
            fixed |= {node.name} if low != 0 or high == 1 else set()  # [0, 1] is a gate, whose numbers are known
            tops |= {} if high is None else {node.name: high}
        if node.op in WEIGHTED:
            unshiftable |= {node.inputs[0]} if any(node.attrs.get("padding", ())) else set()
        elif node.op in SCALABLE and _keeps_channels(graph, node):
            tied.join(node.name, node.inputs)
            unshiftable |= set() if node.op in SHIFTABLE else {node.name}
        elif node.op is Op.MUL and _is_gate(graph, node):
            tied.join(node.name, node.inputs[:1])
            unshiftable.add(node.name)
            fixed.add(node.inputs[1])
        else:
            fixed |= {node.name, *node.inputs}
    return [
        Stream(members, not unshiftable & set(members), min((tops[m] for m in members if m in tops), default=None))
        for members in tied.groups()
        if not fixed & set(members)
    ]


def _equalized(stream: Stream, ranges: Mapping[str, ChannelRange]) -> dict[str, Change]:
    zero = np.zeros(len(ranges[stream.members[0]].mean))
    shifts = {name: ranges[name].mean if stream.shiftable else zero for name in stream.members}
    if stream.top is None:
        shares = []
        for name in stream.members:
            seen = ranges[name]
            largest = np.maximum(np.abs(seen.low - shifts[name]), np.abs(seen.high - shifts[name]))
            shares.append(largest / max(float(largest.max()), np.finfo(np.float32).tiny))
        scale = np.max(shares, 0)
    else:
        reached = np.max([ranges[name].high for name in stream.members], 0)
        scale = np.minimum(1.0, CLAMP_MARGIN * np.maximum(reached, 0) / stream.top) ** CLAMP_SHARE
    scale = np.where(scale > 0, np.maximum(scale, SMALLEST), 1.0)  # a dead channel keeps its weights
    return {name: Change(scale, shifts[name]) for name in stream.members}


def _columns(node: Node, weight: Array, values: Vector) -> Array:
    """``values`` (I,) of the input's channels laid beside the weight (O, I / groups, ...): what each weight meets."""
    groups = int(node.attrs.get("groups", 1))
    grouped = values.reshape(groups, 1, -1)
    met = np.broadcast_to(grouped, (groups, len(weight) // groups, grouped.shape[2]))
    return met.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))


def _total(products: Array) -> Array:
    total: Array = products.reshape(len(products), -1).sum(1)
    return total


def _keeps_channels(graph: Graph, node: Node) -> bool:
    """Whether element i of the result belongs to channel i: not so where a map is flattened."""
    return node.op is not Op.FLATTEN or graph.node(node.inputs[0]).shape[1:] == (1, 1)


def _is_gate(graph: Graph, node: Node) -> bool:
    """Whether the second factor is one number per channel of the first, as in squeeze-and-excite."""
    first, second = (graph.node(name).shape for name in node.inputs)
    return len(second) == 3 and second[1:] == (1, 1) and first[1:] != (1, 1)
