"""Evaluate and predict: a bundle or a file, in any runtime, on real pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle import open_bundle
from edgecnn.data.preprocess import apply, load_picture
from edgecnn.data.tensors import ImageTensors, load_split
from edgecnn.errors import DataError, UsageError
from edgecnn.export.meta import labels_of, read_meta
from edgecnn.measure.accuracy import Accuracy, accuracy
from edgecnn.pipeline.candidates import READERS, Candidate, candidate_of, describe_file, is_model_file, options_of
from edgecnn.pipeline.context import data_of, opened
from edgecnn.runtimes.ports import Normalization
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Preprocess, Runtime, Split


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of one file in one runtime; ``logits`` (N, K) are what it gave for the ``pictures``."""

    path: Path
    runtime: Runtime
    split: Split
    labels: tuple[str, ...]
    accuracy: Accuracy
    logits: NDArray[np.float32]
    pictures: ImageTensors


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one picture, best first, with softmax probabilities."""

    picture: Path
    classes: tuple[tuple[str, float], ...]


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
        images = opened(data, data_seed)
    else:
        images = data_of(open_bundle(path), data)
    pictures = load_split(images, split, required_preprocess(candidate))
    logits = _infer(candidate, chosen, pictures.images, threads)
    fit_labels(logits, pictures, path)
    scored = accuracy(logits, pictures.labels)
    return Evaluation(path, chosen, split, tuple(images.labels), scored, logits, pictures)


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
    """The ``top`` classes of each picture. Class names come from the bundle, the file's metadata, or ``labels``.

    Raises ``DataError`` for a picture that cannot be read, ``RuntimeFailure`` for a file that cannot run.
    """
    candidate, chosen = target_of(path, runtime, normalization)
    p = required_preprocess(candidate)
    images = np.stack([apply(p, load_picture(picture)) for picture in pictures])
    logits = _infer(candidate, chosen, images, threads)
    names = labels or (
        list(labels_of(read_meta(path)) or ()) if is_model_file(path) else open_bundle(path).manifest.labels
    )
    if names and len(names) != logits.shape[1]:
        raise UsageError(
            f"{len(names)} labels for {logits.shape[1]} outputs", hint="give a list that fits with --labels"
        )
    names = names or [str(index) for index in range(logits.shape[1])]
    return [Prediction(picture, best(row, names, top)) for picture, row in zip(pictures, logits, strict=True)]


def best(logits: NDArray[np.float32], names: list[str], top: int) -> tuple[tuple[str, float], ...]:
    """The ``top`` names with their softmax probability, best first."""
    weights = np.exp(logits.astype(np.float64) - logits.max())
    shares = weights / weights.sum()
    order = np.argsort(-shares, kind="stable")[:top]
    return tuple((names[index], float(shares[index])) for index in order)


def required_preprocess(candidate: Candidate) -> Preprocess:
    """The candidate's preprocessing. Raises ``UsageError`` when the file leaves its picture size open."""
    if candidate.preprocess is None:
        raise UsageError(
            f"{candidate.path} does not say which picture size it takes", hint="only fixed sizes can be run"
        )
    return candidate.preprocess


def fit_labels(logits: NDArray[np.float32], pictures: ImageTensors, path: Path) -> None:
    """Raise ``DataError`` when the data has classes that the file has no output for."""
    if logits.shape[1] <= int(pictures.labels.max()):
        raise DataError(
            f"{path} has {logits.shape[1]} outputs, the data has a class number {int(pictures.labels.max())}",
            hint="use the data the file was trained for",
        )


def _infer(candidate: Candidate, runtime: Runtime, images: NDArray[np.uint8], threads: int) -> NDArray[np.float32]:
    with open_session(
        runtime, candidate.path, threads=threads, preprocess=candidate.preprocess, options=options_of(runtime)
    ) as session:
        return session.infer(images)
