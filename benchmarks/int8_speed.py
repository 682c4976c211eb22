"""Latency of edgecnn's int8 file over its own float file and over the best of the peers' int8 files, 224 px, 1 thread.

    python benchmarks/peers.py --model mobilenet_v2 --to runs/peers/mobilenet_v2
    python benchmarks/int8_speed.py --model mobilenet_v2 --peers runs/peers/mobilenet_v2 --name v2

Every ratio comes from interleaved blocks in fresh processes (``edgecnn.measure.latency.compare``). All of a runtime's
peers are measured; the figure is the largest ratio, which is the one over the fastest of them. ``--clock cpu`` counts
processor time instead of seconds, for a machine that others use at the same time.

In OpenVINO edgecnn's file is the one that ``compress --scheme mixed --runtime openvino`` would make: what is computed
faster otherwise than in int8 is chosen by time, on this machine. What the int8 file has that all runtimes get is
recorded beside it, as ``all_int8_over_...``.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from figures import record, save_result
from latency_224 import our_files
from subjects import pictures

from edgecnn.compress.mixed import loosened
from edgecnn.export.onnx import render
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.measure.latency import Comparison, compare
from edgecnn.measure.parity import divergence
from edgecnn.pipeline.timed_choice import PICTURES, fitted
from edgecnn.runtimes.session import Launch
from edgecnn.spec import Runtime

PEERS = {
    Runtime.ONNXRUNTIME: ("peer_int8.onnx", "nncf_int8.onnx"),
    Runtime.LITERT: ("peer_int8.tflite",),
    Runtime.OPENVINO: ("peer_int8.onnx", "nncf_int8.onnx", "nncf_int8.xml"),
}


MADE_FOR = "ours_openvino.onnx"


def made_for_openvino(graph: Graph, int8: Graph, folder: Path) -> list[dict[str, Any]]:
    """Write the file that is made for OpenVINO; what was tried."""
    images = pictures(PICTURES, seed=200)
    wanted = run(graph, images).numpy()

    def apart(one: Any, other: Any) -> float:
        return float(divergence(one, other).mean())

    def judged(numbers: Graph) -> float:
        return apart(wanted, run(numbers, images).numpy())

    told = partial(print, flush=True)
    plan, tried = fitted((graph, int8), Runtime.OPENVINO, images, apart, judged, tell=told)
    render(loosened(graph, int8, plan.bits, unrounded=plan.unrounded), folder / MADE_FOR, meta={})
    return [each.figures() for each in tried]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--name", required=True, help="of the network in the figures")
    parser.add_argument("--runtime", type=Runtime, choices=list(PEERS), action="append", help="default: all")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds per ratio")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    twins = our_files(args.model, args.peers)
    images = pictures(16, seed=7)

    def ratios(runtime: Runtime, ours: str, prefix: str) -> dict[str, Any]:
        """Of one file of ours; its figures are recorded."""

        def ratio(file: str) -> Comparison:
            sides = [Launch(runtime, args.peers / name) for name in (ours, file)]
            return compare(*sides, images, budget_s=args.budget, clock=args.clock)

        over_float = ratio("ours.tflite" if runtime is Runtime.LITERT else "ours.onnx")
        over_peers = {file: ratio(file) for file in PEERS[runtime]}
        best = max(over_peers.values(), key=lambda found: found.ratio.value)
        record(f"{prefix}_over_fp32_{runtime}_{args.name}", over_float.ratio, "ratio")
        record(f"{prefix}_over_best_peer_{runtime}_{args.name}", best.ratio, "ratio")
        return {"ours.fp32": asdict(over_float), **{file: asdict(found) for file, found in over_peers.items()}}

    for runtime in args.runtime or PEERS:
        results: dict[str, Any] = {"clock": args.clock, "load_average": os.getloadavg()}
        int8 = "ours_int8.tflite" if runtime is Runtime.LITERT else "ours_int8.onnx"
        if runtime is Runtime.OPENVINO:
            results |= {"tried": made_for_openvino(*twins, args.peers), "all int8": ratios(runtime, int8, "all_int8")}
            results |= ratios(runtime, MADE_FOR, "int8")
        else:
            results |= ratios(runtime, int8, "int8")
        save_result(f"int8_speed_{args.name}_{runtime}", results)


if __name__ == "__main__":
    main()
