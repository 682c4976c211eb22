"""Accuracy, agreement and latency of a finished run, into figures.json.

    python benchmarks/run_figures.py runs/cifar10-v2 --prefix cifar10_v2

For every bundle of the run: top-1 of torch, and of each exported file in its own runtime, on the test split; top-1
agreement of the torch integer simulation with each int8 file; McNemar's test of int8 against float; latency at one
thread.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from figures import record, save_result
from numpy.typing import NDArray

from edgecnn.bundle import Bundle, find_bundles
from edgecnn.data.tensors import load_split
from edgecnn.measure.accuracy import accuracy, correct
from edgecnn.measure.latency import measure_latency
from edgecnn.measure.parity import compare_logits
from edgecnn.measure.stats import mcnemar, wilson
from edgecnn.pipeline.candidates import LATENCY_IMAGES, candidate_of, options_of
from edgecnn.pipeline.context import data_of
from edgecnn.pipeline.loading import preprocess_of
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Runtime, Split

RUNTIMES = (Runtime.TORCH, Runtime.ONNXRUNTIME, Runtime.LITERT)


def logits_of(bundle: Bundle, runtime: Runtime, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of the bundle's file in a runtime."""
    candidate = candidate_of(bundle, runtime)
    if candidate.missing:
        raise SystemExit(candidate.missing)
    with open_session(
        runtime, candidate.path, threads=1, preprocess=candidate.preprocess, options=options_of(runtime)
    ) as session:
        return session.infer(images)


def measure(bundle: Bundle, data: str | None, budget_s: float) -> dict[str, Any]:
    """All figures of one bundle."""
    test = load_split(data_of(bundle, data), Split.TEST, preprocess_of(bundle))
    found: dict[str, Any] = {"bundle": bundle.title, "figures": bundle.manifest.figures, "runtimes": {}}
    logits: dict[Runtime, NDArray[np.float32]] = {}
    for runtime in RUNTIMES:
        logits[runtime] = logits_of(bundle, runtime, test.images)
        candidate = candidate_of(bundle, runtime)
        top1 = accuracy(logits[runtime], test.labels).top1
        entry: dict[str, Any] = {"top1": asdict(top1), "size_bytes": candidate.size_bytes}
        if runtime is not Runtime.TORCH:
            entry["parity_with_torch"] = asdict(compare_logits(logits[Runtime.TORCH], logits[runtime]))
            latency = measure_latency(
                runtime,
                candidate.path,
                test.images[:LATENCY_IMAGES],
                1,
                budget_s=budget_s,
                preprocess=candidate.preprocess,
            )
            entry["latency_ms"] = asdict(latency.median)
            entry["latency_status"] = str(latency.status)
        found["runtimes"][str(runtime)] = entry
    found["logits"] = {runtime: values for runtime, values in logits.items()}
    found["labels"] = test.labels
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--data")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds per latency")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    floats: dict[str, NDArray[np.bool_]] = {}
    for bundle in find_bundles(args.run):
        found = measure(bundle, args.data, args.budget)
        logits, labels = found.pop("logits"), found.pop("labels")
        stage = bundle.name.replace("-", "_").replace("pruned", "pruned30")
        for runtime in RUNTIMES:
            short = "" if runtime is Runtime.TORCH else f"_{runtime}"
            record(f"{args.prefix}_{stage}{short}_top1", accuracy(logits[runtime], labels).top1, "percent")
            if runtime is Runtime.TORCH:
                continue
            entry = found["runtimes"][str(runtime)]
            same = int((logits[Runtime.TORCH].argmax(1) == logits[runtime].argmax(1)).sum())
            name = (
                f"{args.prefix}_agreement_{runtime}"
                if stage == "int8"
                else f"{args.prefix}_{stage}_agreement_{runtime}"
            )
            record(name, wilson(same, len(labels)), "percent")
            record(f"{args.prefix}_{stage}_{runtime}_bytes", entry["size_bytes"], "bytes")
            record(
                f"{args.prefix}_{stage}_{runtime}_ms", entry["latency_ms"]["value"], "ms", n=entry["latency_ms"]["n"]
            )
            right = correct(logits[runtime], labels)
            if bundle.name == "float":
                floats[str(runtime)] = right
            elif str(runtime) in floats:
                entry["mcnemar_p_against_float"] = mcnemar(floats[str(runtime)], right)
        for key in ("macs", "params", "before_recovery_test_top1", "seconds", "epochs"):
            if key in bundle.manifest.figures:
                value = bundle.manifest.figures[key]
                unit = {"macs": "MACs", "params": "parameters", "seconds": "s", "epochs": "epochs"}.get(key, "percent")
                record(f"{args.prefix}_{stage}_{key}", 100 * value if unit == "percent" else value, unit)
        results.append(found)
    save_result(args.prefix, results)


if __name__ == "__main__":
    main()
