"""What a file says about itself: labels, preprocessing and where it comes from, as named strings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from edgecnn.data.preprocess import from_dict, to_dict
from edgecnn.errors import UsageError
from edgecnn.export.onnx import META_PREFIX
from edgecnn.export.tflite_builder import META_ENTRY, metadata, unpack
from edgecnn.spec import ACTIVATION, Format, Preprocess, Task


def meta_of(
    labels: Sequence[str], preprocess: Preprocess, task: Task = Task.MULTI_CLASS, **more: str
) -> dict[str, str]:
    """The metadata of a file: ``labels`` and ``preprocess`` as JSON, and whatever strings the caller adds.

    ``channels`` says what the picture is made of: RGB, or grey (``spec.Preprocess`` says how). ``task`` is a word of
    ``spec.Task``; ``activation`` says what makes probabilities of the logits (softmax, or sigmoid of each), ``logits``
    whose they are: the positive label's alone for a binary task.
    """
    whose = labels[1:] if task is Task.BINARY else labels
    return {
        "labels": json.dumps(list(labels)),
        "preprocess": json.dumps(to_dict(preprocess)),
        "channels": "RGB" if preprocess.channels == 3 else "grey",
        "task": task.value,
        "activation": ACTIVATION[task],
        "logits": json.dumps(list(whose)),
        **more,
    }


def task_of(meta: Mapping[str, str]) -> Task | None:
    """The task in a file's metadata; files with labels and without a word on it are for classes. ``None``: foreign.

    Raises ``UsageError`` for a task that this edgecnn does not know.
    """
    if "task" not in meta:
        return Task.MULTI_CLASS if "labels" in meta else None
    if meta["task"] not in list(Task):
        raise UsageError(f"the file has the task {meta['task']!r}", hint=f"known: {', '.join(Task)}")
    return Task(meta["task"])


def labels_of(meta: Mapping[str, str]) -> tuple[str, ...] | None:
    """The labels in a file's metadata, ``None`` if it does not say."""
    return tuple(json.loads(meta["labels"])) if "labels" in meta else None


def preprocess_of(meta: Mapping[str, str]) -> Preprocess | None:
    """The preprocessing in a file's metadata, ``None`` if it does not say."""
    return from_dict(json.loads(meta["preprocess"])) if "preprocess" in meta else None


def read_meta(path: Path) -> dict[str, str]:
    """What :func:`meta_of` put into an ONNX or TFLite file; empty for files of other tools.

    Raises ``UsageError`` when the file is missing, damaged or of another kind.
    """
    readers = {f".{Format.ONNX}": _read_onnx, f".{Format.TFLITE}": _read_tflite}
    if path.suffix not in readers or not path.is_file():
        found = f"{path} is no file" if not path.is_file() else f"{path.name} is neither ONNX nor TFLite"
        raise UsageError(found, hint="give a .onnx or .tflite file")
    return readers[path.suffix](path)


def _read_onnx(path: Path) -> dict[str, str]:
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise UsageError(f"{path.name} is not an ONNX file: {error}", hint="export it again") from error
    entries = {entry.key: entry.value for entry in model.metadata_props}
    return {key.removeprefix(META_PREFIX): value for key, value in entries.items() if key.startswith(META_PREFIX)}


def _read_tflite(path: Path) -> dict[str, str]:
    entry = metadata(unpack(path.read_bytes()), META_ENTRY)
    values: dict[str, Any] = json.loads(entry) if entry is not None else {}
    return {key: str(value) for key, value in values.items()}
