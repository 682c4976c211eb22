"""The learning rate over a run, and the running average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

MILESTONES, STEP_FACTOR = (0.5, 0.75), 0.1
"""Where the step schedule falls, as shares of the run, and by how much (He et al., arXiv:1512.03385, section 4.2)."""
RISE, START = 0.3, 1 / 25
"""The share of a one-cycle run in which the rate rises, and where it starts."""


def lr_factor(step: int, total_steps: int, warmup_steps: int, schedule: str = "cosine") -> float:
    """Share of the highest learning rate at ``step`` (0-based): linear warm-up, then what the schedule says.

    * ``cosine``: half a cosine to zero (Loshchilov and Hutter, arXiv:1608.03983, equation 5 without restarts).
    * ``linear``: a straight line to zero.
    * ``step``: a tenth from half of the run on, a hundredth from three quarters on.
    * ``one_cycle``: up along half a cosine for 30 % of the run, down along another (Smith and Topin, arXiv:1708.07120;
      numbers as in torch's OneCycleLR); it is its own warm-up.
    * ``constant`` and ``plateau``: one; a plateau's falls come from the history (``plateau_factor``).

    Warm-up as in Goyal et al., arXiv:1706.02677. The first step is never zero and the last one is just above it, so no
    step is wasted.
    """
    if schedule == "one_cycle":
        progress = (step + 1) / (total_steps + 1)
        if progress < RISE:
            return START + (1 - START) * 0.5 * (1 - math.cos(math.pi * progress / RISE))
        return 0.5 * (1 + math.cos(math.pi * (progress - RISE) / (1 - RISE)))
    warmup_steps = min(warmup_steps, total_steps - 1)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == "linear":
        return 1 - progress
    if schedule == "step":
        return float(STEP_FACTOR ** sum(progress >= milestone for milestone in MILESTONES))
    return 1.0


def plateau_factor(losses: Sequence[float], patience: int = 4, factor: float = 0.2, threshold: float = 1e-3) -> float:
    """What validation losses, one per epoch, make of the rate: ``factor`` for every ``patience`` epochs without a gain.

    A gain is a loss below the best one by more than ``threshold`` of it, as torch's ReduceLROnPlateau has it. Computed
    from the whole history each time, so that a run that goes on after a kill has the same rate.
    """
    best, waited, rate = math.inf, 0, 1.0
    for loss in losses:
        if loss < best * (1 - threshold) if math.isfinite(best) else True:
            best, waited = loss, 0
            continue
        waited += 1
        if waited > patience:
            rate, waited = rate * factor, 0
    return rate


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
