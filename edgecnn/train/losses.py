"""What a training minimizes: a loss against the labels, and perhaps one against a teacher's logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecnn.train.config import TrainConfig


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """``n / (classes * n_k)`` for each class k (scikit-learn's "balanced"): labels (N,) int64 -> (classes,) float32.

    A class without pictures gets weight 0: nothing is there to weigh.
    """
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp(min=1)), 0.0)


def label_loss(logits: Tensor, labels: Tensor, config: TrainConfig, weights: Tensor | None = None) -> Tensor:
    """The mean loss of a batch: logits (N, K) float32, labels (N,) int64 or soft (N, K) float32 -> a scalar.

    * ``ce``: cross-entropy, smoothed by ``label_smoothing`` (Szegedy et al., arXiv:1512.00567, section 7).
    * ``focal``: ``-(1 - p)^gamma log p`` of the label's probability p (Lin et al., arXiv:1708.02002, equation 4).
    * ``bce``: one sigmoid per class (Wightman et al., arXiv:2110.00476, section 3), averaged over pictures and summed
      over classes, so that its size and learning rate are those of ``ce``.

    ``weights`` (K,) scale each picture's loss by its class (for soft labels by the mean over its classes), normalized
    as torch does it: the weighted mean.
    """
    if config.loss == "ce":
        return F.cross_entropy(logits, labels, weights, label_smoothing=config.label_smoothing)
    target = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1]).float()
    weight = torch.ones_like(target[:, 0]) if weights is None else target @ weights
    target = target * (1 - config.label_smoothing) + config.label_smoothing / logits.shape[1]
    if config.loss == "focal":
        logp = logits.log_softmax(1)
        each = -(target * (1 - logp.exp()) ** config.focal_gamma * logp).sum(1)
    else:
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
    return (each * weight).sum() / weight.sum()


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(logits / T))``, mean over the batch: both (N, K) float32 -> a scalar.

    Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2; the factor T^2 keeps the
    size of the gradients when the temperature is changed.
    """
    wanted = (teacher / temperature).log_softmax(1)
    found = (logits / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def loss_of_part(
    logits: Tensor, target: Tensor, part: slice, config: TrainConfig, weights: Tensor | None, wanted: Tensor | None
) -> Tensor:
    """What a part of a batch adds to the loss: over all parts it sums up to the loss of the whole batch.

    logits (n, K) and the teacher's ``wanted`` (n, K), where there is one, are of the part. ``target``, (N,) int64 or
    soft (N, K), is the whole batch's, because a mean weighted by class depends on all of it.
    """
    loss = label_loss(logits, target[part], config, weights) * _share(target, part, config, weights)
    if wanted is None:
        return loss
    learned = distillation_loss(logits, wanted, config.temperature) * (len(logits) / len(target))
    return torch.lerp(loss, learned, config.distill_weight)


def _share(target: Tensor, part: slice, config: TrainConfig, weights: Tensor | None) -> Tensor | float:
    """The part's share of the pictures, or of their class weights where ``label_loss`` is a mean weighted by those.

    Soft labels under ``ce`` are the exception: torch divides them by the number of pictures.
    """
    if weights is None or (config.loss == "ce" and target.is_floating_point()):
        return len(target[part]) / len(target)
    weight = target @ weights if target.is_floating_point() else weights[target]
    return weight[part].sum() / weight.sum()
