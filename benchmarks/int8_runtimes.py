"""Whether one set of int8 numbers gives the same answers in every runtime, on trained networks and real pictures.

    python benchmarks/int8_runtimes.py --subject mcunet resnet20 lite0 --work runs/int8 \
        --weights WEIGHTS --imagenet PHOTOS --cifar CIFAR10      # the networks of int8_subjects.py, quantized anew
    python benchmarks/int8_runtimes.py --bundle runs/cifar10-v2/int8 --name cifar10_v2 --work runs/int8
    python benchmarks/int8_runtimes.py ... --runtime tflm --images 32    # a slow one on fewer pictures, all else stays

The graph's integers in torch are what every file must give. Figures, each on the held-out pictures (of a bundle: its
test pictures): the share of equal answers with its Wilson interval, near ties among those that differ, the largest
difference of the logits in steps of the output, and KL(float || that file in that runtime) in nats with a bootstrap
interval over pictures: a runtime that rounds otherwise than the specification may be as near to float as it is.
In OpenVINO the numbers are those that ``edgecnn compress --scheme mixed --runtime openvino`` chooses by time on this
machine, on calibration pictures (of a bundle: validation pictures); the row ``openvino_int8``, and figures of that
name, are the same int8 graph as everywhere else. Rows are kept in ``results/int8_runtimes_NAME.json``, those of
runtimes that are not run now, or are not installed, as they were. ``--work`` keeps graphs, files, decoded pictures and
logits.
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
from int8_tools import Logits, decided
from numpy.typing import NDArray

from edgecnn import catalog
from edgecnn.bundle import open_bundle
from edgecnn.compress import equalize
from edgecnn.compress.mixed import loosened
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
from edgecnn.pipeline.timed_choice import PICTURES, fitted
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Format, Interval, Runtime, Split

RUNTIMES = [name for format in catalog.FORMATS for name in catalog.readers(format)]
SPECIFICATION = "torch"
MADE_FOR = (Runtime.OPENVINO,)  # runtimes that get numbers of their own, beside those of all
THROUGHOUT = "_int8"  # after the name of such a runtime: with the numbers of all
JUDGES = 256  # pictures that choose them


@dataclass(frozen=True)
class Case:
    """An int8 graph and its float twin, pictures (N, H, W, C) uint8, what the float network answers to them (N, K),
    and others, to choose by.
    """

    name: str
    graph: Graph
    real: Graph
    images: NDArray[np.uint8]
    reference: Logits
    choosing: NDArray[np.uint8]


def of_subject(name: str, places: Places, folder: Path) -> Case:
    """A network of others, quantized as edgecnn does where nothing is said."""
    subject = SUBJECTS[name](places)
    pictures = load_pictures(subject, places, folder / "pictures.npz")
    kept = folder / "numbers"
    floating = capture(subject.model, subject.preprocess.size, subject.preprocess)
    if not (kept / store.JSON_NAME).is_file():
        made = decided(floating, pictures.calibration)
        store.save(made.graph, kept)
        equalize.save(made.changes, kept)
    reference = float_logits(subject, pictures, folder / "float.npy")
    real = equalize.rewrite(floating, equalize.load(kept))
    return Case(name, store.load(kept), real, pictures.held_out, reference, pictures.calibration[:JUDGES])


def of_bundle(path: Path, name: str, data: str | None) -> Case:
    """An int8 bundle and its test pictures."""
    bundle = open_bundle(path)
    parent = bundle.parent()
    if parent is None:
        raise SystemExit(f"the float parent of {path} is gone")
    p, pictures = preprocess_of(bundle), data_of(bundle, data)
    images = load_split(pictures, Split.TEST, p).images
    choosing = load_split(pictures, Split.VAL, p, limit=JUDGES).images
    real = equalize.rewrite(load_graph(parent), equalize.load(bundle.path))
    return Case(name, load_graph(bundle), real, images, predictor(parent)(images), choosing)


def apart(wanted: Logits, found: Logits) -> float:
    """Mean KL divergence of logits (N, K), in nats."""
    return float(divergence(wanted, found).mean())


def made_for(case: Case, runtime: Runtime) -> tuple[Graph, list[dict[str, Any]]]:
    """The numbers that are chosen for a runtime, and what was tried."""
    wanted = run(case.real, case.choosing).numpy()
    plan, tried = fitted(
        (case.real, case.graph),
        runtime,
        case.choosing[:PICTURES],
        apart,
        lambda numbers: apart(wanted, run(numbers, case.choosing).numpy()),
        tell=lambda line: print(f"{case.name} {line}", flush=True),
    )
    numbers = loosened(case.real, case.graph, plan.bits, unrounded=plan.unrounded)
    return numbers, [each.figures() for each in tried]


def specified(graph: Graph, images: NDArray[np.uint8], kept: Path) -> Logits:
    """The graph's logits on all pictures."""
    if not kept.is_file():
        np.save(kept, run(graph, images).numpy())
    return np.asarray(np.load(kept))


