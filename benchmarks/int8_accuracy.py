"""How far int8 is from float, quantizer by quantizer, on trained networks and real pictures.

    taskset -c 0 python benchmarks/int8_accuracy.py --subject mcunet resnet20 lite0 --tool edgecnn --work runs/int8 \
        --weights WEIGHTS --imagenet PHOTOS --cifar CIFAR10            # edgecnn's own default anew, all else as it was
    python benchmarks/int8_accuracy.py --subject mcunet --tool all ...                  # every tool
    python benchmarks/int8_accuracy.py --subject mcunet --rescore ...                   # from the logits in --work

All tools get the same float network, the same 512 pictures to calibrate with and the same held-out pictures
(``int8_subjects.py``); each works in a process of its own (``int8_tools.py``; ``taskset`` holds all of them to one
thread). A subject's rows are kept in ``results/int8_SUBJECT.json``, those of tools that are not run now as they were,
and its headline in ``figures.json``. ``--work`` keeps the logits of each tool and the decoded pictures.

Figures: top-1 on the held-out pictures; what int8 loses, in points, with an interval of the paired difference and
McNemar's test; the share of pictures with the same answer as float; the mean of KL(float || int8) over pictures, in
nats, with a bootstrap interval over pictures; SQNR of the logits. The best peer is the tool of others with the smallest
mean KL (of these figures it takes fewest pictures to tell tools apart), among those that make an int8 network: the
quantizer for x86 leaves sums, pooling and logits in float. NNCF leaves the logits in float, everybody else has at most
256 different ones. Seconds are of interest where ``load_1min`` says that the machine did little else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import RESULTS, commit, record, save_result
from int8_subjects import CALIBRATION, OWN, SUBJECTS, Pictures, Places, Subject, load_pictures
from int8_tools import PACKAGES, TOOLS, Cost, Logits
from numpy.typing import NDArray

from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.measure.accuracy import accuracy, correct
from edgecnn.measure.machine import state
from edgecnn.measure.parity import divergence, sqnr_db
from edgecnn.measure.resampling import draw_weights, interval, weighted_means
from edgecnn.measure.stats import RESAMPLES, mcnemar, paired_difference, wilson
from edgecnn.spec import Interval
from edgecnn.versions import installed

NO_PEERS = ("edgecnn", "edgecnn_plain", "edgecnn_qat", "pt2e_x86")  # our own; one that is not int8 throughout


def scores(reference: Logits, logits: Logits, labels: NDArray[np.int64]) -> dict[str, Any]:
    """The figures of one tool; ``reference`` are the float network's logits."""
    right_float, right = correct(reference, labels), correct(logits, labels)
    lost, kl, n = paired_difference(right_float, right), divergence(reference, logits), len(labels)
    resampled = weighted_means(kl, draw_weights(n, RESAMPLES, seed=0))
    return {
        "top1": asdict(accuracy(logits, labels).top1),
        "drop_points": asdict(Interval(100 * lost.value, 100 * lost.low, 100 * lost.high, n)),
        "mcnemar_p": mcnemar(right_float, right),
        "agreement": asdict(wilson(int((reference.argmax(1) == logits.argmax(1)).sum()), n)),
        "kl_nats": asdict(interval(float(kl.mean()), resampled, n, ceiling=math.inf)),
        "sqnr_db": sqnr_db(reference, logits),
    }


def measure(tool: str, subject: Subject, pictures: Pictures, folder: Path) -> dict[str, Any]:
    """Quantize with one tool, keep its logits, and say what it cost."""
    cost = Cost()
    predict = TOOLS[tool](subject, pictures.calibration, folder, cost)
    np.save(folder / f"{tool}.npy", predict(pictures.held_out))
    return {
        "calibration_images": len(pictures.calibration),
        "seconds": round(cost.seconds, 2),
        "memory_mb": round(cost.memory_bytes / 1e6, 1),
        "threads": len(os.sched_getaffinity(0)),
        "load_1min": state().load_1min,
        "date": datetime.now(UTC).isoformat(),
        "commit": commit(),
        "versions": {package: installed(package) for package in PACKAGES[tool.partition("_")[0]]},
    }


