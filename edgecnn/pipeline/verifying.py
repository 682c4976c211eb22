"""Parity of every stage against its parent, on the same real images: who computes something else, and since which
layer.

    float bundle     torch module     -> captured graph            same arithmetic
    pruned bundle    parent's module  -> pruned module             another network: told, holds no file back
    int8 bundle      parent's graph   -> integer simulation        quantizing; or, where it was trained (QAT), as pruned
    each export      graph            -> file in every runtime     rendering: nothing may change but rounding
    golden.npz       logits written   -> logits now                nothing may change

The first runtime of a format is the one that a file must agree with to be kept. Others that read it are rows too, by
the same thresholds: one that misses them fails a verification, since the file does not give the same numbers there, but
holds no file back. One that is not installed is a row that says so.

Validation pictures are used: a gate that decides must not look at the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn import catalog
from edgecnn.bundle import Bundle
from edgecnn.data.tensors import load_split
from edgecnn.errors import BundleError, EdgecnnError, GateError
from edgecnn.graph import interpret
from edgecnn.graph.ir import Graph
from edgecnn.measure import parity
from edgecnn.measure.parity import Divergence, Parity, StageKind
from edgecnn.pipeline.context import Context, data_of
from edgecnn.pipeline.loading import golden, is_quantized, load_graph, predictor, preprocess_of, refused
from edgecnn.pipeline.parity_log import record
from edgecnn.report.rows import ParityRow
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Format, Precision, Runtime, Scheme, Split, Status

IMAGES = 256
SLOW_SECONDS, FEWEST = 40.0, 8
"""A slow runtime is given so many pictures as it takes this long for, but at least so many."""
TRACED = 8
"""So many images are followed layer by layer when a stage fails."""

GOLDEN, GRAPH = "logits now", "graph"
SIMULATED = {scheme.value: f"{scheme} simulation" for scheme in Scheme}
PRUNED, LEARNED = "after pruning", "after int8 training"
TOLD = (PRUNED, LEARNED)
"""Stages that trained another network: no file is wrong because its answers differ."""
ADVICE = {
    GOLDEN: "the bundle no longer computes what it did: compare the versions in its manifest with edgecnn doctor",
    GRAPH: "capturing changed the network: please report the model",
    **{stage: f"{scheme} loses too much: take a scheme of more bits" for scheme, stage in SIMULATED.items()},
    SIMULATED["int8"]: "int8 loses too much: calibrate with more images or another method, or train longer first",
    PRUNED: "the pruned network answers otherwise than its parent: prune less or recover longer (its accuracy decides)",
    LEARNED: "the int8 network has learned other answers than its parent's (its accuracy decides): train it at a lower "
    "rate, or with a higher distill_weight",
}
ELSEWHERE = (
    "this runtime computes the file otherwise than the one it was kept for: "
    "`edgecnn evaluate FILE --runtime NAME` says what that costs"
)
RENDERED = "what the file computes is not what was decided: export it again with --force"

Logits = NDArray[np.float32]
Trace = Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: its name, its logits, and how to follow it layer by layer, if one can."""

    name: str
    logits: Logits
    trace: Trace | None = None


@dataclass(frozen=True)
class Subject:
    """A bundle and where the images come from that it is verified on; what is computed from it is computed once."""

    bundle: Bundle
    find_images: Callable[[], NDArray[np.uint8]]

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """The images, looked for when they are wanted."""
        return self.find_images()

    @cached_property
    def graph(self) -> Graph:
        """The bundle's graph."""
        return load_graph(self.bundle)

    @cached_property
    def graph_logits(self) -> Logits:
        """What the graph computes, in torch."""
        return logits_of(self.graph, self.images)

    @cached_property
    def module_logits(self) -> Logits:
        """What the bundle's torch model computes."""
        return predictor(self.bundle)(self.images)


def logits_of(graph: Graph, images: NDArray[np.uint8], batch: int = 64) -> Logits:
    """Logits of a graph by the torch interpreter, batch by batch."""
    parts = [interpret.run(graph, images[at : at + batch]).numpy() for at in range(0, len(images), batch)]
    return np.concatenate(parts)


def trace_graph(graph: Graph) -> Trace:
    """A function that gives every tensor of the graph for some images."""
    return lambda images: {name: value.numpy() for name, value in interpret.run(graph, images, keep=True).items()}


