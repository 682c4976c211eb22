"""The benchmark step: every bundle and file in every runtime -> rows. A combination that fails is a row too.

Accuracy is that of the exported file in that runtime, on the test split; it does not depend on the number of threads,
so it is measured once per file and runtime, and latency once per number of threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn import catalog
from edgecnn.bundle import Bundle, dump_json, write_atomically
from edgecnn.data.tensors import ImageTensors, load_split
from edgecnn.errors import EdgecnnError, MissingPackageError, UsageError
from edgecnn.measure import machine
from edgecnn.measure.accuracy import accuracy, confusion
from edgecnn.measure.latency import measure_latency
from edgecnn.pipeline.candidates import (
    LATENCY_IMAGES,
    UNLABELLED,
    Candidate,
    as_logits,
    candidate_of,
    describe_file,
    misfit,
    options_of,
    pictures_for,
    told_task,
)
from edgecnn.pipeline.context import Context, data_of
from edgecnn.pipeline.loading import preprocess_of
from edgecnn.report.rows import Row, interval_fields
from edgecnn.runtimes.ports import Normalization
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Runtime, Split, Status, Task
from edgecnn.tasks import class_logits


@dataclass(frozen=True)
class Effort:
    """How long to measure: worker restarts per row and seconds per row."""

    restarts: int = 5
    budget_s: float = 30.0


def benchmark_bundle(
    context: Context, bundle: Bundle, runtimes: Sequence[Runtime], threads: Sequence[int], effort: Effort
) -> list[Row]:
    """Rows of one bundle, also added to its measurements."""
    test = load_split(data_of(bundle, context.data), Split.TEST, preprocess_of(bundle))
    rows: list[Row] = []
    logits: dict[str, NDArray[np.float32]] = {}
    for runtime in runtimes:
        candidate = candidate_of(bundle, runtime)
        rows += list(_rows(candidate, runtime, threads, test, effort, logits))
    _record(bundle, rows, logits, test)
    return rows


def benchmark_file(
    context: Context,
    file: Path,
    runtimes: Sequence[Runtime],
    threads: Sequence[int],
    effort: Effort,
    normalization: Normalization | None = None,
) -> list[Row]:
    """Rows of an ``.onnx`` or ``.tflite`` that edgecnn may not have made; accuracy when there are pictures for it."""
    candidate = describe_file(file, normalization)
    able = [name for name in runtimes if candidate.format in catalog.RUNTIMES[name].formats]
    if not able:
        fitting = [name for name, row in catalog.RUNTIMES.items() if candidate.format in row.formats]
        raise UsageError(
            f"{file} is {candidate.format}, which {' and '.join(runtimes)} cannot run", hint=f"use {', '.join(fitting)}"
        )
    test = pictures_for(candidate, context)
    rows: list[Row] = []
    for runtime in able:
        rows += list(_rows(candidate, runtime, threads, test, effort, {}))
    return rows


def _rows(
    candidate: Candidate,
    runtime: Runtime,
    threads: Sequence[int],
    test: ImageTensors,
    effort: Effort,
    logits: dict[str, NDArray[np.float32]],
) -> Iterator[Row]:
    """One row per number of threads; whatever fails becomes the row's status and note."""
    blank = Row(
        model=candidate.model,
        bundle=candidate.bundle,
        format=candidate.format,
        precision=candidate.precision,
        runtime=runtime,
        threads=threads[0],
        params=candidate.params,
        macs=candidate.macs,
        size_bytes=candidate.size_bytes or None,
        task=candidate.task or Task.MULTI_CLASS,
    )
    accuracy_fields: dict[str, Any] = {}
    for count in threads:
        row = replace(blank, threads=count)
        if candidate.missing:
            yield replace(row, status=Status.UNAVAILABLE, note=candidate.missing)
            continue
        try:
            if not accuracy_fields and runtime is not Runtime.NULL:
                accuracy_fields = _accuracy_fields(candidate, runtime, test, logits)
            row = replace(row, **accuracy_fields)
            if untimed := catalog.RUNTIMES[runtime].untimed:
                yield replace(row, note="; ".join(filter(None, (row.note, f"latency not measured: {untimed}"))))
                continue
            timed = _latency_fields(candidate, runtime, count, test.images[:LATENCY_IMAGES], effort)
            timed["note"] = "; ".join(filter(None, (row.note, timed["note"])))
            yield replace(row, **timed)
        except MissingPackageError as error:
            yield replace(row, status=Status.UNAVAILABLE, note=f"{error.message}; {error.hint}")
        except EdgecnnError as error:
            yield replace(row, status=Status.FAILED, note=error.message)


def _accuracy_fields(
    candidate: Candidate, runtime: Runtime, test: ImageTensors, logits: dict[str, NDArray[np.float32]]
) -> dict[str, Any]:
    """Top-1 (``tasks.right``) of the file in the runtime; nothing where there are no labels or it has other ones."""
    if (test.labels == UNLABELLED).all():
        return {}
    with open_session(
        runtime, candidate.path, threads=1, preprocess=candidate.preprocess, options=options_of(runtime)
    ) as session:
        found = session.infer(test.images)
    task = told_task(candidate, found.shape[1], test.labels)
    if problem := misfit(task, found.shape[1], test.labels):
        return {"note": f"{problem}: no accuracy"}
    found = as_logits(candidate, task, found)
    logits[runtime.value] = found
    return {"task": task, **interval_fields("top1", accuracy(found, test.labels, task).top1)}


def _latency_fields(
    candidate: Candidate, runtime: Runtime, threads: int, images: NDArray[np.uint8], effort: Effort
) -> dict[str, Any]:
    found = measure_latency(
        runtime,
        candidate.path,
        images,
        threads,
        restarts=effort.restarts,
        budget_s=effort.budget_s,
        preprocess=candidate.preprocess,
        options=options_of(runtime),
    )
    return {
        **interval_fields("latency", found.median),
        "p90_ms": found.p90_ms,
        "load_ms": found.load_ms,
        "peak_memory_bytes": found.peak_memory_bytes,
        "status": found.status,
        "note": found.note,
    }


def _record(bundle: Bundle, rows: list[Row], logits: dict[str, NDArray[np.float32]], test: ImageTensors) -> None:
    """Add rows, their context and one confusion matrix (where a picture has one class) to its measurements."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    best = next((logits[name] for name in ("litert", "onnxruntime", "torch") if name in logits), None)
    counts = None
    if best is not None and bundle.task is not Task.MULTI_LABEL:
        counts = confusion(class_logits(bundle.task, best), test.labels).tolist()
    facts = {
        "created": datetime.now(UTC).isoformat(),
        "machine": machine.describe().as_dict(),
        "rows": [row.to_dict() for row in rows],
        "confusion": counts,
    }
    write_atomically(bundle.path / "measurements" / f"benchmark-{stamp}.json", dump_json(facts))


def latest(bundle: Bundle) -> dict[str, Any] | None:
    """The last benchmark of a bundle, as it was recorded."""
    files = sorted((bundle.path / "measurements").glob("benchmark-*.json"))
    return json.loads(files[-1].read_text()) if files else None
