"""Latency of edgecnn's int8 file over its own float file and over the best of the peers' int8 files, 224 px, 1 thread.

    python benchmarks/peers.py --model mobilenet_v2 --to runs/peers/mobilenet_v2
    python benchmarks/int8_speed.py --model mobilenet_v2 --peers runs/peers/mobilenet_v2 --name v2

Every ratio comes from interleaved blocks in fresh processes (``edgecnn.measure.latency.compare``). All of a runtime's
peers are measured; the figure is the largest ratio, which is the one over the fastest of them. ``--clock cpu`` counts
processor time instead of seconds, for a machine that others use at the same time.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from figures import record, save_result
from latency_224 import our_files
from subjects import pictures

from edgecnn.measure.latency import Comparison, compare
from edgecnn.runtimes.session import Launch
from edgecnn.spec import Runtime

PEERS = {
    Runtime.ONNXRUNTIME: ("peer_int8.onnx", "nncf_int8.onnx"),
    Runtime.LITERT: ("peer_int8.tflite",),
    Runtime.OPENVINO: ("peer_int8.onnx", "nncf_int8.onnx", "nncf_int8.xml"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--name", required=True, help="of the network in the figures")
    parser.add_argument("--runtime", type=Runtime, choices=list(PEERS), action="append", help="default: all")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds per ratio")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    our_files(args.model, args.peers)
    images = pictures(16, seed=7)

    def ratio(runtime: Runtime, file: str) -> Comparison:
        ours = "ours_int8.tflite" if runtime is Runtime.LITERT else "ours_int8.onnx"
        sides = [Launch(runtime, args.peers / name) for name in (ours, file)]
        return compare(*sides, images, budget_s=args.budget, clock=args.clock)

    for runtime in args.runtime or PEERS:
        over_float = ratio(runtime, "ours.tflite" if runtime is Runtime.LITERT else "ours.onnx")
        over_peers = {file: ratio(runtime, file) for file in PEERS[runtime]}
        best = max(over_peers.values(), key=lambda found: found.ratio.value)
        record(f"int8_over_fp32_{runtime}_{args.name}", over_float.ratio, "ratio")
        record(f"int8_over_best_peer_{runtime}_{args.name}", best.ratio, "ratio")
        results: dict[str, Any] = {"ours.fp32": asdict(over_float)}
        results |= {file: asdict(found) for file, found in over_peers.items()}
        save_result(
            f"int8_speed_{args.name}_{runtime}", results | {"clock": args.clock, "load_average": os.getloadavg()}
        )


if __name__ == "__main__":
    main()