def verification_images(bundle: Bundle, data: str | None, count: int = IMAGES) -> NDArray[np.uint8]:
    """Real pictures of the validation split, stratified and seeded."""
    return load_split(data_of(bundle, data), Split.VAL, preprocess_of(bundle), limit=count, seed=1).images


def subject_of(context: Context, bundle: Bundle) -> Subject:
    """A bundle and the pictures to verify it on."""
    return Subject(bundle, lambda: verification_images(bundle, context.data))


def verify(context: Context, bundle: Bundle, runtimes: Collection[Runtime] = ()) -> list[ParityRow]:
    """Check every stage of a bundle and write the result under ``measurements/``; a miss is a row.

    Files are run in all runtimes that read them, or in these ``runtimes`` only.
    """
    bundle.check_hashes()
    subject = subject_of(context, bundle)
    rows = [_golden_row(bundle), *_origin_rows(context, subject)]
    for format, row in catalog.FORMATS.items():
        file = bundle.exports / f"model{row.extension}"
        chosen = [name for name in catalog.readers(format) if not runtimes or name in runtimes]
        rows += [export_row(subject, format, file, name) for name in chosen if file.is_file()]
    record(bundle, rows)
    return rows


def gate(rows: list[ParityRow]) -> None:
    """Raise ``GateError`` naming every failed stage and the first layer that diverges, with advice that fits."""
    failed = [row for row in rows if row.status is Status.FAILED]
    if failed:
        lines = [f"{row.bundle}: {row.parent} -> {row.stage}: {row.note}" for row in failed]
        advice = dict.fromkeys(ADVICE.get(row.stage, RENDERED if _holds_back(row) else ELSEWHERE) for row in failed)
        raise GateError("parity failed:\n    " + "\n    ".join(lines), hint="\n  ".join(advice))


def gate_files(context: Context, rows: list[ParityRow]) -> None:
    """The gate of a run: told only is that a network trained again answers otherwise, since files made from it are
    right, and what a runtime does that a file was not kept for.

    Raises ``GateError`` for all else that failed.
    """
    for row in rows:
        if row.status is Status.FAILED and not _holds_back(row):
            where = "" if row.stage in TOLD else f", {row.stage},"
            context.tell(f"warning: {row.bundle}{where} compared with {row.parent}: {row.note}")
    gate([row for row in rows if _holds_back(row)])


def _holds_back(row: ParityRow) -> bool:
    """Whether a file is not kept, and a run ends, when this stage fails."""
    others = (_stage(format, name) for format in catalog.FORMATS for name in catalog.readers(format)[1:])
    return row.stage not in (*TOLD, *others)


def _origin_rows(context: Context, subject: Subject) -> list[ParityRow]:
    """The bundle against what it was made from."""
    bundle, parent = subject.bundle, subject.bundle.parent()
    if is_quantized(bundle):
        if parent is None:
            raise BundleError(
                f"the float parent of {bundle.path} is gone", hint="verify needs it: keep the run together"
            )
        before = Subject(parent, lambda: subject.images)
        if bundle.manifest.figures.get("qat_kept"):
            learned = Side(LEARNED, subject.graph_logits)
            return [_compare(subject, Side("float graph", before.graph_logits), learned, StageKind.TRAINED_AGAIN)]
        theirs = Side("float graph", before.graph_logits, trace_graph(before.graph))
        ours = Side(SIMULATED[bundle.manifest.precision], subject.graph_logits, trace_graph(subject.graph))
        return [_compare(subject, theirs, ours, StageKind.QUANTIZING)]
    module = Side("torch module", subject.module_logits)
    rows = [_compare(subject, module, Side(GRAPH, subject.graph_logits), StageKind.SAME_ARITHMETIC)]
    if parent is not None:
        theirs = Side(parent.name, predictor(parent)(subject.images))
        rows.append(_compare(subject, theirs, Side(PRUNED, subject.module_logits), StageKind.TRAINED_AGAIN))
    return rows


