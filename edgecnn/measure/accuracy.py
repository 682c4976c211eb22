"""Top-1, top-5 and the confusion matrix, of logits and of exported files in their runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgecnn import tasks
from edgecnn.errors import UsageError
from edgecnn.measure.stats import wilson
from edgecnn.runtimes.session import Launch, Session
from edgecnn.spec import Interval, Preprocess, Runtime, Task
from edgecnn.tasks import Labels

if TYPE_CHECKING:
    from edgecnn.data.tensors import ImageTensors


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] with Wilson intervals; ``top5`` is ``None`` with five classes or fewer: it says nothing.

    ``top1`` is the share of pictures that are answered right (``edgecnn.tasks``): with several labels, exact matches.
    """

    top1: Interval
    top5: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """``logits`` (N, K) as the runtime gave them, and what follows from them."""

    accuracy: Accuracy
    logits: NDArray[np.float32]
    confusion: NDArray[np.int64]


def accuracy(logits: NDArray[np.float32], labels: Labels, task: Task = Task.MULTI_CLASS) -> Accuracy:
    """Accuracy of logits (N, K) against labels (N,) in [0, K), or (N, K) of 0 and 1 where pictures have several.

    Raises ``UsageError`` when they do not fit together.
    """
    if task is Task.MULTI_LABEL:
        check_several(logits, labels)
        return Accuracy(wilson(int(tasks.right(task, logits, labels).sum()), len(labels)), None)
    logits = tasks.class_logits(task, logits)
    _check(logits, labels)
    top5 = wilson(int(in_top(logits, labels, 5).sum()), len(labels)) if logits.shape[1] > 5 else None
    return Accuracy(wilson(int(correct(logits, labels).sum()), len(labels)), top5)


def correct(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pictures (N,) have the right first class; of equal logits the lower class counts."""
    return np.asarray(logits.argmax(axis=1) == labels)


def in_top(logits: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Which pictures (N,) have their class among the ``k`` largest logits; of equal ones the lower classes count."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return np.asarray((best == labels[:, None]).any(axis=1))


def confusion(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts (K, K): row = true class, column = first class of the logits."""
    _check(logits, labels)
    classes = logits.shape[1]
    flat = np.bincount(labels * classes + logits.argmax(axis=1), minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def check_several(logits: NDArray[np.float32], labels: Labels) -> None:
    """Raise ``UsageError`` unless both are (N, K) and the labels 0 and 1."""
    if logits.ndim != 2 or logits.shape != labels.shape:
        raise UsageError(
            f"logits {logits.shape} do not belong to labels {labels.shape}", hint="wanted: one of each for every label"
        )
    if labels.size and not np.isin(labels, (0, 1)).all():
        raise UsageError("labels are other than 0 and 1", hint="wanted: 1 where a picture has the label")


def _check(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    if logits.ndim != 2 or len(logits) != len(labels):
        raise UsageError(f"logits {logits.shape} do not belong to {len(labels)} labels", hint="wanted: one row each")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise UsageError(
            f"labels go from {labels.min()} to {labels.max()}, the network has {logits.shape[1]} classes",
            hint="use the data set that the network was trained for",
        )


def evaluate_file(
    runtime: Runtime,
    file: Path,
    images: ImageTensors,
    *,
    threads: int = 1,
    preprocess: Preprocess | None = None,
    options: Mapping[str, str] | None = None,
) -> Evaluation:
    """Run every picture through ``file`` in ``runtime``, in a worker process, and score the answers.

    ``preprocess`` is only needed for foreign files with a floating-point input. Raises ``RuntimeFailure`` and
    ``MissingPackageError`` from the session, ``UsageError`` when the labels do not fit.
    """
    with Session(Launch(runtime, file, threads, preprocess, dict(options or {}))) as session:
        logits = session.infer(images.images)
    return Evaluation(accuracy(logits, images.labels), logits, confusion(logits, images.labels))
