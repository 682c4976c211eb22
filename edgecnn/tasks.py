"""What a network's numbers mean: the one place where logits become answers, probabilities and a score.

| task | logits | probabilities | answer |
|---|---|---|---|
| ``multi_class`` | (N, K), one per class | softmax | the class of the largest; of equal ones the first |
| ``binary`` | (N, 1), of the **second** label | sigmoid | the second label where the logit is above 0, else the first |
| ``multi_label`` | (N, K), one per label | sigmoid of each | every label whose logit is above 0: above 0.5 |

A binary logit z means the same as the logits (0, z) of two classes: softmax gives (1 - sigmoid(z), sigmoid(z)), the
second is the larger exactly where z > 0, and the cross-entropy of the pair is the binary cross-entropy of z.
``class_logits`` writes the pair down, and all that is known of classes (losses, figures, confusion) holds for it.

The labels of pictures are (N,) class numbers, or, with several labels, a matrix (N, K) of 0 and 1. A picture is
answered *right* when its class is, or when its whole set of labels is (exact match): what is called top-1 in figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import UsageError
from edgecnn.spec import Task

Logits = NDArray[np.floating[Any]]
Labels = NDArray[Any]
"""(N,) int64 class numbers, or (N, K) uint8 of 0 and 1 where a picture may have several labels."""
Bools = NDArray[np.bool_]


def choose(asked: Task | None, labels: Sequence[str], several: bool, source: str) -> Task:
    """The task on pictures with these labels; ``several`` says that one picture may have many of them.

    Without a wish it is ``multi_label`` for those and ``multi_class`` for all others, two classes too. Raises
    ``UsageError`` when the wish does not fit the pictures.
    """
    task = asked or (Task.MULTI_LABEL if several else Task.MULTI_CLASS)
    if several and task is not Task.MULTI_LABEL:
        raise UsageError(
            f"task {task}: the pictures of {source} have several labels each",
            hint="use task=multi_label, or leave it out",
        )
    if task is Task.MULTI_LABEL and not several:
        raise UsageError(
            f"task multi_label: each picture of {source} has one class",
            hint="give a CSV with a column labels, such as cat|indoors, or with one column of 0 and 1 for each label",
        )
    if task is Task.BINARY and len(labels) != 2:
        raise UsageError(
            f"task binary: {source} has {len(labels)} classes",
            hint="a binary task has two, of which the second is the positive one; leave task out",
        )
    return task


def outputs(task: Task, labels: int) -> int:
    """How many logits a network has for so many labels."""
    return 1 if task is Task.BINARY else labels


def class_logits(task: Task, logits: Logits) -> Logits:
    """Logits (N, K) with one column per label: a binary network's (N, 1) as (0, z), others as they are."""
    if task is Task.BINARY:
        return np.concatenate([np.zeros_like(logits), logits], axis=1)
    return logits


def answers(task: Task, logits: Logits) -> Labels:
    """What the network says: class numbers (N,), or sets of labels (N, K) of 0 and 1."""
    if task is Task.MULTI_LABEL:
        return (logits > 0).astype(np.uint8)
    return np.asarray(class_logits(task, logits).argmax(axis=1))


def probabilities(task: Task, logits: Logits) -> NDArray[np.float64]:
    """The probability of every label (N, K), in double precision."""
    values = class_logits(task, logits).astype(np.float64)
    if task is Task.MULTI_LABEL:
        small = np.exp(-np.abs(values))  # never overflows
        return np.where(values >= 0, 1.0, small) / (1.0 + small)
    weights = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def right(task: Task, logits: Logits, labels: Labels) -> Bools:
    """Which pictures (N,) are answered right."""
    same = answers(task, logits) == labels
    return np.asarray(same.all(axis=1) if task is Task.MULTI_LABEL else same)


def agreement(task: Task, one: Logits, other: Logits) -> float:
    """The share of equal answers of two networks: of pictures, or, with several labels, of label decisions."""
    return float(np.mean(answers(task, one) == answers(task, other)))


def margins(task: Task, logits: Logits, other: Logits) -> NDArray[np.float64]:
    """By how much ``logits`` prefer their answers to those of the ``other`` network, at least 0: (N,) of pictures, or
    (N, K) of label decisions; 0 where the answers are equal.
    """
    values, theirs = class_logits(task, logits).astype(np.float64), answers(task, other)
    if task is Task.MULTI_LABEL:
        return np.where(answers(task, logits) == theirs, 0.0, np.abs(values))
    ours: NDArray[np.float64] = values.max(axis=1) - np.take_along_axis(values, theirs[:, None], axis=1)[:, 0]
    return ours


def equal_sets(one: Logits, other: Logits) -> float:
    """The share of pictures for which two multi-label networks give the same set of labels."""
    return float(right(Task.MULTI_LABEL, one, answers(Task.MULTI_LABEL, other)).mean())


def score(task: Task, logits: Logits, labels: Labels) -> float:
    """The figure that chooses the best epoch: the share of pictures answered right, or mAP with several labels."""
    if task is Task.MULTI_LABEL:
        return mean_average_precision(logits, labels)
    return float(right(task, logits, labels).mean())


def mean_average_precision(scores: NDArray[Any], labels: Labels) -> float:
    """The mean of ``average_precision`` over the labels that any picture has, scores and labels (N, K); else nan."""
    present = np.flatnonzero(labels.any(axis=0))
    found = [average_precision(scores[:, column], labels[:, column] > 0) for column in present]
    return float(np.mean(found)) if found else float("nan")


def average_precision(scores: NDArray[Any], positive: Bools) -> float:
    """Of one label: ``sum_n (R_n - R_(n-1)) P_n`` over the thresholds, equal scores at one threshold, nothing
    interpolated (scikit-learn's definition). scores and positive (N,), at least one of them positive.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # the last of each run of equal scores
    found = np.cumsum(positive[order])[ends]
    gained = np.diff(found, prepend=0) / found[-1]
    return float((gained * found / (ends + 1)).sum())
