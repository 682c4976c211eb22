"""The prune step, and what it shares with the quantize step (:mod:`~edgecnn.pipeline.quantizing`)."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn import bundle as bundles
from edgecnn.bundle import Bundle
from edgecnn.compress.prune import prune as prune_channels
from edgecnn.data.items import ImageSet
from edgecnn.data.tensors import ImageTensors, load_split
from edgecnn.errors import UsageError
from edgecnn.models import channel_plan
from edgecnn.pipeline.context import Context, data_of, describe_data, is_streamed
from edgecnn.pipeline.figuring import in_words, split_figures
from edgecnn.pipeline.loading import (
    PLAN,
    Predict,
    golden,
    is_quantized,
    load_module,
    preprocess_of,
    save_golden,
)
from edgecnn.pipeline.preparing import identity, retraining, seed_everything
from edgecnn.pipeline.streaming import training_pictures
from edgecnn.pipeline.training import fit_watched, val_figures
from edgecnn.pipeline.writing import copy_history, finished, work_folder, write_recipe, write_weights
from edgecnn.spec import Split, Task
from edgecnn.steps import PruneStep, QuantizeStep
from edgecnn.train.evaluate import predict_logits


def prune(context: Context, parent: Bundle, step: PruneStep) -> Bundle:
    """Prune channels, train shortly, and write a float bundle. Does nothing when the same bundle is already there.

    Raises ``UsageError`` for a quantized parent.
    """
    refuse_quantized(parent, "pruned")
    data = data_of(parent, context.data)
    made = Child(parent, context.run / str(step.output), "prune", step, facts_of(parent, data, context.data))
    if (done := finished(context, made.target, made.fingerprint)) is not None:
        return done

    p = preprocess_of(parent)
    settings = None if step.recovery is None else retraining(step, step.recovery, parent.task, p)
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
        **tested("before_recovery_", parent.task, lambda images: predict_logits(model, images, p), test),
    }
    before, after = report.macs_before / 1e6, report.macs_after / 1e6
    context.tell(
        f"pruned {report.achieved_channels:.0%} of channels: {before:.2f} -> {after:.2f} M MACs, "
        f"{in_words(parent.task, figures, 'before_recovery_')} before recovery"
    )
    work = work_folder(made.target, made.fingerprint)
    if settings is not None:
        training, val = training_pictures(data, p, is_streamed(parent)), load_split(data, Split.VAL, p)
        result = fit_watched(context, str(step.output), model, training, val, p, settings, work)
        figures |= {**val_figures(result), "epochs": result.epochs, "seconds": round(result.seconds, 1)}
    figures.update(tested("", parent.task, lambda images: predict_logits(model, images, p), test))
    note_drop(figures, parent)
    with bundles.create(made.target, **made.manifest(figures, parent.manifest.precision)) as draft:
        write_weights(model, draft)
        (draft / PLAN).write_text(bundles.dump_json(plan))
        copy_history(work, draft)
        write_recipe(draft, made.target.name, made.data, step)
        same_golden(draft, parent, lambda images: predict_logits(model, images, p))
    shutil.rmtree(work)
    context.tell(f"{made.target}: test {in_words(parent.task, figures)}")
    return bundles.open_bundle(made.target)


def refuse_quantized(parent: Bundle, verb: str) -> None:
    """Raise ``UsageError`` when a quantized bundle is to be compressed further."""
    if is_quantized(parent):
        origin = os.path.normpath(parent.path / str(parent.manifest.parent_path))
        raise UsageError(
            f"{parent.path} is {parent.manifest.precision} already and cannot be {verb}",
            hint=f"compress the float bundle it was made from: {origin}",
        )


def facts_of(parent: Bundle, data: ImageSet, override: str | None) -> dict[str, Any]:
    """What the child's manifest says of its data: the parent's words unless other pictures were used."""
    facts = parent.manifest.data
    if override is None or data.digest == facts["digest"]:
        return facts
    return describe_data(data, override, int(facts["seed"]), is_streamed(parent))


@dataclass(frozen=True)
class Child:
    """A bundle that is about to be made from another: what it is stays, what is done to it is new."""

    parent: Bundle
    target: Path
    kind: str
    step: PruneStep | QuantizeStep
    data: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The settings that decide the result."""
        return identity(self.step)

    @property
    def fingerprint(self) -> str:
        """The result's identity; pictures count when they are not those of the parent."""
        was = self.parent.manifest
        other = {} if self.data["digest"] == was.data["digest"] else {"data": self.data["digest"]}
        return bundles.fingerprint(was.fingerprint, self.kind, {**self.config, **other})

    def manifest(self, figures: dict[str, Any], precision: str) -> dict[str, Any]:
        """The manifest's fields."""
        was = self.parent.manifest
        return {
            "step": self.kind,
            "fingerprint": self.fingerprint,
            "parent": was.fingerprint,
            "parent_path": os.path.relpath(self.parent.path.resolve(), self.target.resolve()),
            "precision": precision,
            "builder": was.builder,
            "labels": was.labels,
            "task": was.task,
            "preprocess": was.preprocess,
            "data": self.data,
            "config": self.config,
            "figures": figures,
            "seed": self.step.seed,
        }


def tested(prefix: str, task: Task, predict: Predict, test: ImageTensors) -> dict[str, Any]:
    """Figures of the test pictures, their names after a prefix."""
    values = split_figures(task, predict(test.images), test.labels)
    return {prefix + name: value for name, value in values.items()}


def note_drop(figures: dict[str, Any], parent: Bundle) -> None:
    """Points of test accuracy lost against the parent; of mean average precision too where there is one."""
    if "test_map" in figures:
        figures["drop_map"] = 100 * (parent.manifest.figures["test_map"] - figures["test_map"])
    figures["drop"] = 100 * (parent.manifest.figures["test_top1"] - figures["test_top1"])


def same_golden(folder: Path, parent: Bundle, predict: Predict) -> None:
    """The parent's golden inputs with this network's logits."""
    theirs = golden(parent)
    save_golden(folder, predict, theirs["images"], tuple(np.asarray(theirs["ids"]).tolist()))
