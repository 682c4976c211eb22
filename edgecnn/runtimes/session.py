"""The near end of a worker: start it, load a file, ask for logits, times and memory.

    with open_session(Runtime.LITERT, Path("model.tflite"), threads=1) as session:
        logits = session.infer(images)

A worker that dies, hangs or writes rubbish is a ``RuntimeFailure`` that carries the end of its stderr.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np

from edgecnn import catalog, errors
from edgecnn.errors import EdgecnnError, MissingPackageError, RuntimeFailure
from edgecnn.runtimes.framing import Frame, FramingError, read_frame, write_frame
from edgecnn.runtimes.ports import InputPort, Logits, OutputPort, Pictures
from edgecnn.runtimes.timing import Timing, TimingPlan
from edgecnn.spec import Format, Preprocess, Runtime

FRAME_BYTES = 32 * 2**20  # pictures are sent in pieces of about this size
STDERR_LINES = 12
OWN_FORMATS = {Runtime.OPENVINO: ".xml"}  # of runtimes that read a format which edgecnn does not write


@dataclass(frozen=True)
class Launch:
    """Everything needed to start a worker on a file, as often as wanted.

    ``preprocess`` (only its mean and std) is for foreign files that do not normalize inside; files that take uint8
    pixels ignore it. ``options`` go to the engine. ``command`` is how to start the worker program elsewhere than here.
    """

    runtime: Runtime
    file: Path
    threads: int = 1
    preprocess: Preprocess | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] | None = None
    timeout_s: float = 300.0


class Session:
    """A running worker with a loaded file. Use it as a context manager, or ``close`` it."""

    load_ms: float
    import_ms: float
    base_memory_bytes: int
    input: InputPort
    output: OutputPort

    def __init__(self, launch: Launch) -> None:
        check_format(launch.runtime, launch.file)
        self._launch = launch
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the session)
        try:
            self._process = _start(launch, self._stderr)
        except OSError as error:
            self._stderr.close()
            raise RuntimeFailure(f"the {launch.runtime} worker cannot be started: {error}") from error
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        preprocess = self._launch.preprocess
        normalization = None if preprocess is None else {"mean": preprocess.mean, "std": preprocess.std}
        header = self._ask("load", path=str(self._launch.file), normalization=normalization).header
        self.load_ms, self.import_ms = float(header["load_ms"]), float(header["import_ms"])
        self.base_memory_bytes = int(header["base_bytes"])
        self.input = InputPort(**header["input"])
        self.output = OutputPort(**{**header["output"], "shape": tuple(header["output"]["shape"])})

    def infer(self, images: Pictures) -> Logits:
        """Pictures (N, H, W, C) uint8 -> logits (N, K) float32."""
        piece = max(1, FRAME_BYTES // max(1, images[:1].nbytes))
        starts = range(0, max(len(images), 1), piece)
        answers = [self._ask("infer", {"images": images[start : start + piece]}).arrays["logits"] for start in starts]
        return cast(Logits, np.concatenate(answers))

    def time(self, images: Pictures, plan: TimingPlan | None = None, *, batch: int = 1) -> Timing:
        """Raw times of single calls in ms over rotating ``images``; a file's own fixed batch wins over ``batch``."""
        answer = self._ask("time", {"images": images}, batch=batch, plan=asdict(plan or TimingPlan()))
        header = answer.header
        return Timing(
            answer.arrays["samples"], float(header["first_ms"]), int(header["warmup_runs"]), bool(header["flat"])
        )

    @property
    def peak_memory_bytes(self) -> int:
        """Highest resident memory of the worker process so far."""
        return int(self._ask("memory").header["peak_bytes"])

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the worker process now."""
        return int(self._ask("memory").header["current_bytes"])

    def describe(self) -> dict[str, Any]:
        """Versions and machine at the far end."""
        return self._ask("describe").header

    def close(self) -> None:
        """End the worker; harmless when it has ended already."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None and not stream.closed:
                _close_quietly(cast(BinaryIO, stream))
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._stderr.close()

    def __enter__(self) -> Self:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _ask(self, verb: str, arrays: Mapping[str, Any] | None = None, **header: Any) -> Frame:
        """One request, one answer. Raises the worker's error here, or ``RuntimeFailure`` when there is no answer."""
        expired = threading.Event()
        timer = threading.Timer(self._launch.timeout_s, self._expire, (expired,))
        timer.daemon = True
        timer.start()
        try:
            write_frame(cast(BinaryIO, self._process.stdin), Frame({"verb": verb, **header}, dict(arrays or {})))
            answer = read_frame(cast(BinaryIO, self._process.stdout))
        except (OSError, FramingError, ValueError) as error:
            raise self._broken(verb, expired.is_set(), str(error)) from error
        finally:
            timer.cancel()
        if answer is None:
            raise self._broken(verb, expired.is_set(), "")
        if "error" in answer.header:
            raise _as_error(answer.header["error"])
        return answer

    def _expire(self, expired: threading.Event) -> None:
        """Time is up: killing the worker ends the read that waits for it."""
        expired.set()
        self._process.kill()

    def _broken(self, verb: str, expired: bool, why: str) -> RuntimeFailure:
        """The worker is gone or speaks nonsense: say how it ended and what it said last."""
        if self._stderr.closed:
            return RuntimeFailure(f"the session on {self._launch.file.name} is closed")
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"did not answer within {self._launch.timeout_s:g} s" if expired else f"ended: {_exit_words(code)}"
        detail = f" ({why})" if why else ""
        message = f"the {self._launch.runtime} worker {how} during {verb!r} of {self._launch.file.name}{detail}"
        return RuntimeFailure(message, hint="its last words:\n" + self._last_words())

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return "\n".join(f"    {line}" for line in lines[-STDERR_LINES:]) or "    (nothing on stderr)"


