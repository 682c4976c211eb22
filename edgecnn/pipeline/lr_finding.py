"""Which learning rate a training can take: a range test with exactly its settings, which leaves its run alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from edgecnn.bundle import dump_json, write_atomically
from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import UsageError
from edgecnn.pipeline import teaching
from edgecnn.pipeline.context import Context
from edgecnn.pipeline.preparing import load_pictures, model_spec, ready
from edgecnn.pipeline.streaming import opened_for
from edgecnn.pipeline.transferring import fit_classifier
from edgecnn.spec import Split
from edgecnn.steps import TrainStep
from edgecnn.train import lr_finder
from edgecnn.train.freezing import train_only_last
from edgecnn.train.lr_finder import STEPS, RateCurve, draw


def find_lr(context: Context, step: TrainStep) -> RateCurve:
    """The loss of the network that ``step`` would train, at rising rates. Nothing is written into the context's run.

    The context's run is only where a teacher is looked for. Raises what a training raises.
    """
    if step.transfer == "features":
        raise UsageError("transfer: features has no learning rate", hint="fit the classifier with edgecnn train")
    source = context.data or "digits"
    step, data = opened_for(context, step, source, lambda classes: model_spec(step, classes).image_size)
    teacher = teaching.find_for(step, context.run, data.labels)
    made = ready(context, step, data, teacher)
    p, training, sets = load_pictures(step, made.spec, made.data)
    if isinstance(training, ImageTensors) and step.transfer == "two_stage":
        with TemporaryDirectory() as folder:  # not the run's folder, which would keep the features
            elsewhere = replace(context, run=Path(folder))
            fit_classifier(elsewhere, step, made.model, training, sets[Split.VAL], p)
    if step.train_last is not None:
        train_only_last(made.model, step.train_last)
    watcher = context.watch("find-lr", 1)
    try:
        return lr_finder.find_lr(made.model, training, p, made.settings, teacher=made.teacher, on_step=watcher.on_step)
    finally:
        watcher.close()


def lines(curve: RateCurve) -> list[str]:
    """The suggestion in words. Raises InconclusiveError where there is none."""
    told = [f"highest learning rate: {curve.suggested:.2g} ({lr_finder.RULE}, {curve.lowest:.2g})"]
    if not curve.diverged:
        told.append(f"the loss did not run away in {STEPS} steps, up to rate {curve.rates[-1]:g}")
    return told


def write(curve: RateCurve, folder: Path) -> list[Path]:
    """Write ``lr.json`` and, where matplotlib is installed, ``lr.png``; returns what was written."""
    facts, picture = folder / "lr.json", folder / "lr.png"
    write_atomically(facts, dump_json(curve.as_dict()))
    return [facts, picture] if draw(picture, curve) else [facts]
