"""What can be measured: the bundle's folder, a file rendered from it, or a file that edgecnn may not have made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecnn import catalog
from edgecnn.bundle import Bundle
from edgecnn.data.tensors import ImageTensors, load_split
from edgecnn.errors import UsageError
from edgecnn.export import meta
from edgecnn.export.foreign import ends_in_sigmoid, precision_of
from edgecnn.pipeline.context import Context, opened
from edgecnn.pipeline.loading import preprocess_of, refused
from edgecnn.runtimes.ports import Normalization
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Format, Precision, Preprocess, Runtime, Split, Task
from edgecnn.tasks import Labels

UNLABELLED = -1
LATENCY_IMAGES = 64
"""Latency is measured on so many different real pictures in turn."""
PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""A float input whose normalization nobody knows is given pixel / 255."""
READERS = {".onnx": (Format.ONNX, Runtime.ONNXRUNTIME), ".tflite": (Format.TFLITE, Runtime.LITERT)}


@dataclass(frozen=True)
class Candidate:
    """A file (or a bundle's folder, for torch) that may be measured, and what is known of it.

    ``task`` is None where nobody says it: see ``told_task``.
    """

    model: str
    bundle: str
    path: Path
    format: Format
    precision: Precision
    params: int | None
    macs: int | None
    size_bytes: int
    preprocess: Preprocess | None
    task: Task | None = None
    missing: str = ""


def is_model_file(path: Path) -> bool:
    """Whether the name is that of a file edgecnn can run."""
    return path.suffix.lower() in READERS


def describe_file(file: Path, normalization: Normalization | None = None) -> Candidate:
    """Look into an ``.onnx`` or ``.tflite`` file: its picture size, precision, and, if edgecnn made it, its
    preprocessing.

    ``normalization`` is for float inputs of files that do not normalize inside. Raises ``UsageError``,
    ``RuntimeFailure``.
    """
    if not file.is_file():
        raise UsageError(f"there is no {file}", hint="give a bundle, a run, or an .onnx or .tflite file")
    if not is_model_file(file):
        raise UsageError(f"{file} is neither a bundle nor a model", hint=f"models end in {' or '.join(READERS)}")
    format, runtime = READERS[file.suffix.lower()]
    about = meta.read_meta(file)
    inside = meta.preprocess_of(about)
    if inside is None:
        chosen = normalization or PLAIN
        with open_session(runtime, file, preprocess=Preprocess(1, chosen.mean, chosen.std)) as session:
            size, channels = session.input.height, session.input.channels or 3
        # A grey file has one channel: of a mean and std that serve all channels, one is enough.
        inside = Preprocess(size, chosen.mean[:channels], chosen.std[:channels]) if size else None
    return Candidate(
        model=file.stem,
        bundle="",
        path=file,
        format=format,
        precision=precision_of(file),
        params=None,
        macs=None,
        size_bytes=file.stat().st_size,
        preprocess=inside,
        task=meta.task_of(about),
    )


def candidate_of(bundle: Bundle, runtime: Runtime) -> Candidate:
    """What a runtime would run of a bundle: its folder for torch and null, the exported file otherwise."""
    format = catalog.RUNTIMES[runtime].formats[0]
    path, missing = bundle.path, _refused(bundle, format, runtime)
    if format is not Format.TORCH and not missing:
        path = bundle.exports / f"model{catalog.FORMATS[format].extension}"
        if not path.is_file():
            missing = f"not exported: run edgecnn export {bundle.path} --format {format}"
    size = 0
    if not missing:
        size = path.stat().st_size if path.is_file() else weights_size(bundle)
    figures = bundle.manifest.figures
    return Candidate(
        model=str(bundle.manifest.builder["name"]),
        bundle=bundle.title,
        path=path,
        format=format,
        precision=Precision(bundle.manifest.precision),
        params=figures.get("params"),
        macs=figures.get("macs"),
        size_bytes=0 if missing else size,
        preprocess=preprocess_of(bundle),
        task=bundle.task,
        missing=missing,
    )


def _refused(bundle: Bundle, format: Format, runtime: Runtime) -> str:
    """Why neither the format nor the runtime can have the bundle's precision; empty where they can."""
    reasons = ((where, refused(bundle, where)) for where in (format, runtime))
    return next((f"{where} cannot have {bundle.manifest.precision}: {why}" for where, why in reasons if why), "")


def weights_size(bundle: Bundle) -> int:
    """Bytes of the weights in a bundle."""
    return sum((bundle.path / name).stat().st_size for name in bundle.manifest.files if name.endswith(".safetensors"))


def pictures_for(candidate: Candidate, context: Context) -> ImageTensors:
    """The test split of ``context.data`` at the size the file wants, or noise (latency only) without data."""
    p = candidate.preprocess
    if p is None:
        raise UsageError(
            f"{candidate.path} does not say which picture size it takes", hint="only fixed sizes can be run"
        )
    if context.data:
        return load_split(opened(context.data, context.data_seed, candidate.task), Split.TEST, p)
    noise = np.random.default_rng(0).integers(0, 256, (LATENCY_IMAGES, p.size, p.size, p.channels), dtype=np.uint8)
    return ImageTensors(noise, np.full(LATENCY_IMAGES, UNLABELLED), tuple(f"noise/{i}" for i in range(LATENCY_IMAGES)))


def told_task(candidate: Candidate, outputs: int, labels: Labels) -> Task:
    """The candidate's task. A foreign file does not say: then the pictures do, and one output is a binary task's."""
    if candidate.task is not None:
        return candidate.task
    if labels.ndim == 2:
        return Task.MULTI_LABEL
    return Task.BINARY if outputs == 1 else Task.MULTI_CLASS


def as_logits(candidate: Candidate, task: Task, found: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a file gave as logits (N, K): a foreign one that ends in a sigmoid gives probabilities.

    They become the logits that they stand for, ``log(p / (1 - p))``, as far as float32 tells them from 0 and 1.
    """
    if candidate.task is not None or task is Task.MULTI_CLASS or not ends_in_sigmoid(candidate.path):
        return found
    least = np.float64(np.finfo(np.float32).eps)
    odds = np.clip(found.astype(np.float64), least, 1 - least)
    return np.asarray(np.log(odds / (1 - odds)), np.float32)


def misfit(task: Task, outputs: int, labels: Labels) -> str:
    """Why pictures with these labels cannot be scored with so many outputs; empty where they can."""
    if (labels.ndim == 2) != (task is Task.MULTI_LABEL):
        kind = "several labels" if labels.ndim == 2 else "one class"
        return f"the data has {kind} for each picture, and the file is for the task {task}"
    if task is Task.MULTI_LABEL:
        return (
            ""
            if labels.shape[1] == outputs
            else f"the file has {outputs} outputs and the data {labels.shape[1]} labels"
        )
    classes = outputs + 1 if task is Task.BINARY else outputs
    if int(labels.max()) >= classes or (task is Task.BINARY and outputs != 1):
        return f"the file has {outputs} outputs and the data a class number {int(labels.max())}"
    return ""


def options_of(runtime: Runtime) -> dict[str, str]:
    """What an engine must be told besides the file: torch, how a bundle becomes a function."""
    return {"loader": "edgecnn.pipeline.loading:torch_predictor"} if runtime is Runtime.TORCH else {}
