"""The stand-alone program that runs one engine: Python, numpy and the engine, nothing else.

    python -m edgecnn.runtimes.worker --runtime onnxruntime --threads 2 [--options '{"exact_int8": "on"}']

It reads request frames from stdin and answers each with one frame on stdout (see ``framing.py``) until stdin is closed:

==========  ==========================================  ==========================================================
verb        takes                                       gives
==========  ==========================================  ==========================================================
describe    -                                           versions, python, machine, cpu, pid
load        path, normalization {mean, std} or null     import_ms, load_ms, base_bytes, input, output
infer       images uint8 (N, H, W, C)                   logits float32 (N, K)
time        images, batch, plan (fields of TimingPlan)  samples float64 (runs,) in ms, first_ms, warmup_runs, flat
memory      -                                           peak_bytes, current_bytes: resident memory of this process
==========  ==========================================  ==========================================================

An error inside a verb is an answer (``{"error": {kind, message, hint}}``). What engines print on stdout goes to
stderr, so it cannot break the frames.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgecnn import catalog
from edgecnn.errors import EdgecnnError, RuntimeFailure
from edgecnn.runtimes.engine import Engine
from edgecnn.runtimes.framing import Frame, read_frame, write_frame
from edgecnn.runtimes.ports import Normalization
from edgecnn.runtimes.timing import TimingPlan, time_calls


class Worker:
    """One engine, created at the first verb that needs it so that a missing package is an answer like any other."""

    def __init__(self, runtime: str, threads: int, options: Mapping[str, str]) -> None:
        self._runtime, self._threads, self._options = runtime, threads, options
        self._engine: Engine | None = None
        self._import_ms = 0.0
        self._loaded = False

    def answer(self, request: Frame) -> Frame:
        """The answer to one request; every exception becomes an error frame."""
        verbs: dict[str, Callable[[Frame], Frame]] = {
            "describe": self._describe,
            "load": self._load,
            "infer": self._infer,
            "time": self._time,
            "memory": self._memory,
        }
        try:
            return verbs[request.header["verb"]](request)
        except EdgecnnError as error:
            return _error(type(error).__name__, error.message, error.hint)
        except Exception as error:  # the border of the process: whatever an engine raises must reach the other side
            traceback.print_exc()
            return _error("RuntimeFailure", f"{self._runtime} failed: {type(error).__name__}: {error}", "")

    def _describe(self, request: Frame) -> Frame:
        return Frame(
            {
                "runtime": self._runtime,
                "threads": self._threads,
                "versions": {**self._ready().versions(), "numpy": np.__version__},
                "python": platform.python_version(),
                "machine": platform.machine(),
                "cpu": cpu_model(),
                "pid": os.getpid(),
            }
        )

    def _load(self, request: Frame) -> Frame:
        path, given = Path(request.header["path"]), request.header.get("normalization")
        normalization = Normalization(tuple(given["mean"]), tuple(given["std"])) if given else None
        if not path.exists():
            raise RuntimeFailure(f"no such file: {path}", hint="give the path of an exported network")
        engine = self._ready()
        base = status_bytes("VmRSS")
        start = time.perf_counter()
        engine.load(path, normalization)
        load_ms = (time.perf_counter() - start) * 1e3
        self._loaded = True
        return Frame(
            {
                "import_ms": self._import_ms,
                "load_ms": load_ms,
                "base_bytes": base,
                "input": engine.input.as_dict(),
                "output": engine.output.as_dict(),
            }
        )

    def _infer(self, request: Frame) -> Frame:
        return Frame({}, {"logits": self._ready(loaded=True).infer(request.arrays["images"])})

    def _time(self, request: Frame) -> Frame:
        engine, images = self._ready(loaded=True), request.arrays["images"]
        batch = engine.input.batch or int(request.header["batch"])
        if len(images) < batch:
            images = np.resize(images, (batch, *images.shape[1:]))
        starts = range(0, len(images) - batch + 1, batch)
        inputs = [engine.prepare(images[start : start + batch]) for start in starts]
        plan = TimingPlan(**request.header["plan"])
        timing = time_calls(lambda number: engine.run(inputs[number % len(inputs)]), plan)
        header = {"first_ms": timing.first_ms, "warmup_runs": timing.warmup_runs, "flat": timing.flat, "batch": batch}
        return Frame(header, {"samples": timing.samples})

    def _memory(self, request: Frame) -> Frame:
        return Frame({"peak_bytes": peak_memory_bytes(), "current_bytes": status_bytes("VmRSS")})

    def _ready(self, *, loaded: bool = False) -> Engine:
        if self._engine is None:
            row = catalog.row(catalog.RUNTIMES, self._runtime, "runtime")
            start = time.perf_counter()
            self._engine = catalog.load(row.target)(threads=self._threads, options=self._options)
            self._import_ms = (time.perf_counter() - start) * 1e3
        if loaded and not self._loaded:
            raise RuntimeFailure("no file is loaded", hint="send load first")
        return self._engine


def _error(kind: str, message: str, hint: str) -> Frame:
    return Frame({"error": {"kind": kind, "message": message, "hint": hint}})


def peak_memory_bytes() -> int:
    """Highest resident memory of this process so far.

    Linux's ``VmHWM`` starts anew at exec; ``ru_maxrss``, used elsewhere, may still remember the parent's size.
    """
    peak = status_bytes("VmHWM")
    if peak:
        return peak
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def status_bytes(field: str) -> int:
    """A kB field of ``/proc/self/status`` in bytes; 0 where there is none."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    for line in status.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_model() -> str:
    """The CPU's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.lower().startswith(("model name", "model\t")) and not line.split(":")[1].strip().isdigit():
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def serve(worker: Worker, source: BinaryIO, target: BinaryIO) -> None:
    """Answer until the other side closes."""
    while (request := read_frame(source)) is not None:
        write_frame(target, worker.answer(request))


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, protect stdout, serve."""
    parser = argparse.ArgumentParser(description="Run one engine behind a framed protocol on stdin and stdout.")
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--options", type=json.loads, default={}, help="JSON object of strings for the engine")
    given = parser.parse_args(argv)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # from here on print() and the engine's own chatter go to stderr
    serve(Worker(given.runtime, given.threads, given.options), sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
