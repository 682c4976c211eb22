"""The train step: pictures -> a float bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from edgecnn import bundle as bundles
from edgecnn.bundle import Bundle
from edgecnn.data import preprocess
from edgecnn.data.source import split_ids
from edgecnn.data.tensors import ImageTensors
from edgecnn.models import layers, zoo
from edgecnn.pipeline import diagnosing, teaching
from edgecnn.pipeline.context import SPLITS, Context, describe_data
from edgecnn.pipeline.figuring import in_words, split_figures
from edgecnn.pipeline.loading import save_golden
from edgecnn.pipeline.preparing import Ready, data_identity, identity, load_pictures, model_spec, ready, task_of
from edgecnn.pipeline.streaming import opened_for
from edgecnn.pipeline.tracking import Tracker, tracker
from edgecnn.pipeline.transferring import fit_classifier
from edgecnn.pipeline.writing import copy_history, finished, work_folder, write_recipe, write_weights
from edgecnn.spec import Precision, Preprocess, Split, Task
from edgecnn.steps import TrainStep
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.distributed import World
from edgecnn.train.evaluate import predict_logits
from edgecnn.train.feed import Pictures
from edgecnn.train.freezing import train_only_last
from edgecnn.train.loop import TrainResult, fit

GOLDEN_IMAGES = 8
ORIGIN = {"step": "train", "parent": None, "parent_path": None, "precision": Precision.FP32.value}


def train(context: Context, step: TrainStep) -> Bundle:
    """Train (or fine-tune) and write a float bundle. Does nothing when the same bundle is already there.

    Raises ``DataError``, ``ModelError``, ``BundleError``.
    """
    with tracker(context, step) as tracking:
        return _train(tracking.watched(context), step, tracking)


def _train(context: Context, step: TrainStep, tracking: Tracker) -> Bundle:
    source = context.data or "digits"
    step, data = opened_for(context, step, source, lambda classes: model_spec(step, classes).image_size)
    task = task_of(step)
    teacher = teaching.find_for(step, context.run, data.labels)
    config = identity(step) | ({"teacher": teacher.identity} if teacher else {})
    facts = describe_data(data, source, context.data_seed, bool(step.stream))
    fingerprint = bundles.fingerprint(None, "train", {**config, **data_identity(data, context.data_seed)})
    target = context.run / step.output
    if (done := finished(context, target, fingerprint)) is not None:
        return done

    for note in data.notes:
        context.tell(note)
    made = ready(context, step, data, teacher)
    data, spec, model = made.data, made.spec, made.model
    world = context.world or World()
    with world.leader_first():
        work = work_folder(target, fingerprint)
    tracking.begin(target, config, facts, work)
    if world.size > 1:
        context.tell(f"{world.size} processes train together, {step.batch_size} pictures per step over all of them")
    p, training, sets = load_pictures(step, spec, data)
    result = _fitted(context, step, made, (training, sets[Split.VAL]), p, work, world)
    if not world.leader:
        world.barrier()  # until the leader has written the bundle
        return bundles.open_bundle(target)
    figures = _figures(task, result, model, spec, p, sets[Split.TEST])
    about = {"fingerprint": fingerprint, "builder": spec.to_dict(), "data": facts, "config": config, "seed": step.seed}
    about |= {"labels": list(data.labels), "preprocess": preprocess.to_dict(p), "figures": figures, "task": task.value}
    with bundles.create(target, **ORIGIN, **about) as draft:
        write_weights(model, draft)
        copy_history(work, draft)
        (draft / SPLITS).write_text(bundles.dump_json(split_ids(data)))
        write_recipe(draft, target.name, facts, step)
        keep = sets[Split.VAL].images[:GOLDEN_IMAGES], sets[Split.VAL].ids[:GOLDEN_IMAGES]
        save_golden(draft, lambda images: predict_logits(model, images, p), *keep)
        tracking.finish(figures, draft)
    world.barrier()
    shutil.rmtree(work)
    context.tell(f"{target}: test {in_words(task, figures)}")
    for finding in diagnosing.findings(result.history, step.model_dump(), model, sets[Split.VAL], p, data.labels):
        context.tell(f"finding: {finding}")
    return bundles.open_bundle(target)


def _fitted(
    context: Context,
    step: TrainStep,
    made: Ready,
    sets: tuple[Pictures, ImageTensors],
    p: Preprocess,
    work: Path,
    world: World,
) -> TrainResult:
    """Train in place: the classifier on features where ``transfer`` says so, then, unless that is all, the network."""
    training, val = sets
    if isinstance(training, ImageTensors) and step.transfer != "full":
        with world.leader_first():  # the others find its features
            result = fit_classifier(context, step, made.model, training, val, p)
        if step.transfer == "features":
            return result
    if step.train_last is not None:
        train_only_last(made.model, step.train_last)
    return fit_watched(context, step.output, made.model, training, val, p, made.settings, work, teacher=made.teacher)


def fit_watched(
    context: Context,
    stage: str,
    model: nn.Module,
    training: Pictures,
    val: ImageTensors,
    p: Preprocess,
    settings: TrainConfig,
    work: Path,
    teacher: Teacher | None = None,
) -> TrainResult:
    """Train in place, with checkpoints in ``work``, while the context's watcher is told how it goes on."""
    watcher = context.watch(stage, settings.epochs)
    try:
        return fit(
            model,
            training,
            val,
            p,
            settings,
            work,
            teacher=teacher,
            on_epoch=watcher.on_epoch,
            on_step=watcher.on_step,
            tell=context.tell,
            world=context.world,
        )
    finally:
        watcher.close()


def val_figures(result: TrainResult) -> dict[str, float]:
    """What chose the epoch: top-1 on the validation pictures, or mean average precision, with top-1 (exact match)."""
    best = result.history[result.best_epoch - 1] if result.history else {}
    if "val_map" in best:
        return {"val_map": result.best_top1, "val_top1": best["val_top1"]}
    return {"val_top1": result.best_top1}


def _figures(
    task: Task, result: TrainResult, model: nn.Module, spec: zoo.ModelSpec, p: Preprocess, test: ImageTensors
) -> dict[str, Any]:
    params, macs = layers.totals(model, spec.image_size)
    skipped = {"skipped_images": result.skipped_images} if result.skipped_images else {}
    return {
        **skipped,
        **split_figures(task, predict_logits(model, test.images, p), test.labels),
        **val_figures(result),
        "epochs": result.epochs,
        "seconds": round(result.seconds, 1),
        "params": params,
        "macs": macs,
    }
