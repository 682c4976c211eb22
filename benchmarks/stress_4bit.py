"""How much of what few-bit weights lose the repair brings back, where plain rounding loses much.

    taskset -c 0 python benchmarks/stress_4bit.py --subject resnet20 --work runs/int8 --weights WEIGHTS --cifar CIFAR10

All weights of a trained network, the first and last layer included, are rounded to 15 values (4 bits) at ONE scale per
tensor; activations are int8, biases int32, as in every int8 network of edgecnn, and the result is computed in integers.

    plain           the scale of the largest weight, each weight to its nearest step
    clipped         the scale of least squared error (``compress/grid.py``), each weight to its nearest step
    repaired        that scale, weights rounded by second order (``compress/rounding.py``); no training
    reconstructed   from these, the rounding learned layer by layer (``compress/adaround.py``)

The share of the lost accuracy that is recovered is ``(repaired - plain) / (float - plain)``, with a bootstrap interval
over pictures. Network and pictures as ``int8_subjects.py`` has them: 512 calibrate, others are counted. Seen in the
network's own training, so the accuracies are too high, all alike. Figures: ``stress_4bit_recovered``, and
``stress_Nbit_recovered`` for other ``--bits``.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import record, save_result
from int8_subjects import SUBJECTS, Pictures, Places, load_pictures
from numpy.typing import NDArray

from edgecnn.compress.adaround import reconstructed
from edgecnn.compress.calibrate import measured
from edgecnn.compress.grid import Grid
from edgecnn.compress.quantize import decompose, quantize
from edgecnn.compress.rounding import InputMoments, rounded
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.measure.accuracy import accuracy, correct
from edgecnn.measure.resampling import draw_weights, weighted_means
from edgecnn.measure.stats import RESAMPLES
from edgecnn.spec import Interval

BATCH = 32


def networks(graph: Graph, pictures: Pictures, bits: int) -> dict[str, Graph]:
    """The float network and the ways to few bits, by name."""
    moments = InputMoments(graph)
    batches = (pictures.calibration[at : at + BATCH] for at in range(0, len(pictures.calibration), BATCH))
    ranges = measured(graph, batches, "auto", moments.see).ranges
    plain, clipped = (Grid(bits, per_tensor=True, clipped=clip) for clip in (False, True))
    nearest = quantize(graph, ranges, grid=clipped)
    repaired = rounded(graph, nearest, moments.matrices(), clipped.largest)
    learned = reconstructed(decompose(graph), repaired, pictures.calibration, largest=clipped.largest)
    return {
        "float": graph,
        "plain": quantize(graph, ranges, grid=plain),
        "clipped": nearest,
        "repaired": repaired,
        "reconstructed": learned,
    }


def recovered(right: dict[str, NDArray[np.bool_]]) -> Interval:
    """The share of the loss that came back, with its 95 % bootstrap interval over pictures."""
    found = [right[name].astype(np.float64) for name in ("float", "plain", "repaired")]
    weights = draw_weights(len(found[0]), RESAMPLES, seed=0)
    drawn = [weighted_means(each, weights) for each in found]
    shares = (drawn[2] - drawn[1]) / (drawn[0] - drawn[1])
    whole, plain, repaired = (float(each.mean()) for each in found)
    low, high = np.percentile(shares, (2.5, 97.5))
    return Interval((repaired - plain) / (whole - plain), float(low), float(high), len(found[0]))


def main() -> None:
    """Quantize, count, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=SUBJECTS, default="resnet20")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3])
    parser.add_argument("--work", type=Path, required=True, help="folder for decoded pictures")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--imagenet", type=Path, default=Path("imagenet"))
    parser.add_argument("--cifar", type=Path, default=Path("cifar10"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    places = Places(args.weights, args.imagenet, args.cifar, args.runs)
    subject = SUBJECTS[args.subject](places)
    pictures = load_pictures(subject, places, args.work / subject.name / "pictures.npz")
    graph = capture(subject.model, subject.preprocess.size, subject.preprocess)
    content: dict[str, Any] = {"subject": subject.name, "calibration_images": len(pictures.calibration)}
    shares = {bits: one(graph, pictures, bits, content) for bits in args.bits}
    save_result("stress_4bit", content)
    for bits, share in shares.items():
        record(f"stress_{bits}bit_recovered", share, "percent")


def one(graph: Graph, pictures: Pictures, bits: int, content: dict[str, Any]) -> Interval:
    """The share recovered with so many bits; accuracies go into ``content``."""
    right: dict[str, NDArray[np.bool_]] = {}
    rows: dict[str, Any] = {}
    for name, made in networks(graph, pictures, bits).items():
        logits = run(made, pictures.held_out, batch_size=128).numpy()
        right[name] = correct(logits, pictures.labels)
        rows[name] = asdict(accuracy(logits, pictures.labels).top1)
        print(f"{bits} bits, {name}: top-1 {100 * right[name].mean():.2f} %", flush=True)
    share = recovered(right)
    content[f"{bits} bits"] = {"top1": rows, "recovered": asdict(share)}
    return share


if __name__ == "__main__":
    main()
