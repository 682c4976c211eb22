"""What a training minimizes: a loss against the labels, and perhaps one against a teacher's logits.

A binary network's logits come here as those of two classes (``class_logits``), so that its loss is the cross-entropy of
the pair: the binary cross-entropy of its one logit. With several labels each of them is a binary task of its own:
losses are summed over labels and averaged over pictures, so that a label weighs the same whatever stands beside it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecnn.errors import DataError
from edgecnn.spec import Task
from edgecnn.train.config import TrainConfig


def class_logits(logits: Tensor, task: Task) -> Tensor:
    """A binary network's logits (N, 1) as those of two classes (N, 2), first 0; of other tasks as they are."""
    return F.pad(logits, (1, 0)) if task is Task.BINARY else logits


def right(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Which pictures (N,) are answered right; logits from ``class_logits``. The twin of ``tasks.right``."""
    if task is Task.MULTI_LABEL:
        return ((logits > 0) == (labels > 0)).all(1)
    return logits.argmax(1) == labels


def check_outputs(outputs: int, labels: Tensor, task: Task) -> None:
    """Raise DataError where a network with so many logits cannot learn these labels."""
    if task is Task.MULTI_LABEL:
        fits, found = labels.dim() == 2 and labels.shape[1] == outputs, f"labels are {tuple(labels.shape)}"
    else:
        most = int(labels.max())
        fits = (outputs == 1 and most < 2) if task is Task.BINARY else most < outputs
        found = f"label {most} occurs"
    if not fits:
        raise DataError(
            f"{found}, but the model has {outputs} logits (task {task})",
            hint="build the model with as many classes as the data has (binary: one logit)",
        )


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """``n / (classes * n_k)`` for each class k (scikit-learn's "balanced"): labels (N,) int64 -> (classes,) float32.

    A class without pictures gets weight 0: nothing is there to weigh. Of several labels (N, K) each one is balanced:
    ``n / (2 n_k)`` for pictures without it and with it, (2, K) float32.
    """
    if labels.dim() == 2:
        with_it = (labels > 0).float().sum(0)
        both = torch.stack([len(labels) - with_it, with_it])
        return torch.where(both > 0, len(labels) / (2 * both.clamp(min=1)), 0.0)
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp(min=1)), 0.0)


def several_labels_loss(logits: Tensor, target: Tensor, config: TrainConfig, weights: Tensor | None = None) -> Tensor:
    """The mean over pictures of the loss summed over labels: logits and target (N, K) float32 in [0, 1] -> a scalar.

    Binary cross-entropy, or with ``focal`` ``-(1 - p_t)^gamma log p_t`` (Lin et al., arXiv:1708.02002, equation 4,
    which is for this case). Smoothing moves each target towards 1/2. ``weights`` (2, K) are for labels that are not
    there and that are.
    """
    weight = torch.ones_like(target) if weights is None else torch.lerp(weights[0], weights[1], target)
    target = target * (1 - config.label_smoothing) + config.label_smoothing / 2
    if config.loss == "focal":
        yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
        gamma = config.focal_gamma
        each = -(target * no.exp() ** gamma * yes + (1 - target) * yes.exp() ** gamma * no)
    else:
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * weight).sum() / len(logits)


def label_loss(logits: Tensor, labels: Tensor, config: TrainConfig, weights: Tensor | None = None) -> Tensor:
    """The mean loss of a batch: logits (N, K) float32, labels (N,) int64 or soft (N, K) float32 -> a scalar.

    * ``ce``: cross-entropy, smoothed by ``label_smoothing`` (Szegedy et al., arXiv:1512.00567, section 7).
    * ``focal``: ``-(1 - p)^gamma log p`` of the label's probability p (Lin et al., arXiv:1708.02002, equation 4).
    * ``bce``: one sigmoid per class (Wightman et al., arXiv:2110.00476, section 3), averaged over pictures and summed
      over classes, so that its size and learning rate are those of ``ce``.

    ``weights`` (K,) scale each picture's loss by its class (for soft labels by the mean over its classes), normalized
    as torch does it: the weighted mean. With several labels see ``several_labels_loss``. A binary task has one sigmoid
    already, so ``bce`` is ``ce`` there.
    """
    if config.asked is Task.MULTI_LABEL:
        return several_labels_loss(logits, labels, config, weights)
    if _is_cross_entropy(config):
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


def _is_cross_entropy(config: TrainConfig) -> bool:
    """Whether the loss is torch's cross-entropy over classes."""
    return config.loss == "ce" or (config.loss == "bce" and config.asked is Task.BINARY)


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float, task: Task = Task.MULTI_CLASS) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(logits / T))``, mean over the batch: both (N, K) float32 -> a scalar.

    With several labels each is a pair of classes, (0, logit), and their divergences are summed.

    Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2; the factor T^2 keeps the
    size of the gradients when the temperature is changed.
    """
    if task is Task.MULTI_LABEL:
        pairs = [F.pad(each.reshape(-1, 1), (1, 0)) for each in (logits, teacher)]
        return distillation_loss(pairs[0], pairs[1], temperature) * logits.shape[1]
    wanted = (teacher / temperature).log_softmax(1)
    found = (logits / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def loss_of_part(
    logits: Tensor, target: Tensor, part: slice, config: TrainConfig, weights: Tensor | None, wanted: Tensor | None
) -> Tensor:
    """What a part of a batch adds to the loss: over all parts it sums up to the loss of the whole batch.

    logits (n, K) and the teacher's ``wanted`` (n, K), where there is one, are of the part. ``target``, (N,) int64 or
    (N, K) float32, soft or of several labels, is the whole batch's, because a mean weighted by class depends on all of
    it.
    """
    loss = label_loss(logits, target[part], config, weights) * _share(target, part, config, weights)
    if wanted is None:
        return loss
    learned = distillation_loss(logits, wanted, config.temperature, config.asked) * (len(logits) / len(target))
    return torch.lerp(loss, learned, config.distill_weight)


def _share(target: Tensor, part: slice, config: TrainConfig, weights: Tensor | None) -> Tensor | float:
    """The part's share of the pictures, or of their class weights where ``label_loss`` is a mean weighted by those.

    Soft labels under ``ce`` are the exception: torch divides them by the number of pictures. So is the loss of several
    labels, whose weights are 1 on average over the whole set.
    """
    several = config.asked is Task.MULTI_LABEL
    if weights is None or several or (_is_cross_entropy(config) and target.is_floating_point()):
        return len(target[part]) / len(target)
    weight = target @ weights if target.is_floating_point() else weights[target]
    return weight[part].sum() / weight.sum()
