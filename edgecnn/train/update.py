"""From the gradients of a batch to new weights: scaled where fp16 needs it, sharpness-aware, clipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from edgecnn.errors import UsageError
from edgecnn.train.config import TrainConfig
from edgecnn.train.optimizer import absolute_sum

LOWEST_SCALE = 2.0**-10
"""Below this it is not the scale that makes gradients overflow: torch starts at 2 ** 16 and halves it at each skip."""

Gradients = Callable[[], tuple[float, int]]
"""Adds the gradients of a batch with ``Update.backward``; returns its loss and how many pictures were right."""


class Update:
    """What one step does with the weights of ``model``.

    In fp16 small gradients would be zero, so the loss is multiplied by a scale and the gradients divided by it again
    (Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, section 3.2). Where one overflows, the step is
    skipped and the scale halved: ``torch.amp.GradScaler`` does that, here it is counted.

    With ``sam`` = rho the gradient is not taken where the weights are but where the loss is highest around them (Foret
    et al., "Sharpness-Aware Minimization", arXiv:2010.01412, equations 2 and 3 with p = 2):

        e(w) = rho g / ||g||, with g = dL/dw at w;    the step is along dL/dw at w + e(w)

    Both gradients are those of the whole batch, over all its parts and all processes, under the same dropout. Loss,
    hits and the statistics of batch normalization are those of the first pass, at the weights themselves.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, trained: nn.Module | None = None
    ) -> None:
        """``trained`` is what the optimizer trains, where that is more than ``model``."""
        self.model, self.optimizer, self.config, self.trained = model, optimizer, config, trained or model
        self.scaler: torch.amp.GradScaler | None = None
        self.skipped = 0

    def prepare(self, precision: str, device: torch.device, kept: Mapping[str, float]) -> None:
        """Scale in fp16, going on from what ``state`` gave before; an empty ``kept`` starts anew."""
        if precision != "fp16":
            return
        self.scaler = torch.amp.GradScaler(device.type)
        if kept:
            self.skipped = int(kept["skipped"])
            self.scaler.load_state_dict({name: value for name, value in kept.items() if name != "skipped"})

    def state(self) -> dict[str, float]:
        """The scaler's numbers and the steps it skipped, as JSON values; empty where nothing is scaled."""
        return {} if self.scaler is None else {**self.scaler.state_dict(), "skipped": self.skipped}

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``, scaled."""
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))

    def step(self, gradients: Gradients) -> tuple[float, int]:
        """Change the weights by what ``gradients`` adds; gives what that returns.

        Raises UsageError where the gradients overflow at any scale.
        """
        found = self._gradients(gradients) if not self.config.sam else self._sharpness_aware(gradients)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.clip_norm)
        self._take()
        return found

    def _gradients(self, gradients: Gradients) -> tuple[float, int]:
        """The gradients of the whole loss, in place of those of the last step."""
        self.optimizer.zero_grad(set_to_none=True)
        found = gradients()
        if self.config.l1:
            self.backward(self.config.l1 * absolute_sum(self.model))
        return found

    def _sharpness_aware(self, gradients: Gradients) -> tuple[float, int]:
        """The gradients at w + e(w), with the weights back at w. What overflowed at w is left for the scaler to see."""
        with torch.random.fork_rng(devices=self._gpus()):
            found = self._gradients(gradients)
        trained = [each for group in self.optimizer.param_groups for each in group["params"] if each.grad is not None]
        slopes = [cast(Tensor, each.grad) for each in trained]
        length = nn.utils.get_total_norm(slopes)  # of the scaled gradients: the scale divides out
        if not 0 < length < torch.inf:
            return found
        weights = [each.detach().clone() for each in trained]
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        with torch.no_grad():
            for each, slope in zip(trained, slopes, strict=True):
                each.add_(slope * (self.config.sam / length))
        self._gradients(gradients)
        with torch.no_grad():
            for each, weight in zip(trained, weights, strict=True):
                each.copy_(weight)
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
        return found

    def _gpus(self) -> list[torch.device]:
        """The GPU of the weights, whose random state decides the dropout there; none on a CPU."""
        return [each for each in {parameter.device for parameter in self.model.parameters()} if each.type == "cuda"]

    def _take(self) -> None:
        """The optimizer's step, unless the scaler has found that a gradient overflowed."""
        if self.scaler is None:
            self.optimizer.step()
            return
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= before:
            return
        self.skipped += 1
        if self.scaler.get_scale() < LOWEST_SCALE:
            raise UsageError(
                f"fp16 gradients overflow at every scale, down to {before:.2g}; {self.skipped} steps were skipped",
                hint="train with precision bf16 or fp32, or lower the learning rate",
            )
