"""Whether one set of int8 numbers gives the same answers in every runtime, on trained networks and real pictures.

    python benchmarks/int8_runtimes.py --subject mcunet resnet20 lite0 --work runs/int8 \
        --weights WEIGHTS --imagenet PHOTOS --cifar CIFAR10      # the networks of int8_subjects.py, quantized anew
    python benchmarks/int8_runtimes.py --bundle runs/cifar10-v2/int8 --name cifar10_v2 --work runs/int8
    python benchmarks/int8_runtimes.py ... --runtime tflm --images 32    # a slow one on fewer pictures, all else stays

The graph's integers in torch are what every file must give. Figures, each on the held-out pictures (of a bundle: its
test pictures): the share of equal answers with its Wilson interval, near ties among those that differ, the largest
difference of the logits in steps of the output, and KL(float || that file in that runtime) in nats with a bootstrap
interval over pictures: a runtime that rounds otherwise than the specification may be as near to float as it is.
Rows are kept in ``results/int8_runtimes_NAME.json``, those of runtimes that are not run now, or are not installed, as
they were. ``--work`` keeps graphs, files, decoded pictures and logits.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import RESULTS, commit, record, save_result
from int8_accuracy import float_logits
from int8_subjects import SUBJECTS, Places, load_pictures
from int8_tools import Logits, default
from numpy.typing import NDArray

from edgecnn import catalog
from edgecnn.bundle import open_bundle
from edgecnn.data.tensors import load_split
from edgecnn.graph import store
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.measure.parity import compare_logits, divergence
from edgecnn.measure.resampling import draw_weights, interval, weighted_means
from edgecnn.measure.stats import RESAMPLES, wilson
from edgecnn.pipeline.context import data_of
from edgecnn.pipeline.loading import load_graph, predictor, preprocess_of
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Format, Interval, Runtime, Split

RUNTIMES = [name for format in catalog.FORMATS for name in catalog.readers(format)]
SPECIFICATION = "torch"


@dataclass(frozen=True)
class Case:
    """An int8 graph, pictures (N, H, W, C) uint8, and what the float network answers to them (N, K)."""

    name: str
    graph: Graph
    images: NDArray[np.uint8]
    reference: Logits


def of_subject(name: str, places: Places, folder: Path) -> Case:
    """A network of others, quantized as edgecnn does where nothing is said."""
    subject = SUBJECTS[name](places)
    pictures = load_pictures(subject, places, folder / "pictures.npz")
    kept = folder / "graph"
    if not (kept / store.JSON_NAME).is_file():
        floating = capture(subject.model, subject.preprocess.size, subject.preprocess)
        store.save(default(floating, pictures.calibration), kept)
    reference = float_logits(subject, pictures, folder / "float.npy")
    return Case(name, store.load(kept), pictures.held_out, reference)


def of_bundle(path: Path, name: str, data: str | None) -> Case:
    """An int8 bundle and its test pictures."""
    bundle = open_bundle(path)
    parent = bundle.parent()
    if parent is None:
        raise SystemExit(f"the float parent of {path} is gone")
    images = load_split(data_of(bundle, data), Split.TEST, preprocess_of(bundle)).images
    return Case(name, load_graph(bundle), images, predictor(parent)(images))


def specified(case: Case, kept: Path) -> Logits:
    """The graph's logits on all pictures."""
    if not kept.is_file():
        np.save(kept, run(case.graph, case.images).numpy())
    return np.asarray(np.load(kept))


def scores(case: Case, wanted: Logits, found: Logits) -> dict[str, Any]:
    """The figures of one runtime, on the pictures that it was given."""
    n, step = len(found), case.graph.qparams[case.graph.output].scale
    parity, kl = compare_logits(wanted[:n], found, step=step), divergence(case.reference[:n], found)
    resampled = weighted_means(kl, draw_weights(n, RESAMPLES, seed=0))
    return {
        "agreement": asdict(wilson(round(parity.agreement * n), n)),
        "near_ties": parity.near_ties,
        "settled": parity.settled,
        "max_steps": None if parity.max_steps is None else round(parity.max_steps, 2),
        "kl_nats": asdict(interval(float(kl.mean()), resampled, n, ceiling=math.inf)),
    }


def measure(case: Case, runtime: Runtime, wanted: Logits, images: int | None, folder: Path) -> dict[str, Any]:
    """Render the file that this runtime reads, run it, and compare."""
    format: Format = catalog.RUNTIMES[runtime].formats[0]
    row = catalog.FORMATS[format]
    file = folder / f"model{row.extension}"
    catalog.load(row.target)(case.graph, file, meta={})
    with open_session(runtime, file, timeout_s=3600) as session:
        found, versions = session.infer(case.images[:images]), session.describe()["versions"]
    np.save(folder / f"logits_{runtime}.npy", found)
    about = {"date": datetime.now(UTC).isoformat(), "commit": commit(), "versions": versions}
    return scores(case, wanted, found) | about


def one(case: Case, runtimes: list[Runtime], images: int | None, folder: Path) -> None:
    """Run a network's files and bring its rows and its figures up to date."""
    folder.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"int8_runtimes_{case.name}.json"
    rows: dict[str, Any] = json.loads(file.read_text())["result"]["runtimes"] if file.is_file() else {}
    wanted = specified(case, folder / "logits_torch.npy")
    rows[SPECIFICATION] = scores(case, wanted, wanted)
    here = catalog.engines()
    for runtime in runtimes:
        if here[runtime] != "ready":
            print(f"{case.name} {runtime}: skipped: {here[runtime]}", flush=True)
            continue
        row = rows[runtime] = measure(case, runtime, wanted, images, folder)
        print(f"{case.name} {runtime}: {json.dumps(row)}", flush=True)
        record(f"agreement_{case.name}_{runtime}", Interval(**row["agreement"]), "percent")
        record(f"kl_{case.name}_{runtime}", Interval(**row["kl_nats"]), "nats")
    order = [SPECIFICATION, *RUNTIMES]
    result = {
        "name": case.name,
        "held_out_images": len(wanted),
        "step": case.graph.qparams[case.graph.output].scale,
        "runtimes": {name: rows[name] for name in order if name in rows},
    }
    save_result(file.stem, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", nargs="+", choices=SUBJECTS, default=[])
    parser.add_argument("--bundle", type=Path, help="an int8 bundle, instead of a subject")
    parser.add_argument("--name", help="what the bundle's figures are called")
    parser.add_argument("--data", help="where the bundle's pictures are now")
    parser.add_argument("--runtime", nargs="+", type=Runtime, choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--images", type=int, help="only the first so many pictures")
    parser.add_argument("--work", type=Path, required=True, help="folder for graphs, files, logits, decoded pictures")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--imagenet", type=Path, default=Path("imagenet"))
    parser.add_argument("--cifar", type=Path, default=Path("cifar10"))
    args = parser.parse_args()
    if (args.bundle is None) != (args.name is None) or bool(args.subject) == bool(args.bundle):
        parser.error("give --subject, or --bundle and --name")
    torch.set_num_threads(1)
    places = Places(args.weights, args.imagenet, args.cifar)
    makers: dict[str, Callable[[Path], Case]] = {
        name: (lambda folder, name=name: of_subject(name, places, folder)) for name in args.subject
    }
    if args.bundle is not None:
        makers[args.name] = lambda folder: of_bundle(args.bundle, args.name, args.data)
    for name, make in makers.items():
        folder = args.work / name
        one(make(folder), args.runtime, args.images, folder)


if __name__ == "__main__":
    main()
