"""A classifier on the features of a frozen network: computed once, fitted in seconds.

The features are what enters the last linear layer (Donahue et al., "DeCAF", arXiv:1310.1531; Kornblith et al., "Do
Better ImageNet Models Transfer Better?", arXiv:1805.08974, section 3: logistic regression on them is the usual first
measurement). Nothing of the network changes, its batch norm statistics neither, so they can be kept and used again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecnn.errors import ModelError
from edgecnn.models.layers import find_classifier
from edgecnn.spec import Preprocess, Task
from edgecnn.tasks import Labels, score
from edgecnn.train.augment import normalize
from edgecnn.train.evaluate import loss_and_top1

Floats = NDArray[np.float32]

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Inverse regularization strengths C that are tried, on standardized features."""


@dataclass(frozen=True)
class Head:
    """A linear classifier: ``features @ weight.T + bias``. ``strength`` is the C that validated best.

    ``val_score`` is what it was chosen by: top-1, or mean average precision of several labels.
    """

    weight: Floats
    bias: Floats
    strength: float
    val_score: float


def extract(
    model: nn.Module,
    images: NDArray[np.uint8],
    p: Preprocess,
    *,
    mirrored: bool = False,
    batch_size: int = 64,
    on_batch: Callable[[int, int], None] | None = None,
) -> Floats:
    """What enters the classifier: pictures (N, H, W, C) uint8 -> (N, F) float32.

    ``mirrored`` pictures are turned left-right first; ``on_batch`` is told (batches done, batches). The network is used
    in eval mode where it is, and left as it was. Raises ModelError where the classifier is no linear layer.
    """
    classifier = _classifier(model)
    device = classifier.weight.device
    features = np.empty((len(images), classifier.in_features), np.float32)
    taken: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    was_training = model.training
    model.eval()
    starts = range(0, len(images), batch_size)
    try:
        with torch.inference_mode():
            for done, start in enumerate(starts, 1):
                batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(device)
                model(normalize(batch.flip(2) if mirrored else batch, p))
                features[start : start + batch_size] = taken.pop().float().cpu().flatten(1).numpy()
                if on_batch is not None:
                    on_batch(done, len(starts))
    finally:
        hook.remove()
        model.train(was_training)
    return features


def fit_head(
    features: Floats,
    labels: Labels,
    val: tuple[Floats, Labels],
    classes: int,
    kind: str,
    *,
    refit: bool = False,
    task: Task = Task.MULTI_CLASS,
) -> Head:
    """A linear layer with the regularization strength that does best on the validation features.

    ``kind`` is ``logistic`` (multinomial logistic regression) or ``svm`` (linear, squared hinge loss, one against the
    rest), both scikit-learn's. The features are standardized for the fit, and the standardization goes into the layer.
    A binary task has one logit, the second class against the first; several labels (N, K) are K binary tasks.

    Args:
        features: (N, F), labels: (N,), val: the same two of the validation pictures.
        classes: logits of the layer; a class without training pictures gets a logit far below all others.
        refit: fit once more with the chosen strength, to the validation pictures too: few pictures are the reason to
            train like this. ``val_score`` stays that of the fit that had not seen them. Not where they go on to choose.
    """
    mean, std = features.mean(0), features.std(0) + 1e-6
    scaled, val_scaled = (features - mean) / std, (val[0] - mean) / std
    tried: list[tuple[float, float, float]] = []
    for strength in STRENGTHS:
        weight, bias = _fitted(scaled, labels, classes, kind, strength, task)
        logits = val_scaled @ weight.T + bias
        loss, _ = loss_and_top1(logits, val[1], task)
        tried.append((score(task, logits, val[1]), -loss, strength))
    best, _, strength = max(tried)
    if refit:
        scaled, labels = np.concatenate([scaled, val_scaled]), np.concatenate([labels, val[1]])
    weight, bias = _fitted(scaled, labels, classes, kind, strength, task)
    return Head(weight / std, bias - (weight / std) @ mean, strength, best)


def put_head(model: nn.Module, head: Head) -> None:
    """Give the network's classifier the head's numbers, in place. Raises ModelError where the shapes differ."""
    classifier = _classifier(model)
    if tuple(classifier.weight.shape) != head.weight.shape or classifier.bias is None:
        raise ModelError(
            f"the classifier is {tuple(classifier.weight.shape)}, the head {head.weight.shape}",
            hint="build the network for as many classes as the head knows, with a bias",
        )
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(head.weight))
        classifier.bias.copy_(torch.from_numpy(head.bias))


def _classifier(model: nn.Module) -> nn.Linear:
    name = find_classifier(model)
    classifier = model.get_submodule(name)
    if not isinstance(classifier, nn.Linear):
        raise ModelError(
            f"the classifier {name} is a {type(classifier).__name__}, not a linear layer",
            hint="train the whole network instead (transfer: full)",
        )
    return classifier


def _fitted(
    scaled: Floats, labels: Labels, outputs: int, kind: str, strength: float, task: Task
) -> tuple[Floats, Floats]:
    """Weight (outputs, F) and bias (outputs,) on standardized features, as the task wants them."""
    if task is Task.MULTI_CLASS:
        return _linear(scaled, labels, outputs, kind, strength)
    columns = labels[:, None] if task is Task.BINARY else labels
    heads = [_against(scaled, columns[:, at].astype(np.int64), kind, strength) for at in range(outputs)]
    return np.stack([weight for weight, _ in heads]), np.array([bias for _, bias in heads], np.float32)


def _against(scaled: Floats, positive: NDArray[np.int64], kind: str, strength: float) -> tuple[Floats, float]:
    """One logit for 1 against 0: weight (F,), bias. Where all are the same, the logit says so, whatever the picture."""
    n, found = len(positive), int(positive.sum())
    if found in (0, n):  # the logarithm of the odds with half a picture of each kind added
        return np.zeros(scaled.shape[1], np.float32), float(np.log((found + 0.5) / (n - found + 0.5)))
    weight, bias = _linear(scaled, positive, 2, kind, strength)
    return weight[1] - weight[0], float(bias[1] - bias[0])


def _linear(
    scaled: Floats, labels: NDArray[np.int64], classes: int, kind: str, strength: float
) -> tuple[Floats, Floats]:
    """Weight (classes, F) and bias (classes,) on standardized features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    if kind == "svm":
        fitted = LinearSVC(C=strength * 0.1, random_state=0).fit(scaled, labels)
    else:
        fitted = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(scaled, labels)
    weight, bias = fitted.coef_.astype(np.float32), fitted.intercept_.astype(np.float32)
    if len(fitted.classes_) == 2:  # scikit-learn keeps one row: the second class against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    whole = np.zeros((classes, weight.shape[1]), np.float32), np.full(classes, -1e4, np.float32)
    whole[0][fitted.classes_], whole[1][fitted.classes_] = weight, bias
    return whole
