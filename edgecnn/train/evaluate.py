"""Running a trained network over pictures."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgecnn.spec import Preprocess, Task
from edgecnn.tasks import Labels
from edgecnn.train.augment import normalize
from edgecnn.train.config import TrainConfig
from edgecnn.train.losses import class_logits, right, several_labels_loss

PLAIN = TrainConfig(epochs=1)
"""Settings under which a loss is that of the labels as they are."""

BATCH_PIXELS = 256 * 96 * 96
"""Of all pictures in a batch together: maps within a network grow with it, to gigabytes for 256 pictures of 224 px."""


def predict_logits(
    model: nn.Module, images: NDArray[np.uint8], p: Preprocess, batch_size: int | None = None
) -> NDArray[np.float32]:
    """Logits (N, K) float32 for uint8 pictures (N, H, W, C), in the order given.

    Without a ``batch_size``: 256 pictures, or as many as have ``BATCH_PIXELS`` together where that is fewer. Works on
    the device where the model's weights are; the model's training flag is put back afterwards.
    """
    first = next(model.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    if batch_size is None:
        batch_size = min(256, max(1, BATCH_PIXELS // (images.shape[1] * images.shape[2])))
    was_training = model.training
    model.eval()
    logits = np.empty((0, 0), np.float32)
    try:
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(device)
                found = model(normalize(batch, p)).float().cpu().numpy()
                if not start:  # one block for all: small ones kept between large ones would break memory into pieces
                    logits = np.empty((len(images), *found.shape[1:]), np.float32)
                logits[start : start + batch_size] = found
    finally:
        model.train(was_training)
    return logits


def loss_and_top1(logits: NDArray[np.float32], labels: Labels, task: Task = Task.MULTI_CLASS) -> tuple[float, float]:
    """Mean cross-entropy (without label smoothing) and the fraction of pictures whose largest logit is the label.

    Of a binary network the binary cross-entropy; with several labels the sum over them, and exact matches.
    """
    scores = class_logits(torch.from_numpy(logits), task)
    target = torch.from_numpy(labels)
    if task is Task.MULTI_LABEL:
        loss = float(several_labels_loss(scores, target.float(), PLAIN))
    else:
        loss = float(nn.functional.cross_entropy(scores, target))
    return loss, float(right(scores, target, task).double().mean())
