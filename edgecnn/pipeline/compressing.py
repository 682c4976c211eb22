"""The prune and quantize steps: a float bundle -> a smaller one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgecnn import bundle as bundles
from edgecnn.bundle import Bundle
from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.prune import prune as prune_channels
from edgecnn.compress.quantize import quantize as decide_numbers
from edgecnn.data.items import ImageSet
from edgecnn.data.tensors import ImageTensors, choose_calibration, iter_batches, load_split
from edgecnn.errors import UsageError
from edgecnn.graph import store
from edgecnn.graph.interpret import GraphModule
from edgecnn.measure.accuracy import accuracy
from edgecnn.models import channel_plan
from edgecnn.pipeline.context import Context, data_of
from edgecnn.pipeline.loading import (
    PLAN,
    Predict,
    batched,
    golden,
    is_int8,
    load_graph,
    load_module,
    preprocess_of,
    save_golden,
)
from edgecnn.pipeline.training import copy_history, identity, seed_everything, train_config, work_folder, write_recipe, write_weights
from edgecnn.recipe import PruneStep, QuantizeStep
from edgecnn.spec import Precision, Preprocess, Split
from edgecnn.train.evaluate import predict_logits
from edgecnn.train.loop import fit

CALIBRATION_BATCH = 16


def prune(context: Context, parent: Bundle, step: PruneStep) -> Bundle:
    """Prune channels, train shortly, and write a float bundle. Does nothing when the same bundle is already there.

    Raises ``UsageError`` for a quantized parent.
    """
    refuse_int8(parent, "pruned")
    config = identity(step)
    fingerprint = bundles.fingerprint(parent.manifest.fingerprint, "prune", config)
    target = context.run / str(step.output)
    if (done := bundles.existing(target, fingerprint)) is not None:
        context.tell(f"{done.title} is there already: skipped")
        return done

    p = preprocess_of(parent)
    data = data_of(parent, context.data)
    test = load_split(data, Split.TEST, p)
    seed_everything(step.seed)
    model = load_module(parent)
    report = prune_channels(model, p.size, step.ratio, round_to=step.round_to)
    plan = channel_plan.extract(model)
    figures: dict[str, Any] = {
        "requested_ratio": step.ratio,
        "removed_channels": report.achieved_channels,
        "removed_params": report.achieved_params,
        "removed_macs": report.achieved_macs,
        "params": report.params_after,
        "macs": report.macs_after,
        "parent_params": report.params_before,
        "parent_macs": report.macs_before,
        **_test_figures("before_recovery_", lambda images: predict_logits(model, images, p), test),
    }
    context.tell(
        f"pruned {report.achieved_channels:.0%} of channels: {report.macs_before / 1e6:.1f} -> {report.macs_after / 1e6:.1f} M MACs, "
        f"top-1 {100 * figures['before_recovery_test_top1']:.2f} % before recovery"
    )
    work = work_folder(target, fingerprint)
    figures.update(_recover(context, model, data, p, step, work))
    figures.update(_test_figures("", lambda images: predict_logits(model, images, p), test))
    _note_drop(figures, parent)
    with bundles.create(target, **_child_facts(parent, target, "prune", fingerprint, config, figures, step.seed)) as draft:
        write_weights(model, draft)
        (draft / PLAN).write_text(bundles.dump_json(plan))
        copy_history(work, draft)
        write_recipe(draft, context, step)
        _same_golden(draft, parent, lambda images: predict_logits(model, images, p))
    shutil.rmtree(work)
    context.tell(f"{target}: test top-1 {100 * figures['test_top1']:.2f} %")
    return bundles.open_bundle(target)


def quantize(context: Context, parent: Bundle, step: QuantizeStep) -> Bundle:
    """Decide the int8 numbers once and write them as a bundle. Does nothing when the same bundle is already there.

    Raises ``UsageError`` for a parent that is quantized already.
    """
    refuse_int8(parent, "quantized")
    config = identity(step)
    fingerprint = bundles.fingerprint(parent.manifest.fingerprint, "quantize", config)
    target = context.run / str(step.output)
    if (done := bundles.existing(target, fingerprint)) is not None:
        context.tell(f"{done.title} is there already: skipped")
        return done

    p = preprocess_of(parent)
    data = data_of(parent, context.data)
    items = choose_calibration(data, step.calibration_images, step.seed)
    graph = load_graph(parent)
    batches = (batch.images for batch in iter_batches(data, items, p, CALIBRATION_BATCH))
    quantized = decide_numbers(graph, calibrate(graph, batches, method=step.calibration_method), hard_swish=step.hard_swish)
    model = GraphModule(quantized).eval()

    def predict(images: Any) -> Any:
        return batched(model, images)

    params, macs = parent.manifest.figures["params"], parent.manifest.figures["macs"]
    figures: dict[str, Any] = {"calibration_images": len(items), "params": params, "macs": macs}
    figures.update(_test_figures("", predict, load_split(data, Split.TEST, p)))
    _note_drop(figures, parent)
    facts = _child_facts(parent, target, "quantize", fingerprint, config, figures, step.seed)
    with bundles.create(target, **{**facts, "precision": Precision.INT8.value}) as draft:
        store.save(quantized, draft)
        (draft / "calibration.txt").write_text("".join(f"{item.id}\n" for item in items))
        write_recipe(draft, context, step)
        _same_golden(draft, parent, predict)
    context.tell(f"{target}: test top-1 {100 * figures['test_top1']:.2f} %, drop {figures['drop']:.2f} points")
    return bundles.open_bundle(target)


def refuse_int8(parent: Bundle, verb: str) -> None:
    """Raise ``UsageError`` when a quantized bundle is to be compressed further."""
    if is_int8(parent):
        raise UsageError(
            f"{parent.path} is int8 already and cannot be {verb}",
            hint="compress the float bundle it was made from"
            + (f": {parent.path / parent.manifest.parent_path}" if parent.manifest.parent_path else ""),
        )


def _recover(
    context: Context, model: nn.Module, data: ImageSet, p: Preprocess, step: PruneStep, work: Path
) -> dict[str, Any]:
    """Train the pruned network shortly; nothing when the step asks for no recovery."""
    if step.recovery is None:
        return {}
    sets = {split: load_split(data, split, p) for split in (Split.TRAIN, Split.VAL)}
    settings = train_config(step.recovery, step.seed, step.device, step.threads)
    watcher = context.watch(str(step.output), settings.epochs)
    result = fit(
        model, sets[Split.TRAIN], sets[Split.VAL], p, settings, work, on_epoch=watcher.on_epoch, on_step=watcher.on_step
    )
    return {"val_top1": result.best_top1, "epochs": result.epochs, "seconds": round(result.seconds, 1)}


def _child_facts(
    parent: Bundle, target: Path, step: str, fingerprint: str, config: dict[str, Any], figures: dict[str, Any], seed: int
) -> dict[str, Any]:
    """The manifest of a bundle made from another: what it is stays, what was done to it is new."""
    was = parent.manifest
    return {
        "step": step,
        "fingerprint": fingerprint,
        "parent": was.fingerprint,
        "parent_path": os.path.relpath(parent.path.resolve(), target.resolve()),
        "precision": was.precision,
        "builder": was.builder,
        "labels": was.labels,
        "preprocess": was.preprocess,
        "data": was.data,
        "config": config,
        "figures": figures,
        "seed": seed,
    }


def _test_figures(prefix: str, predict: Predict, test: ImageTensors) -> dict[str, Any]:
    top1 = accuracy(predict(test.images), test.labels).top1
    values = {"test_top1": top1.value, "test_top1_low": top1.low, "test_top1_high": top1.high, "test_images": top1.n}
    return {prefix + name: value for name, value in values.items()}


def _note_drop(figures: dict[str, Any], parent: Bundle) -> None:
    """Points of test accuracy lost against the parent."""
    figures["drop"] = 100 * (parent.manifest.figures["test_top1"] - figures["test_top1"])


def _same_golden(folder: Path, parent: Bundle, predict: Predict) -> None:
    """The parent's golden inputs with this network's logits."""
    theirs = golden(parent)
    save_golden(folder, predict, theirs["images"], tuple(np.asarray(theirs["ids"]).tolist()))


