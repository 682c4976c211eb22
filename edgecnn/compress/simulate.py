"""The float network with some of its tensors and layers rounded to an int8 graph's numbers.

The integer interpreter computes the whole network in integers or nothing of it; here any part can be rounded, so what
a part costs can be measured by itself. Rounding is the fake quantization of Jacob et al. 2018 (arXiv 1712.05877,
equation 12) with numbers that are already decided:

* an activation, after its fused clamp: ``scale * (clamp(round(x / scale) + zero_point, -128, 127) - zero_point)``;
* weights: ``weight_scale[c] * q``; biases: ``input_scale * weight_scale[c] * q``;
* the picture: what the integer graph reads in a pixel, ``scale * (pixel - 128 - zero_point)``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import zip_longest
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from edgecnn.errors import UsageError
from edgecnn.graph import integer as integers
from edgecnn.graph import real as reals
from edgecnn.graph.interpret import Images, Observe
from edgecnn.graph.ir import Graph, Node, Op
from edgecnn.graph.weights import real_weights

Chosen = bool | Collection[str]  # all, none, or these nodes by name
Value = TypeVar("Value")
BATCH = 16  # pictures per pass: bounds memory, changes nothing else


class Simulation:
    """A float graph and the int8 graph that was made from it, with the same nodes by name.

    Raises ``UsageError`` where the two are not float and int8, or not of the same nodes.
    """

    def __init__(self, real: Graph, integer: Graph) -> None:
        check_twins(real, integer)
        self.real, self.integer = real, integer
        self._weights = {key: torch.from_numpy(np.array(array)) for key, array in real.weights.items()}
        self._rounded = {key: torch.from_numpy(np.array(array)) for key, array in real_weights(integer).items()}

    @torch.no_grad()
    def run(
        self,
        images: Images,
        *,
        activations: Chosen = True,
        weights: Chosen = True,
        observe: Observe | None = None,
        batch_size: int = BATCH,
    ) -> Tensor:
        """Logits (N, K) float32 of images (N, H, W, C) uint8 with the tensors ``activations`` and the layers
        ``weights`` rounded.

        ``observe(name, values (N, *shape) float32)`` sees every tensor as the next layer reads it, batch by batch.
        """
        parts = []
        for part in batches(images, batch_size):

            def compute(node: Node, inputs: list[Tensor], part: Tensor = part) -> Tensor:
                values = self.compute(node, inputs, part, rounded=is_chosen(node.name, weights))
                values = self.round(node, values, part) if is_chosen(node.name, activations) else values
                if observe is not None:
                    observe(node.name, values)
                return values

            parts.append(walk(self.real, compute))
        return torch.cat(parts)

    def compute(self, node: Node, inputs: Sequence[Tensor], images: Tensor, *, rounded: bool) -> Tensor:
        """A node's output before its activation is rounded; ``rounded``: with the int8 graph's weights and bias."""
        if node.op is Op.INPUT:
            return reals.read_pixels(node, images)
        numbers = self._rounded if rounded else self._weights
        return reals.compute(node, inputs, numbers.get(f"{node.name}.weight"), numbers.get(f"{node.name}.bias"))

    def round(self, node: Node, values: Tensor, images: Tensor) -> Tensor:
        """The node's output ``values`` on the int8 graph's grid, if it has one."""
        qparams = self.integer.qparams.get(node.name)
        if qparams is None:
            return values
        if node.op is Op.INPUT:
            return integers.read_pixels(images).sub_(qparams.zero_point).mul_(qparams.scale)
        return integers.on_grid(values, qparams)


def walk(graph: Graph, compute: Callable[[Node, list[Value]], Value]) -> Value:
    """What ``compute(node, values of its inputs)`` gives for the output, each node once and in order.

    A value is dropped after its last reader.
    """
    last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    alive: dict[str, Value] = {}
    for index, node in enumerate(graph.nodes):
        alive[node.name] = compute(node, [alive[name] for name in node.inputs])
        for name in node.inputs:
            if last_use[name] == index and name != graph.output:
                alive.pop(name, None)
    return alive[graph.output]


def batches(images: Images, size: int = BATCH) -> tuple[Tensor, ...]:
    """Images (N, H, W, C) uint8 as tensors of at most ``size`` pictures."""
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    return torch.split(tensor, size)


def is_chosen(name: str, chosen: Chosen) -> bool:
    """Whether a node is among those ``chosen``."""
    return chosen if isinstance(chosen, bool) else name in chosen


def check_twins(real: Graph, integer: Graph) -> None:
    """Raise ``UsageError`` where the two are not float and int8, or not of the same nodes."""
    if real.quantized or not integer.quantized:
        raise UsageError(
            "a float graph and its int8 graph are wanted, in this order", hint="quantize the float graph first"
        )
    for ours, theirs in zip_longest(real.nodes, integer.nodes):
        if ours is None or theirs is None or (ours.name, ours.op) != (theirs.name, theirs.op):
            raise UsageError(
                f"the two graphs have other nodes, from '{(ours or theirs).name}' on",
                hint="decompose the float graph as the int8 graph was",
            )
