"""Where the time of a network goes, operator by operator, float beside int8, in three runtimes.

    python benchmarks/op_profile.py --model mobilenet_v3_small --name v3s

Each runtime's own profiler on one thread: ONNX Runtime's trace, OpenVINO's PERF_COUNT, LiteRT's C interface. An
operator's time is the lower quartile over the calls, so that interruptions do not count; profiling itself costs some
microseconds per operator. Writes results/op_profile_NAME.json and prints a table per runtime, the slowest kind first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from figures import save_result
from latency_224 import our_files
from litert_profile import LiteRTProfiler
from subjects import pictures

from edgecnn.runtimes.engine_openvino import SETTINGS

CALLS, WARMUP = 120, 20
Calls = list[list[tuple[str, float]]]  # of each call: its operators in order, kind and microseconds


def onnxruntime_calls(file: Path) -> Calls:
    """Kinds as in ONNX Runtime's optimized graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_profiling = 1, 3, True
    options.profile_file_prefix = str(Path(tempfile.mkdtemp()) / "trace")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    for _ in range(CALLS):
        session.run(None, {"image": pictures(1)})
    times: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"]].append((event["args"]["op_name"], event["dur"]))
    return [list(call) for call in zip(*times.values(), strict=True)]


def openvino_calls(file: Path) -> Calls:
    """Kinds with the kernel that was chosen."""
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    model.reshape([1, *(length.get_length() for length in list(model.input(0).get_partial_shape())[1:])])
    settings = {**SETTINGS, "INFERENCE_NUM_THREADS": 1, "PERF_COUNT": True}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    calls = []
    for _ in range(CALLS):
        request.infer([pictures(1)])
        rows = request.get_profiling_info()
        calls.append([(f"{row.node_type} {row.exec_type}", row.real_time.total_seconds() * 1e6) for row in rows])
    return calls


def litert_calls(file: Path) -> Calls:
    """Kinds as XNNPACK names them."""
    profiler = LiteRTProfiler(file)
    return [profiler.run(pictures(1)) for _ in range(CALLS)]


RUNTIMES: dict[str, tuple[Callable[[Path], Calls], str]] = {
    "onnxruntime": (onnxruntime_calls, ".onnx"),
    "openvino": (openvino_calls, ".onnx"),
    "litert": (litert_calls, ".tflite"),
}


def by_kind(calls: Calls) -> dict[str, dict[str, float]]:
    """Milliseconds and number of operators of each kind, the slowest first."""
    times = np.array([[micros for _, micros in call] for call in calls[WARMUP:]])
    quartiles = np.percentile(times, 25, axis=0) / 1e3
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"ms": 0.0, "count": 0})
    for (kind, _), ms in zip(calls[0], quartiles, strict=True):
        found[kind]["ms"] += float(ms)
        found[kind]["count"] += bool(ms)
    kept = {kind: row for kind, row in found.items() if row["ms"] > 0}
    return dict(sorted(kept.items(), key=lambda item: -item[1]["ms"]))


def show(runtime: str, found: dict[str, dict[str, Any]]) -> None:
    """A table of both precisions."""
    for precision, rows in found.items():
        total = sum(row["ms"] for row in rows.values())
        print(f"\n{runtime}, {precision}: {total:.2f} ms in {sum(row['count'] for row in rows.values())} operators")
        for kind, row in rows.items():
            print(f"  {row['ms']:7.3f} ms  {row['count']:3d}  {kind}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v3_small")
    parser.add_argument("--name", default="v3s")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        our_files(args.model, folder)
        for runtime, (calls, suffix) in RUNTIMES.items():
            files = {"float": folder / f"ours{suffix}", "int8": folder / f"ours_int8{suffix}"}
            results[runtime] = {precision: by_kind(calls(file)) for precision, file in files.items()}
            show(runtime, results[runtime])
    save_result(f"op_profile_{args.name}", results)


if __name__ == "__main__":
    main()