def open_session(
    runtime: Runtime,
    file: Path,
    *,
    threads: int = 1,
    preprocess: Preprocess | None = None,
    options: Mapping[str, str] | None = None,
    timeout_s: float = 300.0,
) -> Session:
    """Start a worker of ``runtime`` and load ``file``.

    Raises ``MissingPackageError`` when the engine is not installed, ``RuntimeFailure`` when the runtime does not read
    this format or refuses the file.
    """
    return Session(Launch(runtime, file, threads, preprocess, dict(options or {}), timeout_s=timeout_s))


def check_format(runtime: Runtime, file: Path) -> None:
    """Raises ``RuntimeFailure`` when the runtime does not read files of this kind, naming those which do."""
    if file.suffix.lower() == OWN_FORMATS.get(runtime):
        return
    known = {row.extension: name for name, row in catalog.FORMATS.items()}
    found = known.get(file.suffix.lower(), Format.TORCH)
    row = catalog.row(catalog.RUNTIMES, runtime, "runtime")
    if found in row.formats:
        return
    others = [str(name) for name, other in catalog.RUNTIMES.items() if found in other.formats and name != Runtime.NULL]
    raise RuntimeFailure(
        f"{runtime} does not read {file.name}",
        hint=f"{runtime} reads {', '.join(row.formats)}; for this file choose one of: {', '.join(others)}",
    )


def _start(launch: Launch, stderr: BinaryIO) -> subprocess.Popen[bytes]:
    command: Sequence[str] = launch.command or (sys.executable, "-m", "edgecnn.runtimes.worker")
    arguments = ["--runtime", launch.runtime, "--threads", str(launch.threads)]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(launch.threads)}
    return subprocess.Popen(
        [*command, *arguments, "--options", json.dumps(dict(launch.options))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment,
    )


def _as_error(found: Mapping[str, str]) -> EdgecnnError:
    """The worker's error as the same class on this side."""
    kind = getattr(errors, found["kind"], None)
    if found["kind"] == MissingPackageError.__name__ or (isinstance(kind, type) and issubclass(kind, EdgecnnError)):
        return cast(type[EdgecnnError], kind)(found["message"], hint=found["hint"])
    return RuntimeFailure(found["message"], hint=found["hint"])


def _exit_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}"


def _close_quietly(stream: BinaryIO) -> None:
    """Closing flushes, and flushing to a dead process fails: that it is dead has been reported already."""
    try:
        stream.close()
    except BrokenPipeError:
        return
