"""What each operator computes in float32: the reference meaning of the IR.

A CONV or LINEAR with the attribute ``dynamic`` reads its input through ``quantized_while_running``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecnn.graph.ir import Node, Op


def read_pixels(node: Node, images: Tensor) -> Tensor:
    """uint8 (N, H, W, C) -> float32 (N, C, H, W), ``(pixel / 255 - mean) / std``."""
    mean = torch.tensor(node.attrs["mean"], device=images.device).view(-1, 1, 1)
    std = torch.tensor(node.attrs["std"], device=images.device).view(-1, 1, 1)
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def compute(node: Node, inputs: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The node's output (N, *shape) float32 from its inputs."""
    return _RULES[node.op](node, inputs, weight, bias)


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


def quantized_while_running(x: Tensor, *, dims: list[int]) -> Tensor:
    """``x`` on 256 levels between its own ends over ``dims``, which are widened to hold 0.

    One step is ``(high - low) / 255``; the zero point is rounded from the end at which that errs less, halves to even,
    as in TFLite's asymmetric hybrid operators and XNNPACK's ``qd8``.
    """
    low, high = x.amin(dims, keepdim=True).clamp(max=0), x.amax(dims, keepdim=True).clamp(min=0)
    factor = 255 / (high - low)  # of x to steps: runtimes multiply, they do not divide
    factor = torch.where(factor.isfinite(), factor, 1)  # (next to) nothing becomes zeros
    zero_point = torch.where((low + high) * factor > 1, -128 - low * factor, 127 - high * factor)
    zero_point = zero_point.round_().clamp_(-128, 127)
    steps = (x * factor).round_().add_(zero_point).clamp_(-128, 127)
    return steps.sub_(zero_point).mul_(1 / factor)


def _read(node: Node, x: Tensor) -> Tensor:
    """The input as the layer reads it: each picture by itself where that is quantized while the network runs.

    A 1x1 convolution without stride is a linear layer at every place, and each place has ends of its own.
    """
    if not node.attrs.get("dynamic"):
        return x
    a = node.attrs
    linear = node.op is Op.CONV and a["kernel"] == a["stride"] == [1, 1] and a["groups"] == 1 and not any(a["padding"])
    return quantized_while_running(x, dims=[1] if linear else list(range(1, x.ndim)))


def _conv(node: Node, inputs: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
    assert weight is not None
    return _clamped(node, convolve(node, _read(node, inputs[0]), weight, bias))


def _linear(node: Node, inputs: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
    assert weight is not None
    return _clamped(node, F.linear(_read(node, inputs[0]), weight, bias))


def _clamp(node: Node, x: Tensor) -> Tensor:
    low, high = node.attrs.get("clamp") or (None, None)
    return x if low is None and high is None else x.clamp(low, high)


def _clamped(node: Node, fresh: Tensor) -> Tensor:
    """``_clamp`` in place, of a tensor that nobody else has."""
    low, high = node.attrs.get("clamp") or (None, None)
    return fresh if low is None and high is None else fresh.clamp_(low, high)


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
