"""The quantize step: a float bundle -> a bundle of fewer bits, by as many means as it takes.

The rungs, from cheap to dear: *plain* (ranges and nearest weights), *repaired* (equalized, rounded by second order),
*re-estimated* (batch normalization, where the best so far loses more than ``max_drop``), *timed* (where a
runtime is named: what it computes faster otherwise, :mod:`~edgecnn.pipeline.timed_choice`), *mixed* (where still more
is lost and that scheme was asked for: some layers stay float), *trained* (``qat``, where it was asked for). A scheme of
weights only needs no ranges, and float16 is plain. Each is judged on the same validation pictures against the float
network: by the mean divergence of their answers, which tells networks apart long before accuracy does, and by accuracy
against ``max_drop``. The least divergent is kept, so a repair that does not help is not used. The test pictures decide
nothing.
Where even the interval of the drop lies above ``max_drop`` the bundle is diagnosed on the spot.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn import bundle as bundles
from edgecnn.bundle import Bundle
from edgecnn.compress import equalize, ptq, reestimate
from edgecnn.compress.bits import INT8, whole
from edgecnn.data.items import ImageSet
from edgecnn.data.stream import readable
from edgecnn.data.tensors import choose_calibration, iter_batches, load_split
from edgecnn.graph import store
from edgecnn.graph.interpret import GraphModule
from edgecnn.graph.ir import Graph
from edgecnn.pipeline.compressing import Child, facts_of, note_drop, refuse_quantized, same_golden, tested
from edgecnn.pipeline.context import Context, data_of, is_streamed
from edgecnn.pipeline.explaining import tell_why
from edgecnn.pipeline.figuring import in_words
from edgecnn.pipeline.ladder import JUDGES, Judge, Rung
from edgecnn.pipeline.loading import batched, load_graph, preprocess_of
from edgecnn.pipeline.loosening import loosen, told
from edgecnn.pipeline.preparing import retraining
from edgecnn.pipeline.quantized_training import train_numbers
from edgecnn.pipeline.timed_choice import against_float, choose, refuse_missing
from edgecnn.pipeline.writing import copy_history, finished, work_folder, write_recipe
from edgecnn.schemes import SCHEMES
from edgecnn.spec import Scheme, Split
from edgecnn.steps import QuantizeStep
from edgecnn.train.config import TrainConfig

CALIBRATION_BATCH = 16


def quantize(context: Context, parent: Bundle, step: QuantizeStep) -> Bundle:
    """Decide the numbers once and write them as a bundle. Does nothing when the same bundle is already there.

    Raises ``UsageError`` for a parent that is quantized already.
    """
    refuse_quantized(parent, "quantized")
    refuse_missing(step.runtime)
    data = data_of(parent, context.data)
    made = Child(parent, context.run / str(step.output), "quantize", step, facts_of(parent, data, context.data))
    if (done := finished(context, made.target, made.fingerprint)) is not None:
        return done

    p, stage = preprocess_of(parent), str(step.output)
    settings = None if step.qat is None else retraining(step, step.qat, parent.task, p)
    items = choose_calibration(data, step.calibration_images, step.seed)
    items = readable(data, items) if is_streamed(parent) else items
    graph, work = load_graph(parent), work_folder(made.target, made.fingerprint)
    judge = Judge(graph, load_split(data, Split.VAL, p, limit=JUDGES), parent.task)

    def pictures() -> Any:
        return (batch.images for batch in iter_batches(data, items, p, CALIBRATION_BATCH))

    rungs, figures = _without_training(context, stage, step, graph, pictures, judge)
    if settings is not None:
        trained, learned = _trained(context, parent, stage, settings, _nearest(rungs), data, work, judge, step)
        rungs, figures = rungs + ([trained] if learned["qat_kept"] else []), {**figures, **learned}
    best = _kept(context, stage, rungs, step)
    if step.runtime is not None:
        figures["timed"] |= against_float(context, graph, best.graph, pictures, step)
    model = GraphModule(best.graph).eval()

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return batched(model, images)

    inherited = {key: parent.manifest.figures[key] for key in ("params", "macs")}
    figures = {"calibration_images": len(items), **inherited, **figures, "rung": best.name}
    figures["ladder"] = [rung.figures() for rung in rungs]
    figures.update(tested("", parent.task, predict, load_split(data, Split.TEST, p)))
    note_drop(figures, parent)
    with bundles.create(made.target, **made.manifest(figures, step.scheme.value)) as draft:
        store.save(best.graph, draft)
        equalize.save(best.changes, draft)
        (draft / "calibration.txt").write_text("".join(f"{item.id}\n" for item in items))
        copy_history(work, draft)
        write_recipe(draft, made.target.name, made.data, step)
        same_golden(draft, parent, predict)
    shutil.rmtree(work)
    context.tell(f"{made.target}: test {in_words(parent.task, figures)}, drop {figures['drop']:.2f} points")
    bundle = bundles.open_bundle(made.target)
    if step.scheme is Scheme.INT8 and 100 * best.drop.low > step.max_drop:
        tell_why(context, bundle, context.run / f"{stage}-diagnosis.html")
    return bundle


def _without_training(
    context: Context, stage: str, step: QuantizeStep, graph: Graph, pictures: ptq.Pictures, judge: Judge
) -> tuple[list[Rung], dict[str, Any]]:
    """The rungs that need calibration pictures only, and what calibration says of itself."""
    ways = _ways(graph, pictures, step)
    rungs = []
    for name, made in zip(("plain", "repaired"), ways, strict=False):
        rungs.append(judge.rung(name, (made.graph, made.changes), sum(made.seconds.values())))
        context.tell(f"{stage}: {rungs[-1]}")
    int8 = step.scheme in (Scheme.INT8, Scheme.MIXED)
    if step.repair and int8 and _nearest(rungs).misses(step.max_drop):
        rungs.append(_reestimated(graph, _nearest(rungs), pictures, judge, step))
        context.tell(f"{stage}: {rungs[-1]}")
    calibration = ways[-1].calibration
    if calibration is None:
        return rungs, {}
    if calibration.enough is None:
        context.tell(f"{stage}: ranges still move with {calibration.pictures} pictures: more would tell more")
    figures: dict[str, Any] = {"calibration_enough": calibration.enough}
    if step.scheme is Scheme.MIXED:
        rungs, kept = _loosened(context, stage, graph, rungs, pictures, judge, step)
        figures |= kept
    return rungs, figures


def _loosened(
    context: Context,
    stage: str,
    graph: Graph,
    rungs: list[Rung],
    pictures: ptq.Pictures,
    judge: Judge,
    step: QuantizeStep,
) -> tuple[list[Rung], dict[str, Any]]:
    """The rungs with the one that is made for a runtime, if one is named, and with that of mixed precision, where the
    gate is missed without and it is nearer; and their figures.
    """
    start = _nearest(rungs)
    before, plan = start, INT8
    figures: dict[str, Any] = {}
    if step.runtime is not None:
        before, plan, figures = choose(context, graph, start, pictures, judge, step)
        rungs = [*rungs, before]
        context.tell(f"{stage}: {before}")
    if not before.misses(step.max_drop):
        context.tell(f"{stage}: int8 loses no more than {step.max_drop} points: nothing is kept in more bits for that")
        return rungs, figures
    rung, kept = loosen(context, graph, start, pictures, judge, step, plan)
    if rung is None:
        context.tell(f"{stage}: no layer regains anything within the budget (max_growth, max_float)")
        return rungs, figures
    context.tell(f"{stage}: {rung}")
    context.tell(f"{stage}: {told(kept)}")
    return ([*rungs, rung], figures | kept) if rung.kl < before.kl else (rungs, figures)


def _ways(graph: Graph, pictures: ptq.Pictures, step: QuantizeStep) -> tuple[ptq.Quantized, ...]:
    """Plain, and repaired where that is asked for and is something else."""
    if not SCHEMES[step.scheme].calibrated:
        return ptq.weights_only(graph, pictures, step.scheme, step.weight_group, repair=step.repair)
    method, more = step.calibration_method, {}
    if step.scheme is Scheme.INT16X8:
        method, more = "minmax" if method == "auto" else method, {"bits": whole(graph, 16)}  # no level is scarce
    if step.repair:
        return ptq.plain_and_repaired(graph, pictures, method, step.hard_swish, **more)
    return (ptq.plain(graph, pictures, method, step.hard_swish, **more),)


def _reestimated(graph: Graph, start: Rung, pictures: ptq.Pictures, judge: Judge, step: QuantizeStep) -> Rung:
    """The rung that estimating batch normalization again makes of another."""
    began = time.perf_counter()
    some = ptq.first(pictures, reestimate.PICTURES)
    numbers = reestimate.reestimated(start.floating(graph, step.hard_swish), start.graph, some)
    return judge.rung("re-estimated", (numbers, start.changes), time.perf_counter() - began)


def _trained(
    context: Context,
    parent: Bundle,
    stage: str,
    settings: TrainConfig,
    start: Rung,
    data: ImageSet,
    work: Path,
    judge: Judge,
    step: QuantizeStep,
) -> tuple[Rung, dict[str, Any]]:
    """The rung that training makes of another (or that rung again, where it is more accurate), and its figures."""
    floating = start.floating(load_graph(parent), step.hard_swish)
    began = time.perf_counter()
    graph, figures = train_numbers(context, parent, stage, settings, (floating, start.graph), data, work)
    rung = judge.rung("trained", (graph, start.changes), time.perf_counter() - began)
    context.tell(f"{stage}: {rung}")
    return rung, figures


def _kept(context: Context, stage: str, rungs: list[Rung], step: QuantizeStep) -> Rung:
    """The rung to keep: the trained one, which was kept for its accuracy, the last one that was made for a runtime, or
    the least divergent.
    """
    best = rungs[-1] if rungs[-1].name == "trained" or step.runtime is not None else _nearest(rungs)
    if best.misses(step.max_drop):
        sure = "" if 100 * best.drop.low > step.max_drop else " (within what so few pictures can tell)"
        trainable = step.scheme is Scheme.INT8 and not step.qat
        way = "train the numbers too (--qat) or keep some layers in float (--scheme mixed)"
        way = way if trainable else "these are the best numbers found"
        context.tell(f"{stage}: the drop is above {step.max_drop} points{sure}; {way}")
    return best


def _nearest(rungs: list[Rung]) -> Rung:
    return min(rungs, key=lambda rung: rung.kl)
