"""Evaluate and predict: a bundle or a file, in any runtime, on real pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecnn import tasks
from edgecnn.bundle import open_bundle
from edgecnn.data.preprocess import apply, load_picture
from edgecnn.data.tensors import ImageTensors, load_split
from edgecnn.errors import DataError, UsageError
from edgecnn.export.meta import labels_of, read_meta
from edgecnn.measure.accuracy import Accuracy, accuracy
from edgecnn.pipeline.candidates import (
    READERS,
    Candidate,
    as_logits,
    candidate_of,
    describe_file,
    is_model_file,
    misfit,
    options_of,
    told_task,
)
from edgecnn.pipeline.context import data_of, opened
from edgecnn.runtimes.ports import Normalization
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Preprocess, Runtime, Split, Task


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of one file in one runtime; ``logits`` (N, K), of ``task``, are what it gave for the ``pictures``."""

    path: Path
    runtime: Runtime
    split: Split
    labels: tuple[str, ...]
    accuracy: Accuracy
    logits: NDArray[np.float32]
    pictures: ImageTensors
    task: Task = Task.MULTI_CLASS


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one picture, best first, with their probabilities.

    With several labels, those whose probability is above 1/2; ``nearest`` is then the most likely one, given or not.
    """

    picture: Path
    classes: tuple[tuple[str, float], ...]
    nearest: tuple[str, float] | None = None


def target_of(path: Path, runtime: Runtime | None, normalization: Normalization | None) -> tuple[Candidate, Runtime]:
    """What to run for a bundle or file: torch for bundles, the file's own engine otherwise, unless told."""
    if runtime is Runtime.NULL:
        raise UsageError("the null runtime computes nothing", hint="it is for edgecnn benchmark")
    if is_model_file(path):
        candidate = describe_file(path, normalization)
        return candidate, runtime or READERS[path.suffix.lower()][1]
    chosen = runtime or Runtime.TORCH
    candidate = candidate_of(open_bundle(path), chosen)
    if candidate.missing:
        raise UsageError(f"{path} has no file for {chosen}", hint=candidate.missing)
    return candidate, chosen


def evaluate(
    path: Path,
    runtime: Runtime | None = None,
    *,
    data: str | None = None,
    data_seed: int = 0,
    split: Split = Split.TEST,
    threads: int = 1,
    normalization: Normalization | None = None,
) -> Evaluation:
    """Accuracy on a split of the bundle's own data, or of ``data``.

    Raises ``UsageError`` when there is no data to use, ``DataError`` when labels do not fit, ``RuntimeFailure``.
    """
    candidate, chosen = target_of(path, runtime, normalization)
    if is_model_file(path):
        if data is None:
            raise UsageError(f"{path.name} does not know its pictures", hint="name them with --data")
        images = opened(data, data_seed, candidate.task)
    else:
        images = data_of(open_bundle(path), data)
    pictures = load_split(images, split, required_preprocess(candidate))
    found = _infer(candidate, chosen, pictures.images, threads)
    task = told_task(candidate, found.shape[1], pictures.labels)
    if problem := misfit(task, found.shape[1], pictures.labels):
        raise DataError(f"{path}: {problem}", hint="use the data the file was trained for")
    logits = as_logits(candidate, task, found)
    scored = accuracy(logits, pictures.labels, task)
    return Evaluation(path, chosen, split, tuple(images.labels), scored, logits, pictures, task)


def predict(
    path: Path,
    pictures: list[Path],
    runtime: Runtime | None = None,
    *,
    top: int = 5,
    threads: int = 1,
    labels: list[str] | None = None,
    normalization: Normalization | None = None,
) -> list[Prediction]:
    """The ``top`` classes of each picture, or all its labels above 0.5 where it may have several.

    Class names come from the bundle, the file's metadata, or ``labels``. A foreign file is taken for one of classes,
    or, with one output, of two. Raises ``DataError`` for a picture that cannot be read, ``RuntimeFailure`` for a file
    that cannot run.
    """
    candidate, chosen = target_of(path, runtime, normalization)
    p = required_preprocess(candidate)
    images = np.stack([apply(p, load_picture(picture)) for picture in pictures])
    found = _infer(candidate, chosen, images, threads)
    task = told_task(candidate, found.shape[1], np.zeros(0))
    odds = tasks.probabilities(task, as_logits(candidate, task, found))
    names = labels or (
        list(labels_of(read_meta(path)) or ()) if is_model_file(path) else open_bundle(path).manifest.labels
    )
    if names and len(names) != odds.shape[1]:
        raise UsageError(f"{len(names)} labels for {odds.shape[1]} outputs", hint="give a list that fits with --labels")
    names = names or [str(index) for index in range(odds.shape[1])]
    return [prediction(task, picture, row, names, top) for picture, row in zip(pictures, odds, strict=True)]


def prediction(task: Task, picture: Path, odds: NDArray[np.float64], names: list[str], top: int) -> Prediction:
    """What probabilities (K,) of the labels say of a picture, best first."""
    ordered = [(names[index], float(odds[index])) for index in np.argsort(-odds, kind="stable")]
    if task is not Task.MULTI_LABEL:
        return Prediction(picture, tuple(ordered[:top]))
    return Prediction(picture, tuple(pair for pair in ordered if pair[1] > 0.5), ordered[0])


def required_preprocess(candidate: Candidate) -> Preprocess:
    """The candidate's preprocessing. Raises ``UsageError`` when the file leaves its picture size open."""
    if candidate.preprocess is None:
        raise UsageError(
            f"{candidate.path} does not say which picture size it takes", hint="only fixed sizes can be run"
        )
    return candidate.preprocess


def _infer(candidate: Candidate, runtime: Runtime, images: NDArray[np.uint8], threads: int) -> NDArray[np.float32]:
    with open_session(
        runtime, candidate.path, threads=threads, preprocess=candidate.preprocess, options=options_of(runtime)
    ) as session:
        return session.infer(images)
