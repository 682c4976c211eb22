"""A trained network whose logits another one learns to give (Hinton et al., arXiv:1503.02531)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecnn.spec import Preprocess, Task
from edgecnn.train.augment import shrink
from edgecnn.train.losses import class_logits
from edgecnn.train.precision import autocast


class Teacher:
    """Gives the logits for the student's batches, and remembers them where a batch will come again.

    The student's batches are normalized its way and have its size: they are brought to the teacher's. Teacher and
    student see the same augmented picture (Beyer et al., "Knowledge distillation: A good teacher is patient and
    consistent", arXiv:2106.05237, section 3.1).
    """

    def __init__(self, model: nn.Module, p: Preprocess, task: Task = Task.MULTI_CLASS) -> None:
        """``model`` takes pictures normalized and sized as ``p`` says and gives (N, K) logits; it is not trained.

        A binary one teaches the logits of its two classes: a network of either kind can learn them.
        """
        self.model, self.p, self.task = model.eval().requires_grad_(False), p, task
        self._remembered: dict[tuple[int, int], Tensor] = {}

    def to(self, device: torch.device) -> None:
        """Move the network there."""
        self.model.to(device).to(memory_format=torch.channels_last)

    def logits(self, batch: Tensor, p: Preprocess, precision: str, key: tuple[int, int] | None) -> Tensor:
        """(N, K) float32 for a student's batch (N, C, H, W), normalized by ``p``.

        ``key`` names a batch that will come again (view and step): it is computed once and kept as float16, in the
        memory of the host: 2 bytes per picture, class and view.
        """
        if key is not None and key in self._remembered:
            return self._remembered[key].to(batch.device).float()
        with torch.no_grad(), autocast(precision, batch.device):
            given: Tensor = self.model(shrink(renormalize(batch, p, self.p), self.p.size)).float()
        logits = class_logits(given, self.task)
        if key is not None:
            self._remembered[key] = logits.half().cpu()
            logits = self._remembered[key].to(batch.device).float()  # the same numbers the first time as later
        return logits


def renormalize(batch: Tensor, old: Preprocess, new: Preprocess) -> Tensor:
    """A batch (N, C, H, W) normalized by ``old``'s mean and std, normalized by ``new``'s instead.

    A grey one gets the channels of ``new``, all with the grey value.
    """
    if (old.mean, old.std) == (new.mean, new.std):
        return batch
    mean, std, other_mean, other_std = (
        torch.tensor(values, device=batch.device).view(-1, 1, 1) for values in (old.mean, old.std, new.mean, new.std)
    )
    return (batch * std + (mean - other_mean)) / other_std
