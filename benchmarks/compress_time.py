"""How long ``edgecnn compress --quantize int8`` and both exports take, and what others take for their parts.

    python benchmarks/compress_time.py RUN [--peers ort_minmax aeq aeq_profiler nncf_fast] [--rounds 3]

RUN has a trained ``float`` bundle whose pictures are there (512 training pictures or more). Ours is the whole: reading
and decoding pictures, two passes over 512 of them, the ladder's judging, the test split, both files and their
verification, in processes as a user starts them. Theirs is the quantizing alone, on decoded pictures in memory, of the
same network (``int8_tools.py``; needs the peers' packages), with the float TFLite file that ai-edge-quantizer starts
from. All on as many threads as the machine has; rounds alternate.

Two figures: over ONNX Runtime, ai-edge-quantizer and NNCF as they come, and with ai-edge-quantizer's faster way to
calibrate, by profiler, in the place of its usual one.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from figures import record, save_result
from int8_subjects import Subject
from int8_tools import TOOLS, Cost, aeq

from edgecnn.bundle import open_bundle
from edgecnn.data.tensors import choose_calibration, load_items
from edgecnn.pipeline.context import data_of
from edgecnn.pipeline.loading import load_module, preprocess_of
from edgecnn.spec import Interval

CALIBRATION = 512
TIMED = {**TOOLS, "aeq_profiler": partial(aeq, update="moving_average", profiler=True)}
SUMS = {
    "compress_time_over_peers": ("ort_minmax", "aeq", "nncf_fast"),
    "compress_time_over_fast_peers": ("ort_minmax", "aeq_profiler", "nncf_fast"),
}
PEERS = tuple(dict.fromkeys(peer for peers in SUMS.values() for peer in peers))


def ours(run: Path) -> float:
    """Seconds of compress and export, from the command line."""
    shutil.rmtree(run / "int8", ignore_errors=True)
    began = time.perf_counter()
    for words in (["compress", str(run), "--quantize", "int8"], ["export", str(run / "int8")]):
        subprocess.run([sys.executable, "-m", "edgecnn", *words], check=True, capture_output=True)
    return time.perf_counter() - began


def theirs(run: Path, tool: str) -> float:
    """Seconds of a peer's quantizing; for the TFLite one with the conversion that it needs."""
    bundle = open_bundle(run / "float")
    subject = Subject("float", load_module(bundle), preprocess_of(bundle), "own")
    data = data_of(bundle, None)
    pictures = load_items(data, choose_calibration(data, CALIBRATION, 0), subject.preprocess).images
    cost = Cost()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        TIMED[tool](subject, np.ascontiguousarray(pictures), Path(folder), cost)
        whole = time.perf_counter() - began
    return whole if tool.startswith("aeq") else cost.seconds


def main() -> None:
    """Measure and print; write ``results/compress_time.json`` when there are peers, and the figures they make up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=list(TIMED))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(theirs(given.run, given.one))
        return
    seconds: dict[str, list[float]] = {name: [] for name in ("edgecnn", *given.peers)}
    for _ in range(given.rounds):
        seconds["edgecnn"].append(ours(given.run))
        for peer in given.peers:
            words = [sys.executable, __file__, str(given.run), "--one", peer]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            seconds[peer].append(float(done.stdout.split()[-1]))
        print({name: [round(value, 1) for value in values] for name, values in seconds.items()}, flush=True)
    for figure, peers in SUMS.items():
        if set(peers) <= seconds.keys():
            sums = [sum(seconds[peer][at] for peer in peers) for at in range(given.rounds)]
            ratios = [mine / others for mine, others in zip(seconds["edgecnn"], sums, strict=True)]
            record(figure, Interval(statistics.median(ratios), min(ratios), max(ratios), len(ratios)), "ratio")
    if given.peers:
        save_result("compress_time", {"network": "mobilenet_v2, 224 px", "seconds": seconds})


if __name__ == "__main__":
    main()
