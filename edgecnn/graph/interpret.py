"""Run an IR graph in torch, float or quantized.

A quantized graph is computed in integers (see :mod:`edgecnn.graph.integer`): sums are exact, so the logits do not
depend on the batch size, the number of threads or the order of anything. Where a part of it is not (see
:class:`~edgecnn.graph.ir.Graph` for the rule), that part is computed in float32 on real values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecnn.errors import UsageError
from edgecnn.graph import integer, real
from edgecnn.graph.ir import Graph, Op
from edgecnn.graph.weights import real_weights

Images = NDArray[np.uint8] | Tensor
Observe = Callable[[str, Tensor], None]


class GraphModule(nn.Module):
    """A graph as a torch module: images (N, H, W, C) uint8 -> logits (N, K) float32."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self._last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
        self._kernels = integer.kernels(graph)
        weights = real_weights(graph) | {
            key: array for key, array in graph.weights.items() if key.rpartition(".")[0] in self._kernels
        }
        for key, array in weights.items():
            self.register_buffer(_buffer(key), torch.from_numpy(np.array(array)))

    def forward(self, images: Tensor) -> Tensor:
        """images (N, H, W, C) uint8 -> logits (N, K) float32."""
        return self.evaluate(images)

    @torch.no_grad()
    def evaluate(self, images: Tensor, observe: Observe | None = None) -> Tensor:
        """Like forward; ``observe(name, real values (N, *shape) float32)`` sees every tensor as it is computed."""
        _check(self.graph, images)
        alive: dict[str, Tensor] = {}
        for index, node in enumerate(self.graph.nodes):
            inputs = [alive[name] for name in node.inputs]
            alive[node.name] = self._read(images) if node.op is Op.INPUT else self._compute(index, inputs)
            if observe is not None:
                observe(node.name, self._real(node.name, alive[node.name]))
            for name in node.inputs:
                if self._last_use[name] == index and name != self.graph.output:
                    alive.pop(name, None)
        return self._real(self.graph.output, alive[self.graph.output])

    def _read(self, images: Tensor) -> Tensor:
        if self.graph.quantized:
            return integer.read_pixels(images)
        return real.read_pixels(self.graph.input, images)

    def _compute(self, index: int, inputs: list[Tensor]) -> Tensor:
        node = self.graph.nodes[index]
        weight, bias = (self._buffers.get(_buffer(f"{node.name}.{key}")) for key in ("weight", "bias"))
        if node.name in self._kernels:
            return self._kernels[node.name](inputs, weight, bias)
        inputs = [self._real(name, values) for name, values in zip(node.inputs, inputs, strict=True)]
        values = real.compute(node, inputs, weight, bias)
        qparams = self.graph.qparams.get(node.name)
        return values if qparams is None else integer.to_steps(values, qparams)

    def _real(self, name: str, values: Tensor) -> Tensor:
        """The real values of a tensor, which is held as its integers where it has qparams."""
        qparams = self.graph.qparams.get(name)
        return values if qparams is None else (values - qparams.zero_point) * qparams.scale


@overload
def run(
    graph: Graph, images: Images, *, keep: Literal[False] = False, device: str = "cpu", batch_size: int = 32
) -> Tensor: ...


@overload
def run(
    graph: Graph, images: Images, *, keep: Literal[True], device: str = "cpu", batch_size: int = 32
) -> dict[str, Tensor]: ...


def run(
    graph: Graph, images: Images, *, keep: bool = False, device: str = "cpu", batch_size: int = 32
) -> Tensor | dict[str, Tensor]:
    """Logits (N, K) float32 for images (N, H, W, C) uint8; with ``keep`` every tensor by name, real values (N,
    *shape) float32.

    ``batch_size`` bounds memory and changes nothing else (a float graph's logits: by rounding only). Raises
    ``UsageError`` for images of another shape or type.
    """
    module = GraphModule(graph).to(device)
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    kept: dict[str, list[Tensor]] = {node.name: [] for node in graph.nodes} if keep else {}

    def observe(name: str, values: Tensor) -> None:
        kept[name].append(values.cpu())

    parts = [
        module.evaluate(part.to(device), observe if keep else None).cpu() for part in torch.split(tensor, batch_size)
    ]
    if keep:
        return {name: torch.cat(values) for name, values in kept.items()}
    return torch.cat(parts)


def _check(graph: Graph, images: Tensor) -> None:
    channels, height, width = graph.input.shape
    if images.dtype is not torch.uint8 or tuple(images.shape[1:]) != (height, width, channels):
        found = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        raise UsageError(f"images are {found}", hint=f"this graph takes uint8 (N, {height}, {width}, {channels})")


def _buffer(key: str) -> str:
    """A legal buffer name (torch allows no dots)."""
    return key.replace(".", "/")
