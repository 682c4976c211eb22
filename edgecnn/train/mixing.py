"""Pictures mixed with each other, and their labels alike: mixup and CutMix."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgecnn.train.config import TrainConfig


def mix(
    batch: Tensor, labels: Tensor, classes: int, config: TrainConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The batch mixed with itself in another order: by mixup or CutMix as the settings say, one of them where both do.

    batch (N, C, H, W), labels (N,) int64, or (N, classes) float32 of several labels -> the same shape, and soft labels
    (N, classes) float32. Settings that name neither give both arguments back as they are.
    """
    if not (config.mixup or config.cutmix):
        return batch, labels
    dice = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    cut = bool(config.cutmix) and (not config.mixup or dice.random() < 0.5)
    alpha = config.cutmix if cut else config.mixup
    other = torch.from_numpy(dice.permutation(len(batch))).to(batch.device)
    share = float(dice.beta(alpha, alpha))
    batch, share = paste(batch, other, share, dice) if cut else (blend(batch, other, share), share)
    target = labels if labels.is_floating_point() else F.one_hot(labels, classes).float()
    return batch, share * target + (1 - share) * target[other]


def blend(batch: Tensor, other: Tensor, share: float) -> Tensor:
    """``share * x_i + (1 - share) * x_j`` (Zhang et al., "mixup", arXiv:1710.09412, equation 1)."""
    return torch.lerp(batch[other], batch, share)


def paste(batch: Tensor, other: Tensor, share: float, dice: np.random.Generator) -> tuple[Tensor, float]:
    """A window of ``1 - share`` of the area from the other picture (Yun et al., "CutMix", arXiv:1905.04899, section 3).

    Returns the batch and the share of its own pixels that each picture kept: the window is cut off at the border.
    """
    height, width = batch.shape[2:]
    side = (1 - share) ** 0.5
    y, x = dice.integers(height), dice.integers(width)
    top, bottom = (int(np.clip(y + sign * height * side / 2, 0, height)) for sign in (-1, 1))
    left, right = (int(np.clip(x + sign * width * side / 2, 0, width)) for sign in (-1, 1))
    pasted = batch.clone(memory_format=torch.preserve_format)
    pasted[:, :, top:bottom, left:right] = batch[other, :, top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)
