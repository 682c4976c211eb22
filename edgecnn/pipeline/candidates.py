"""What can be measured: the bundle's folder, a file rendered from it, or a file that edgecnn may not have made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecnn import catalog
from edgecnn.bundle import Bundle
from edgecnn.data.tensors import ImageTensors, load_split
from edgecnn.errors import UsageError
from edgecnn.export import meta
from edgecnn.export.foreign import precision_of
from edgecnn.pipeline.context import Context, opened
from edgecnn.pipeline.loading import preprocess_of
from edgecnn.runtimes.ports import Normalization
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Format, Precision, Preprocess, Runtime, Split

UNLABELLED = -1
LATENCY_IMAGES = 64
"""Latency is measured on so many different real pictures in turn."""
PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""A float input whose normalization nobody knows is given pixel / 255."""
READERS = {".onnx": (Format.ONNX, Runtime.ONNXRUNTIME), ".tflite": (Format.TFLITE, Runtime.LITERT)}


@dataclass(frozen=True)
class Candidate:
    """A file (or a bundle's folder, for torch) that may be measured, and what is known of it."""

    model: str
    bundle: str
    path: Path
    format: Format
    precision: Precision
    params: int | None
    macs: int | None
    size_bytes: int
    preprocess: Preprocess | None
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
    inside = meta.preprocess_of(meta.read_meta(file))
    chosen = normalization or PLAIN
    mean, std = (chosen.mean[0], chosen.mean[1], chosen.mean[2]), (chosen.std[0], chosen.std[1], chosen.std[2])
    if inside is None:
        with open_session(runtime, file, preprocess=Preprocess(1, mean, std)) as session:
            size = session.input.height
        inside = Preprocess(size, mean, std) if size else None
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
    )


def candidate_of(bundle: Bundle, runtime: Runtime) -> Candidate:
    """What a runtime would run of a bundle: its folder for torch and null, the exported file otherwise."""
    format = catalog.RUNTIMES[runtime].formats[0]
    path, missing = bundle.path, ""
    if format is not Format.TORCH:
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
        missing=missing,
    )


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
        return load_split(opened(context.data, context.data_seed), Split.TEST, p)
    noise = np.random.default_rng(0).integers(0, 256, (LATENCY_IMAGES, p.size, p.size, 3), dtype=np.uint8)
    return ImageTensors(noise, np.full(LATENCY_IMAGES, UNLABELLED), tuple(f"noise/{i}" for i in range(LATENCY_IMAGES)))


def options_of(runtime: Runtime) -> dict[str, str]:
    """What an engine must be told besides the file: torch, how a bundle becomes a function."""
    return {"loader": "edgecnn.pipeline.loading:torch_predictor"} if runtime is Runtime.TORCH else {}