def export_row(subject: Subject, format: Format, file: Path, runtime: Runtime | None = None) -> ParityRow:
    """A rendered file in a runtime (default: the first that reads it) against its graph; an engine that breaks is a
    failed row, one that is not installed an unavailable one.
    """
    bundle = subject.bundle
    runtime = runtime or catalog.readers(format)[0]
    stage = _stage(format, runtime)
    if (state := catalog.engines()[runtime]) != "ready":
        return ParityRow(stage, "graph", bundle.title, status=Status.UNAVAILABLE, note=f"skipped: {state}")
    if reason := refused(bundle, runtime):
        return ParityRow(stage, "graph", bundle.title, status=Status.UNAVAILABLE, note=f"not possible: {reason}")
    images = subject.images  # outside the try: pictures that are gone are no fault of the engine
    images = images[: _few(runtime, bundle)]
    try:
        with open_session(runtime, file, threads=1) as session:
            theirs = session.infer(images)
    except EdgecnnError as error:
        return ParityRow(stage, "graph", bundle.title, status=Status.FAILED, note=error.message)
    graph = Side("graph", subject.graph_logits[: len(images)], trace_graph(subject.graph))
    return _compare(subject, graph, Side(stage, theirs, _trace_file(format, file)), _rendering(subject))


def _trace_file(format: Format, file: Path) -> Trace | None:
    """A function that gives every tensor of the file for some images, if any can."""
    target = catalog.FORMATS[format].trace
    return (lambda images: catalog.load(target)(file, images)) if target else None


def _stage(format: Format, runtime: Runtime) -> str:
    return f"{format} in {runtime}"


def _few(runtime: Runtime, bundle: Bundle) -> int | None:
    """On how many pictures a file is verified in a slow runtime; ``None``: on all of them."""
    speed = catalog.RUNTIMES[runtime].macs_per_s
    return None if speed is None else max(FEWEST, int(SLOW_SECONDS * speed / bundle.manifest.figures["macs"]))


def _rendering(subject: Subject) -> StageKind:
    """What writing a bundle into a file may do to its numbers.

    A last bit may become a step where activations are integers, or become integers while the network runs.
    """
    dynamic = any(node.attrs.get("dynamic") for node in subject.graph.nodes)
    return StageKind.RENDERING_INT8 if subject.graph.quantized or dynamic else StageKind.SAME_ARITHMETIC


def _compare(subject: Subject, parent: Side, child: Side, kind: StageKind) -> ParityRow:
    """One stage: child against parent; when it fails, the first layer that diverges, if both can be followed."""
    numbers = subject.graph.qparams.get(subject.graph.output)
    step = numbers.scale if numbers is not None and kind is StageKind.RENDERING_INT8 else None
    found = parity.compare_logits(parent.logits, child.logits, subject.bundle.task, step)
    misses = parity.check(found, parity.THRESHOLDS[kind])
    layer: Divergence | None = None
    if misses and parent.trace and child.trace:
        images = subject.images[:TRACED]
        layer = parity.first_divergence(parent.trace(images), child.trace(images))
        misses.append(
            f"first layer that diverges: {layer.name} ({layer.fault})" if layer else "no single layer diverges"
        )
    return _row(subject.bundle, parent.name, child.name, found, misses, layer)


def _row(
    bundle: Bundle, parent: str, stage: str, found: Parity, misses: list[str], layer: Divergence | None = None
) -> ParityRow:
    return ParityRow(
        stage=stage,
        parent=parent,
        bundle=bundle.title,
        images=found.n,
        agreement=found.agreement,
        cosine=found.cosine,
        sqnr_db=found.sqnr_db,
        max_error=found.max_error,
        status=Status.FAILED if misses else Status.OK,
        first_divergence=layer.name if layer else None,
        note="; ".join(misses),
        equal_sets=found.equal_sets,
        max_steps=found.max_steps,
        near_ties=found.near_ties,
    )


def _golden_row(bundle: Bundle) -> ParityRow:
    kept = golden(bundle)
    found = parity.compare_logits(kept["logits"], predictor(bundle)(kept["images"]), bundle.task)
    dynamic = bundle.manifest.precision == Precision.INT8_DYNAMIC  # a last bit of another CPU may become a step
    kind = StageKind.RENDERING_INT8 if dynamic else StageKind.SAME_ARITHMETIC
    misses = parity.check(found, parity.THRESHOLDS[kind])
    return _row(bundle, "golden.npz", GOLDEN, found, misses)
