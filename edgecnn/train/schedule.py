"""The learning rate over a run, and the running average of the weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


def lr_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Share of the highest learning rate at ``step`` (0-based): linear warm-up, then half a cosine to zero.

    Loshchilov and Hutter, arXiv:1608.03983, equation 5 without restarts; warm-up as in Goyal et al., arXiv:1706.02677.
    The first step is never zero and the last one is just above it, so no step is wasted.
    """
    warmup_steps = min(warmup_steps, total_steps - 1)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


class WeightAverage:
    """Exponential moving average of weights and batch-normalization statistics.

    ``average += (1 - d) * (current - average)`` after every step, with ``d = min(decay, (1 + t) / (10 + t))`` at step
    t, so that the random first weights are forgotten quickly.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the model's present weights; ``model`` is not changed."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards ``model`` after step ``step`` (0-based)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        current = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                average.lerp_(current[name], weight)
            else:
                average.copy_(current[name])