def float_logits(subject: Subject, pictures: Pictures, kept: Path) -> Logits:
    """The float network's logits on the held-out pictures."""
    if not kept.is_file():
        graph = capture(subject.model, subject.preprocess.size, subject.preprocess)
        np.save(kept, run(graph, pictures.held_out).numpy())
    return np.asarray(np.load(kept))


def headline(name: str, rows: dict[str, Any]) -> None:
    """The subject's figures for figures.json."""
    peers = [tool for tool in rows if tool not in NO_PEERS]
    best = min(peers, key=lambda tool: rows[tool]["kl_nats"]["value"]) if peers else None
    for title, tool in (
        ("plain", "edgecnn_plain"),
        ("default", "edgecnn"),
        ("qat", "edgecnn_qat"),
        ("best_peer", best),
    ):
        if tool in rows:
            record(f"drop_{name}_{title}", Interval(**rows[tool]["drop_points"]), "points")
            record(f"kl_{name}_{title}", Interval(**rows[tool]["kl_nats"]), "nats")


def one(name: str, tools: list[str], places: Places, work: Path, output: Path | None, rescore: bool) -> None:
    """Run tools on one subject in this process, and bring its file and its figures up to date."""
    folder = work / name
    subject = SUBJECTS[name](places)
    pictures = load_pictures(subject, places, folder / "pictures.npz")
    reference = float_logits(subject, pictures, folder / "float.npy")
    file = output or RESULTS / f"int8_{name}.json"
    rows: dict[str, Any] = json.loads(file.read_text())["result"]["tools"] if file.is_file() else {}
    for tool in tools:
        costs = rows.get(tool, {}) if rescore else measure(tool, subject, pictures, folder)
        rows[tool] = costs | scores(reference, np.load(folder / f"{tool}.npy"), pictures.labels)
        print(f"{name} {tool}: {json.dumps(rows[tool])}", flush=True)
    result = {
        "subject": name,
        "pictures": subject.pictures,
        "calibration_images": CALIBRATION,
        "held_out_images": len(pictures.labels),
        "float_top1": asdict(accuracy(reference, pictures.labels).top1),
        "tools": {tool: rows[tool] for tool in TOOLS if tool in rows},
    }
    save_result(file.stem, result, file.parent)
    if output is None:
        headline(name, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", nargs="+", choices=SUBJECTS, required=True)
    parser.add_argument("--tool", nargs="+", choices=[*TOOLS, "all"], default=["all"])
    parser.add_argument("--work", type=Path, required=True, help="folder for logits, files and decoded pictures")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--imagenet", type=Path, default=Path("imagenet"))
    parser.add_argument("--cifar", type=Path, default=Path("cifar10"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("-o", "--output", type=Path, help="another file for the rows; no figures are recorded then")
    parser.add_argument("--rescore", action="store_true", help="from the logits in --work, without running a tool")
    args = parser.parse_args()
    places = Places(args.weights, args.imagenet, args.cifar, args.runs)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    failed: list[str] = []
    for name in args.subject:
        every = [tool for tool in TOOLS if tool != "edgecnn_qat" or name in OWN]
        tools = every if "all" in args.tool else args.tool
        if args.rescore:
            tools_kept = [tool for tool in tools if (args.work / name / f"{tool}.npy").is_file()]
            one(name, tools_kept, places, args.work, args.output, rescore=True)
        elif len(args.subject) == len(tools) == 1:
            one(name, tools, places, args.work, args.output, rescore=False)
        else:
            failed += separately(name, tools, sys.argv[1:])
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def separately(name: str, tools: list[str], arguments: list[str]) -> list[str]:
    """Each tool in a process of its own: a peak of memory is a process's, and one tool's failure is not another's.

    Returns those that failed.
    """
    own = {tool: [*arguments, "--subject", name, "--tool", tool] for tool in tools}
    return [f"{name} {tool}" for tool in tools if subprocess.run([sys.executable, __file__, *own[tool]]).returncode]


if __name__ == "__main__":
    main()
