"""The quantize step: a float bundle -> a bundle of fewer bits, by as many means as it takes.

A ladder (:mod:`~edgecnn.pipeline.climbing`, whose rungs :mod:`~edgecnn.pipeline.ladder` judges): *plain*, *repaired*,
and, only while the gate ``max_drop`` is missed, *re-estimated*, *reconstructed*, *mixed*. The last rung, *trained*,
takes labels and time, so it is climbed where it was asked for (``qat``), from the best rung of integers throughout.
Each is judged on the same validation pictures against the float network: by the mean divergence of their answers, which
tells networks apart long before accuracy does, and by accuracy. The least divergent is kept, or the trained one where
it is more accurate than what it started from; a mixed one where that of integers misses the gate. So none is worse than
plain. The test pictures decide nothing.

Where a ``runtime`` is named the rung that is kept is made for it by measured time: *timed*,
:mod:`~edgecnn.pipeline.timed_choice`. What is kept decides the bundle's precision: int8 that ended as mixed is mixed
from then on, for every file and engine. Where integers throughout surely miss the gate all the same, the bundle is
diagnosed on the spot.
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
from edgecnn.compress import equalize
from edgecnn.data.items import ImageSet
from edgecnn.data.stream import readable
from edgecnn.data.tensors import choose_calibration, iter_batches, load_split
from edgecnn.graph import store
from edgecnn.graph.interpret import GraphModule
from edgecnn.pipeline.climbing import MIXED, Ladder
from edgecnn.pipeline.compressing import Child, facts_of, note_drop, refuse_quantized, same_golden, tested
from edgecnn.pipeline.context import Context, data_of, is_streamed
from edgecnn.pipeline.explaining import tell_why
from edgecnn.pipeline.figuring import in_words
from edgecnn.pipeline.ladder import Judge, Rung
from edgecnn.pipeline.loading import batched, load_graph, preprocess_of
from edgecnn.pipeline.preparing import retraining
from edgecnn.pipeline.quantized_training import train_numbers
from edgecnn.pipeline.timed_choice import TIMED, choose, refuse_missing
from edgecnn.pipeline.writing import copy_history, finished, work_folder, write_recipe
from edgecnn.spec import Precision, Scheme, Split
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

    def pictures() -> Any:
        return (batch.images for batch in iter_batches(data, items, p, CALIBRATION_BATCH))

    def judge_of(count: int) -> Judge:
        return Judge(graph, load_split(data, Split.VAL, p, limit=count), parent.task)

    best, climbed = _climbed(Ladder(context, step, graph, pictures, judge_of), parent, settings, data, work)
    model = GraphModule(best.graph).eval()

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return batched(model, images)

    inherited = {key: parent.manifest.figures[key] for key in ("params", "macs")}
    figures = {"calibration_images": len(items), **inherited, **climbed}
    figures.update(tested("", parent.task, predict, load_split(data, Split.TEST, p)))
    note_drop(figures, parent)
    with bundles.create(made.target, **made.manifest(figures, _scheme(step, best).value)) as draft:
        store.save(best.graph, draft)
        equalize.save(best.changes, draft)
        (draft / "calibration.txt").write_text("".join(f"{item.id}\n" for item in items))
        copy_history(work, draft)
        write_recipe(draft, made.target.name, made.data, step)
        same_golden(draft, parent, predict)
    shutil.rmtree(work)
    context.tell(f"{made.target}: test {in_words(parent.task, figures)}, drop {figures['drop']:.2f} points")
    bundle = bundles.open_bundle(made.target)
    if bundle.manifest.precision == Precision.INT8 and best.surely_misses(step.max_drop):
        tell_why(context, bundle, context.run / f"{stage}-diagnosis.html")
    return bundle


def _climbed(
    ladder: Ladder, parent: Bundle, settings: TrainConfig | None, data: ImageSet, work: Path
) -> tuple[Rung, dict[str, Any]]:
    """The rung that is kept when the ladder was climbed as far as the step wants, and the figures of the climb."""
    ladder.climb()
    trained, learned = (None, {}) if settings is None else _trained(ladder, parent, settings, data, work)
    kept = _kept(ladder, trained)
    best, suited = (kept, {}) if ladder.step.runtime is None else choose(ladder, kept)
    figures = {**ladder.figures, **learned, **suited, "rung": best.name}
    figures |= ladder.loosened if kept.name == MIXED else {}
    return best, figures | {"ladder": [rung.figures() for rung in ladder.rungs]}


def _trained(
    ladder: Ladder, parent: Bundle, settings: TrainConfig, data: ImageSet, work: Path
) -> tuple[Rung | None, dict[str, Any]]:
    """The rung that training makes of the best of integers, if it is more accurate, and its figures."""
    start, stage = ladder.integers, str(ladder.step.output)
    floating = start.floating(ladder.graph, ladder.step.hard_swish)
    began = time.perf_counter()
    graph, figures = train_numbers(ladder.context, parent, stage, settings, (floating, start.graph), data, work)
    rung = ladder.judge.rung("trained", (graph, start.changes), time.perf_counter() - began).compared(start)
    ladder.tell(str(rung))
    if not figures["qat_kept"]:
        return None, figures
    ladder.rungs.append(rung)
    return rung, figures


def _kept(ladder: Ladder, trained: Rung | None) -> Rung:
    """The rung to keep: of integers throughout, or the mixed one where that misses the gate by more; and it is said."""
    step, mixed = ladder.step, ladder.best if ladder.best.name == MIXED else None
    best = trained or ladder.integers
    if mixed and best.misses(step.max_drop) and (trained is None or mixed.drop.value < trained.drop.value):
        best = mixed
    if best is mixed and step.scheme is Scheme.INT8:
        count = len(ladder.loosened["kept"])
        ladder.tell(
            f"{count} layer{'s' * (count > 1)} left int8: the scheme is mixed now (--integer-only forbids that)"
        )
    if best.misses(step.max_drop):
        sure = "" if best.surely_misses(step.max_drop) else " (within what so few pictures can tell)"
        ladder.tell(f"the drop is above {step.max_drop} points{sure}; {_next(ladder)}")
    return best


def _next(ladder: Ladder) -> str:
    """What is left to do where the gate is missed still."""
    step = ladder.step
    if step.scheme not in (Scheme.INT8, Scheme.MIXED):
        return "these are the best numbers found"
    ways = []
    if not step.repair:
        ways.append("repair the numbers (without --no-repair)")
    if step.scheme is Scheme.INT8 and step.qat is None:
        ways.append("train the numbers too (--qat)")
    if ladder.loosened:
        ways.append("keep more layers in float (max_growth, max_float)")
    elif step.scheme is Scheme.INT8:
        ways.append(
            f"keep some layers in float ({'without --integer-only' if step.integer_only else '--scheme mixed'})"
        )
    return f"next: {' or '.join(ways)}" if ways else "these are the best numbers found"


def _scheme(step: QuantizeStep, kept: Rung) -> Scheme:
    """The scheme of the numbers that are kept."""
    if step.scheme in (Scheme.INT8, Scheme.MIXED):
        return Scheme.MIXED if kept.name in (MIXED, TIMED) else Scheme.INT8
    return step.scheme
