"""Latency of edgecnn's fp32 and int8 files beside other tools' int8 files of the same float network, 224 px, 1 thread.

    python benchmarks/peers.py --model mobilenet_v2 --to runs/peers/mobilenet_v2
    python benchmarks/latency_224.py --model mobilenet_v2 --peers runs/peers/mobilenet_v2 --prefix v2_224

Every ratio comes from interleaved blocks in fresh processes (``edgecnn.measure.latency.compare``), so that what slows
the machine for a while slows both sides. Also counts the nodes of ONNX Runtime's optimized graph.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from figures import record, save_result
from subjects import PREPROCESS, network, pictures

from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.quantize import quantize
from edgecnn.export.meta import meta_of
from edgecnn.export.onnx import render as render_onnx
from edgecnn.export.tflite import render as render_tflite
from edgecnn.graph.capture import capture
from edgecnn.graph.ir import Graph
from edgecnn.measure.latency import compare
from edgecnn.runtimes.session import Launch
from edgecnn.spec import Runtime


def our_files(model: str, folder: Path) -> tuple[Graph, Graph]:
    """ours.onnx, ours_int8.onnx, ours.tflite, ours_int8.tflite of the network that peers.py gives the other tools; the
    float graph and the int8 graph.
    """
    graph = capture(network(model), PREPROCESS.size, PREPROCESS)
    images = pictures(16, seed=100)
    int8 = quantize(graph, calibrate(graph, (images[at : at + 4] for at in range(0, 16, 4))))
    meta = meta_of([str(index) for index in range(1000)], PREPROCESS)
    for chosen, name in ((graph, "ours"), (int8, "ours_int8")):
        render_onnx(chosen, folder / f"{name}.onnx", meta=meta)
        render_tflite(chosen, folder / f"{name}.tflite", meta=meta)
    return graph, int8


def optimized_nodes(file: Path, folder: Path) -> dict[str, int]:
    """Operators of the graph that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return dict(Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds per ratio")
    args = parser.parse_args()
    folder: Path = args.peers
    our_files(args.model, folder)
    images = pictures(16, seed=7)
    # Without VNNI, ONNX Runtime's fast int8 kernels saturate (wrong numbers); the engine then asks for the exact ones,
    # for both sides of a ratio. "saturating" is what the fast ones would give.
    exact, fast = {"exact_int8": "auto"}, {"exact_int8": "off"}
    pairs = [
        ("int8_over_fp32_onnxruntime", Runtime.ONNXRUNTIME, "ours_int8.onnx", "ours.onnx", exact),
        ("int8_over_quantize_static", Runtime.ONNXRUNTIME, "ours_int8.onnx", "peer_int8.onnx", exact),
        ("int8_over_fp32_litert", Runtime.LITERT, "ours_int8.tflite", "ours.tflite", {}),
        ("int8_over_ai_edge_quantizer", Runtime.LITERT, "ours_int8.tflite", "peer_int8.tflite", {}),
        ("int8_over_fp32_onnxruntime_saturating", Runtime.ONNXRUNTIME, "ours_int8.onnx", "ours.onnx", fast),
        ("int8_over_quantize_static_saturating", Runtime.ONNXRUNTIME, "ours_int8.onnx", "peer_int8.onnx", fast),
        ("fp32_over_peer_fp32_onnxruntime", Runtime.ONNXRUNTIME, "ours.onnx", "peer.onnx", exact),
        ("fp32_over_peer_fp32_litert", Runtime.LITERT, "ours.tflite", "peer.tflite", {}),
    ]
    results: dict[str, Any] = {"sizes": {file.name: file.stat().st_size for file in sorted(folder.glob("*_int8.*"))}}
    for name, runtime, a, b, options in pairs:
        if not (folder / b).is_file():
            print(f"{name}: no {b}, left out")
            continue
        sides = [Launch(runtime, folder / file, options=options) for file in (a, b)]
        found = compare(*sides, images, budget_s=args.budget)
        record(f"{args.prefix}_{name}", found.ratio, "ratio")
        results[name] = {"ratio": asdict(found.ratio), "a_ms": asdict(found.a_ms), "b_ms": asdict(found.b_ms)}
        results[name]["status"] = str(found.status)
    for name in ("ours_int8.onnx", "peer_int8.onnx"):
        if (folder / name).is_file():
            results[f"optimized graph of {name}"] = optimized_nodes(folder / name, folder)
    save_result(args.prefix, results)


if __name__ == "__main__":
    main()