def scores(case: Case, graph: Graph, wanted: Logits, found: Logits) -> dict[str, Any]:
    """The figures of one runtime, on the pictures that it was given."""
    n, numbers = len(found), graph.qparams.get(graph.output)
    step = None if numbers is None else numbers.scale
    parity, kl = compare_logits(wanted[:n], found, step=step), divergence(case.reference[:n], found)
    resampled = weighted_means(kl, draw_weights(n, RESAMPLES, seed=0))
    return {
        "agreement": asdict(wilson(round(parity.agreement * n), n)),
        "near_ties": parity.near_ties,
        "settled": parity.settled,
        "max_steps": None if parity.max_steps is None else round(parity.max_steps, 2),
        "kl_nats": asdict(interval(float(kl.mean()), resampled, n, ceiling=math.inf)),
    }


def measure(
    case: Case, graph: Graph, runtime: Runtime, wanted: Logits, images: int | None, folder: Path
) -> dict[str, Any]:
    """Render the file that this runtime reads, run it, and compare."""
    format: Format = catalog.RUNTIMES[runtime].formats[0]
    row = catalog.FORMATS[format]
    file = folder / f"model{row.extension}"
    catalog.load(row.target)(graph, file, meta={})
    with open_session(runtime, file, timeout_s=3600) as session:
        found, versions = session.infer(case.images[:images]), session.describe()["versions"]
    np.save(folder / f"logits_{runtime}.npy", found)
    about = {"date": datetime.now(UTC).isoformat(), "commit": commit(), "versions": versions}
    return scores(case, graph, wanted, found) | about


def noted(case: Case, name: str, row: dict[str, Any]) -> None:
    """Print a row and record its figures."""
    print(f"{case.name} {name}: {json.dumps(row)}", flush=True)
    record(f"agreement_{case.name}_{name}", Interval(**row["agreement"]), "percent")
    record(f"kl_{case.name}_{name}", Interval(**row["kl_nats"]), "nats")


def one(case: Case, runtimes: list[Runtime], images: int | None, folder: Path) -> None:
    """Run a network's files and bring its rows and its figures up to date."""
    folder.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"int8_runtimes_{case.name}.json"
    rows: dict[str, Any] = json.loads(file.read_text())["result"]["runtimes"] if file.is_file() else {}
    wanted = specified(case.graph, case.images, folder / "logits_torch.npy")
    rows[SPECIFICATION] = scores(case, case.graph, wanted, wanted)
    here = catalog.engines()
    for runtime in runtimes:
        if here[runtime] != "ready":
            print(f"{case.name} {runtime}: skipped: {here[runtime]}", flush=True)
            continue
        name = f"{runtime}{THROUGHOUT}" if runtime in MADE_FOR else str(runtime)
        rows[name] = measure(case, case.graph, runtime, wanted, images, folder)
        noted(case, name, rows[name])
        if runtime in MADE_FOR:
            numbers, tried = made_for(case, runtime)
            theirs = run(numbers, case.images).numpy()
            rows[runtime] = measure(case, numbers, runtime, theirs, images, folder) | {"tried": tried}
            noted(case, runtime, rows[runtime])
    order = [SPECIFICATION, *(name for each in RUNTIMES for name in (each, f"{each}{THROUGHOUT}"))]
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
