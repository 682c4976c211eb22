"""What each operator computes in float32: the reference meaning of the IR."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecnn.graph.ir import Array, Graph, Node, Op


def read_pixels(node: Node, images: Tensor) -> Tensor:
    """uint8 (N, H, W, C) -> float32 (N, C, H, W), ``(pixel / 255 - mean) / std``."""
    mean = torch.tensor(node.attrs["mean"], device=images.device).view(-1, 1, 1)
    std = torch.tensor(node.attrs["std"], device=images.device).view(-1, 1, 1)
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def compute(node: Node, inputs: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The node's output (N, *shape) float32 from its inputs."""
    return _RULES[node.op](node, inputs, weight, bias)


def real_weights(graph: Graph, name: str) -> dict[str, Array]:
    """The real weight and bias (float32) that a layer's numbers stand for, by their keys in ``Graph.weights``."""
    weight, bias = graph.weights[f"{name}.weight"], graph.weights[f"{name}.bias"]
    if name in graph.weight_scales:
        scale = graph.weight_scales[name].astype(np.float64)
        weight = (weight * scale.reshape(-1, *([1] * (weight.ndim - 1)))).astype(np.float32)
        if bias.dtype == np.int32:
            bias = (bias * (scale * graph.qparams[graph.node(name).inputs[0]].scale)).astype(np.float32)
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def pad_zeros(x: Tensor, padding: Sequence[int]) -> Tensor:
    """Zeros around height and width; ``padding`` is ``[top, left, bottom, right]``."""
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom)) if any(padding) else x


def convolve(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of a CONV node without its clamp."""
    a = node.attrs
    top, left, bottom, right = a["padding"]
    symmetric = (top, left) == (bottom, right)
    x = x if symmetric else pad_zeros(x, a["padding"])
    return F.conv2d(x, weight, bias, a["stride"], (top, left) if symmetric else 0, a["dilation"], a["groups"])


def max_pool(node: Node, x: Tensor) -> Tensor:
    """Max pooling; padded cells hold minus infinity, so they never win."""
    top, left, bottom, right = node.attrs.get("padding", [0, 0, 0, 0])
    x = F.pad(x, (left, right, top, bottom), value=float("-inf")) if top or left or bottom or right else x
    return F.max_pool2d(x, node.attrs["kernel"], node.attrs["stride"])


def shuffle(node: Node, x: Tensor) -> Tensor:
    """The channels dealt out: the first of every group, then the second of every group, ... Works in any dtype."""
    groups = node.attrs["groups"]
    return x.reshape(len(x), groups, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


def pick(node: Node, x: Tensor) -> Tensor:
    """The channels of a SLICE node."""
    return x[:, node.attrs["start"] : node.attrs["stop"]]


def _conv(node: Node, inputs: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
    assert weight is not None
    return _clamp(node, convolve(node, inputs[0], weight, bias))


def _linear(node: Node, inputs: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
    assert weight is not None
    return _clamp(node, F.linear(inputs[0], weight, bias))


def _clamp(node: Node, x: Tensor) -> Tensor:
    low, high = node.attrs.get("clamp") or (None, None)
    return x if low is None and high is None else x.clamp(low, high)


def _simple(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A rule for an operator without weights; the clamp, if the node has one, follows."""

    def rule(node: Node, inputs: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return _clamp(node, function(node, *inputs))

    return rule


def _concat(node: Node, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, 1)


_RULES: dict[Op, Callable[[Node, Sequence[Tensor], Tensor | None, Tensor | None], Tensor]] = {
    Op.CONV: _conv,
    Op.LINEAR: _linear,
    Op.ADD: _simple(lambda node, x, y: x + y),
    Op.MUL: _simple(lambda node, x, y: x * y),
    Op.MEAN: _simple(lambda node, x: x.mean((2, 3), keepdim=True)),
    Op.MAX_POOL: _simple(max_pool),
    Op.AVG_POOL: _simple(lambda node, x: F.avg_pool2d(x, node.attrs["kernel"], node.attrs["stride"])),
    Op.FLATTEN: _simple(lambda node, x: x.flatten(1)),
    Op.CONCAT: _simple(_concat),
    Op.SLICE: _simple(pick),
    Op.SHUFFLE: _simple(shuffle),
    Op.PAD: _simple(lambda node, x: pad_zeros(x, node.attrs["padding"])),
    Op.CLAMP: _simple(lambda node, x: x),
    Op.AFFINE: _simple(lambda node, x: x * node.attrs["factor"] + node.attrs["offset"]),
    Op.HARD_SWISH: _simple(lambda node, x: F.hardswish(x)),
    Op.HARD_SIGMOID: _simple(lambda node, x: F.hardsigmoid(x)),
    Op.SIGMOID: _simple(lambda node, x: torch.sigmoid(x)),
    Op.SILU: _simple(lambda node, x: F.silu(x)),
}
