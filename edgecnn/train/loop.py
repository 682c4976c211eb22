"""The training loop: epochs, validation and checkpoints, from the first or the last one kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import DataError
from edgecnn.spec import Preprocess
from edgecnn.train import checkpoint, history, stopping
from edgecnn.train.allocator import keep_freed_memory
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.distributed import World
from edgecnn.train.feed import Pictures
from edgecnn.train.keeping import Keeping
from edgecnn.train.machine import own_settings
from edgecnn.train.run import BEST, LAST, PREVIOUS, OnStep, Run
from edgecnn.train.sync_bn import synchronized

__all__ = ["BEST", "LAST", "PREVIOUS", "OnStep", "TrainResult", "fit"]

OnEpoch = Callable[[history.Row], None]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class TrainResult:
    """How a training ended: ``best_top1`` as a fraction of the validation pictures, ``seconds`` over all restarts.

    ``skipped_steps`` changed no weights, because fp16 gradients overflowed. With several labels ``best_top1`` is the
    mean average precision, which chose the epoch.
    """

    best_top1: float
    best_epoch: int
    epochs: int
    history: list[history.Row]
    seconds: float
    precision: str
    skipped_steps: int = 0
    skipped_images: int = 0  # of a stream, because they are broken


def fit(
    model: nn.Module,
    train: Pictures,
    val: ImageTensors,
    p: Preprocess,
    config: TrainConfig,
    workdir: Path,
    *,
    teacher: Teacher | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    tell: Tell = warnings.warn,
    world: World | None = None,
) -> TrainResult:
    """Train ``model`` in place; when this returns it holds the weights of the epoch with the best validation accuracy
    (with several labels: mean average precision).

    A run that was killed goes on from ``workdir``'s last checkpoint (when that one is damaged, from the one before) and
    ends with bit-identical weights (same machine, same number of threads); a finished one returns its result at once.
    SIGTERM lets the current step end, and the epoch if it was its last. The model comes back in eval mode, on the CPU.

    Args:
        model: images (N, C, H, W) float32 -> logits (N, K), as ``config.task`` wants; fresh, pretrained or pruned.
        train: training pictures, uint8 (N, H, W, C), with their labels: an array, or a stream that decodes them.
        val: validation pictures: they choose the best epoch and, with ``patience``, the last one.
        p: the normalization that belongs to the pictures.
        config: how to train.
        workdir: for checkpoints, ``history.csv``, ``curves.png`` and ``tensorboard/``; made if missing.
        teacher: a trained network whose logits are learned too, with ``distill_weight`` and ``temperature``.
        on_epoch: called with the history row after each epoch (``history.format_epoch`` makes a log line of it).
        on_step: called with (epoch, step, steps of the epoch), all 1-based, after each step.
        tell: called with a line when a damaged checkpoint had to be left aside, or fp16 steps were skipped.
        world: the processes that train together, each of which calls this; the leader alone writes to ``workdir``.

    Raises:
        DataError: no pictures, or labels the model has no logits for.
        UsageError: the loss is no longer finite, or ``workdir`` belongs to another training.
        BundleError: all checkpoints in ``workdir`` are damaged.
        StoppedError: SIGTERM came.
        WriteError: the disk did not take a checkpoint; the one before is as it was.
    """
    if len(train) < 2 or len(val) < 1:
        raise DataError(f"{len(train)} training and {len(val)} validation pictures", hint="give at least 2 and 1")
    world = world or World()
    workdir.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    with world.leader_first():
        kept = checkpoint.read_newest(workdir / LAST, workdir / PREVIOUS, tell)
    epochs_done = len(kept[1]["history"]) if kept is not None else 0
    begun = kept[1].get("begun") if kept is not None else None
    with (
        stopping.stopping_on_sigterm() as stop,
        own_settings(config),
        history.Scalars(workdir / "tensorboard", epochs_done, world.leader) as scalars,
    ):
        run = Run(model, train, p, config, teacher, world)
        identity = checkpoint.identity(model, train, val, p, config)
        world.agree((epochs_done, begun, identity), f"not all processes have the same training in {workdir}")
        run.resume_or_prepare(kept, workdir, identity)
        del kept  # as large as the network and its optimizer
        keeping = Keeping(run, workdir, identity, stop)
        while run.progress.epoch < config.epochs and not run.out_of_patience():
            row = _one_epoch(run, val, stop.watching(on_step, keeping.steps), keeping)
            run.record(row, workdir, identity)
            scalars.add(row)
            if on_epoch is not None:
                on_epoch(row)
            keeping.tell_skipped(tell)
            stop.after_epoch(run.progress.epoch, config.epochs)
        tensors, _ = checkpoint.read(workdir / BEST)
        checkpoint.load_model(model, tensors, "")
        model.cpu().eval()
    if world.leader:
        history.draw_curves(workdir / "curves.png", run.progress.history)
    world.barrier()  # the leader's caller may remove the folder that others still read
    return _result(run, tell)


def _one_epoch(run: Run, val: ImageTensors, on_step: OnStep, keeping: Keeping) -> history.Row:
    """Train for an epoch, then validate. Raises UsageError when either loss is no number."""
    with run.faster(), synchronized(run.model, run.world, run.config.sync_bn):
        row = run.one_epoch(on_step, keeping.due, keeping.keep)
    row |= run.validate(val)
    if not math.isfinite(row["val_loss"]):
        raise stopping.not_finite_validation(row["val_loss"], row["epoch"], row["lr"])
    row["seconds"] += run.lap()
    return {name: row[name] for name in history.columns(row)}


def _result(run: Run, tell: Tell) -> TrainResult:
    done, skipped = run.progress, int(run.progress.scaler.get("skipped", 0))
    if skipped:
        tell(
            f"fp16: {skipped} of {done.epoch * run.steps} steps were skipped because gradients overflowed; "
            "a few at the start are normal"
        )
    seconds = sum(row["seconds"] for row in done.history)
    broken = len(done.skipped)
    return TrainResult(
        done.best_top1, done.best_epoch, done.epoch, done.history, seconds, done.precision, skipped, broken
    )
