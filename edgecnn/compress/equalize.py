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
  ``W2 (x + mu) + b2 = W2 x + (b2 + W2 mu)``. Shifts add up along a residual stream.
* **Hard-swish** does not commute with a factor either; where channels are very unequal it gets a gate per channel,
  which takes the factor up (:mod:`~edgecnn.compress.gates`).
* **Concatenations, slices, shuffles** hand channels on to other places: what shares an ``s`` are channels, not tensors
  (:mod:`~edgecnn.compress.channel_ties`). ShuffleNetV2's stages are equalized through all of them.

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

from edgecnn.compress.channel_ties import ChannelTies, channel_ties, handed_on, passes_on, sharing_numbers
from edgecnn.compress.gates import by_channel, uneven
from edgecnn.compress.observer import ChannelRange
from edgecnn.graph.ir import WEIGHTED, Array, Graph, Node

CLAMP_MARGIN = 1.05
CLAMP_SHARE = 0.7  # exponent of s where a clamp has an upper end
FILE_NAME = "equalization.safetensors"
PARTS = ("scale", "shift")
SMALLEST = 1e-3  # of s: a nearly dead channel is not blown up without end
SMALLEST_RANGE = float(np.finfo(np.float32).tiny)
A_GATE = ChannelRange(np.zeros(1), np.ones(1), np.zeros(1))

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """How a tensor is rewritten: ``old = scale * new + shift``, both (C,) float64."""

    scale: Vector
    shift: Vector


def equalize(graph: Graph, ranges: Mapping[str, ChannelRange]) -> dict[str, Change]:
    """The changes that equalize the channels of the float ``graph``; ``ranges`` as observed on the same graph."""
    graph = by_channel(graph, uneven(graph, ranges))
    ties = channel_ties(graph)
    ranges = dict.fromkeys(ties.of, A_GATE) | dict(ranges)  # gates of these are new, and have no factor
    shifts = _shifts(graph, ties, ranges)
    largest = {name: _largest(ranges[name], shift) for name, shift in shifts.items()}
    share, reached = np.zeros(len(ties.fixed)), np.zeros(len(ties.fixed))
    for group in sharing_numbers(graph):
        whole = max(SMALLEST_RANGE, *(float(largest[name].max()) for name in group))
        for name in group:
            np.maximum.at(share, ties.of[name], largest[name] / whole)
            np.maximum.at(reached, ties.of[name], ranges[name].high)
    stretched = np.minimum(1.0, CLAMP_MARGIN * reached / ties.top) ** CLAMP_SHARE
    scale = np.where(np.isinf(ties.top), share, stretched)
    scale = np.where((scale > 0) & ~ties.fixed, np.maximum(scale, SMALLEST), 1.0)  # a dead channel keeps its weights
    return {
        name: Change(scale[classes], shifts[name]) for name, classes in ties.of.items() if not ties.fixed[classes].all()
    }


def rewrite(graph: Graph, changes: Mapping[str, Change]) -> Graph:
    """The float ``graph`` with the given tensors rewritten and the weights around them adapted: the same function.

    A hard-swish that is rewritten gets a gate per channel (:mod:`~edgecnn.compress.gates`).
    """
    graph = by_channel(graph, changes)
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


def _shifts(graph: Graph, ties: ChannelTies, ranges: Mapping[str, ChannelRange]) -> dict[str, Vector]:
    """What is taken off each channel of each tensor: a layer's own means, where they can be; handed on from there."""
    shifts: dict[str, Vector] = {}
    for node in graph.nodes:
        if node.op in WEIGHTED:
            shifts[node.name] = np.where(ties.shiftable[ties.of[node.name]], ranges[node.name].mean, 0.0)
        elif passes_on(graph, node):
            shifts[node.name] = np.sum(handed_on(graph, node, shifts), 0)
        else:
            shifts[node.name] = np.zeros(node.shape[0])
    return shifts


def _largest(seen: ChannelRange, shift: Vector) -> Vector:
    """The largest magnitude of each channel once ``shift`` is taken off."""
    return np.maximum(np.abs(seen.low - shift), np.abs(seen.high - shift))


def _columns(node: Node, weight: Array, values: Vector) -> Array:
    """``values`` (I,) of the input's channels laid beside the weight (O, I / groups, ...): what each weight meets."""
    groups = int(node.attrs.get("groups", 1))
    grouped = values.reshape(groups, 1, -1)
    met = np.broadcast_to(grouped, (groups, len(weight) // groups, grouped.shape[2]))
    return met.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))


def _total(products: Array) -> Array:
    total: Array = products.reshape(len(products), -1).sum(1)
    return total
