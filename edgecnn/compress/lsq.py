"""Learned step sizes: rounding onto a grid whose step is trained with the weights (LSQ).

Esser et al., "Learned Step Size Quantization", ICLR 2020 (arXiv 1902.08153). With a step ``s`` and the whole numbers
``low ... high`` (the paper's ``-Q_N ... Q_P``):

    v_hat = s * round(clip(v / s, low, high))                                          (equations 1 and 2)
    d v_hat / d s = round(v / s) - v / s  inside, low or high where it is clipped       (equation 3)
    d v_hat / d v = 1                     inside, 0 where it is clipped                 (equation 5)

The gradient of ``s`` is multiplied by ``g = 1 / sqrt(N Q)`` (section 2.2), N the number of values that share the step
(in one picture, where it is an activation) and Q the larger of ``-low`` and ``high``: then steps and weights change at
rates of the same size. Zero is on every grid. A zero point needs no training of its own: what it shifts is the range
``s * low ... s * high``, and it is decided before.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 1 / 16
"""Of a step, as a share of what it was at first: it stays positive whatever the learning rate."""


class LearnedStep(nn.Module):
    """A step, or one per output channel, and the grid of whole numbers ``low ... high`` that it spans.

    What is trained is ``ratio``, the step as a multiple of ``start``. Its gradient is that of the step (eq. 3, times g)
    divided by ``start``, so that gradient descent moves the step exactly as in the paper; and an optimizer that
    normalizes gradients (AdamW), for which the size of a parameter is the size of its changes, moves it by shares.
    """

    start: Tensor

    def __init__(self, start: Tensor, low: int, high: int, values: int, *, fixed: bool = False) -> None:
        """``start`` is a scalar or (O,); ``values`` is the paper's N. A ``fixed`` step is not trained."""
        super().__init__()
        self.low, self.high = low, high
        self.factor = 1 / math.sqrt(values * max(-low, high))
        self.register_buffer("start", start)
        self.ratio = nn.Parameter(torch.ones_like(start), requires_grad=not fixed)

    @property
    def size(self) -> Tensor:
        """The step, of the shape of ``start``."""
        ratio: Tensor = _ScaledGradient.apply(self.ratio, self.start, self.factor)
        return self.start * ratio.clamp(min=SMALLEST)

    def forward(self, values: Tensor, size: Tensor) -> Tensor:
        """The values on the grid, for ``size`` (this step's, or what was made of it) of a shape that broadcasts."""
        on_grid: Tensor = _FakeQuantize.apply(values, size, self.low, self.high)
        return on_grid


class _FakeQuantize(torch.autograd.Function):
    """v (...), s (broadcast to it) -> v_hat; the gradients of equations 3 and 5."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, size: Tensor, low: int, high: int) -> Tensor:
        steps = values / size
        on_grid = steps.round().clamp_(low, high).mul_(size)
        ctx.save_for_backward(steps, size, on_grid)
        ctx.bounds = low, high
        return on_grid

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        steps, size, on_grid = ctx.saved_tensors
        # The gradient where low < steps < high, else 0, in one pass over the memory.
        to_values = torch.ops.aten.hardtanh_backward(grads[0], steps, *ctx.bounds)
        if not ctx.needs_input_grad[1]:
            return to_values, None, None, None
        # (3) as clip(round(v / s)), which is v_hat / s, minus v / s where it is inside.
        rounded = (grads[0] * on_grid).sum_to_size(size.shape) / size
        return to_values, rounded - (to_values * steps).sum_to_size(size.shape), None, None


class _ScaledGradient(torch.autograd.Function):
    """The ratio as it is; its gradient, which is that of the step times ``start``, times ``factor / start ** 2``."""

    @staticmethod
    def forward(ctx: Any, ratio: Tensor, start: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(start)
        ctx.factor = factor
        return ratio.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (start,) = ctx.saved_tensors
        return grads[0] * (ctx.factor / start.square()), None, None
