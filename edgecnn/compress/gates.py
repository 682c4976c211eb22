"""A hard-swish whose gate knows every channel: channels of unequal range can be equalized through it.

``y = x * gate(x)`` with ``gate(x) = clamp(x / 6 + 1/2, 0, 1)`` does not commute with a factor: its gate wants ``x`` as
it is. But it wants it per channel: with ``x = s x'``, ``y = s y'``

    y' = x' * clamp((s / 6) x' + 1/2, 0, 1),

where ``s / 6`` and ``1/2`` are the weight and the bias of a 1x1 depthwise convolution. So the factor that equalizes
``x`` and ``y`` (:mod:`~edgecnn.compress.equalize`) goes into that convolution and into the layers around. It takes the
place of an affine gate of the same size, which costs less, so only tensors get it whose channels are very unequal: a
stem's most of all, where one scale for colours and edges of all sizes is what makes MobileNetV3 collapse in int8.

MobileNetV3-small for CIFAR-10 (range of the stem's channels behind its hard-swish: 0.3 to 33), 256 pictures to
calibrate, 1,000 others: mean KL divergence to the float network 0.110 nats and 3 points lost without, 0.0015 and none
with a gate per channel behind the stem.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from edgecnn.compress.observer import ChannelRange
from edgecnn.graph.ir import Graph, Node, Op

UNEVEN = 2.0  # bits that a channel lacks on average because another one is larger
SHARE = 2.0**-8  # a channel below lacks all of them


def uneven(graph: Graph, ranges: Mapping[str, ChannelRange]) -> list[str]:
    """The hard-swishes over maps whose channels lack ``UNEVEN`` bits on average.

    ``ranges`` as observed on the same ``graph``.
    """
    return [
        node.name
        for node in graph.nodes
        if node.op is Op.HARD_SWISH and len(node.shape) == 3 and _bits_lacking(ranges[node.name]) > UNEVEN
    ]


def by_channel(graph: Graph, names: Collection[str]) -> Graph:
    """The float ``graph`` with the hard-swishes ``names`` as a gate per channel (``<name>.gate``) and a product."""
    nodes: list[Node] = []
    weights = dict(graph.weights)
    for node in graph.nodes:
        if node.name not in names or node.op is not Op.HARD_SWISH:
            nodes.append(node)
            continue
        gate = _gate(f"{node.name}.gate", node)
        weights[f"{gate.name}.weight"] = np.full((node.shape[0], 1, 1, 1), 1 / 6, np.float32)
        weights[f"{gate.name}.bias"] = np.full(node.shape[0], 0.5, np.float32)
        nodes += [gate, Node(node.name, Op.MUL, (node.inputs[0], gate.name), node.shape)]
    return graph.with_nodes(tuple(nodes), weights=weights)


def _gate(name: str, swish: Node) -> Node:
    attrs = {
        "kernel": [1, 1],
        "stride": [1, 1],
        "padding": [0, 0, 0, 0],
        "dilation": [1, 1],
        "groups": swish.shape[0],
        "clamp": [0.0, 1.0],
    }
    return Node(name, Op.CONV, swish.inputs, swish.shape, attrs)


def _bits_lacking(seen: ChannelRange) -> float:
    """What the channels lack of the tensor's resolution, in bits, averaged; dead channels do not count."""
    largest = np.maximum(np.abs(seen.low), np.abs(seen.high))
    alive = largest[largest > 0]
    return float(-np.log2(np.maximum(alive / alive.max(), SHARE)).mean()) if len(alive) else 0.0
