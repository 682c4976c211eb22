"""The largest batch that a training has memory for: batches are doubled until one would not fit.

On a GPU a batch that does not fit is an error that can be caught. On a CPU it is the end of the process, and perhaps of
others: so before a batch is tried, what it will take is predicted from the one before it, since what grows with the
batch grows in proportion to it, and what is predicted not to fit is not tried.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import UsageError
from edgecnn.spec import Preprocess, Task
from edgecnn.tasks import Labels
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.distributed import World
from edgecnn.train.evaluate import predict_logits
from edgecnn.train.freezing import set_training
from edgecnn.train.machine import own_settings
from edgecnn.train.run import Run

FIRST = 8  # pictures of the first trial, or so
STEPS = 2  # of a trial: the first makes the gradients and momenta that are there from the second on
MARGIN = 1.1  # on what is predicted to be added
SLOW_S = 20.0  # a trial that takes longer is the last: what larger batches take is only predicted
EVALUATED = 256  # pictures that validation takes at once


@dataclass(frozen=True)
class Trial:
    """What a batch takes: ``peak_bytes`` of the process, on a GPU of its memory; ``predicted``: it was not run."""

    batch_size: int
    peak_bytes: int
    images_per_second: float | None
    seconds: float
    predicted: bool = False


@dataclass(frozen=True)
class BatchSearch:
    """The trials that fit, smallest first, what they had to fit into (``None``: not known), and why not more."""

    trials: tuple[Trial, ...]
    budget_bytes: int | None
    reason: str

    @property
    def largest(self) -> int:
        """The largest batch that fits. Raises UsageError when none does."""
        if not self.trials:
            raise UsageError(
                f"not even the smallest batch fits: {self.reason}",
                hint="a smaller network or image size, or a machine with more memory",
            )
        return self.trials[-1].batch_size

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values. Raises UsageError when no batch fits."""
        facts = {"largest": self.largest, "reason": self.reason, "budget_bytes": self.budget_bytes}
        return {**facts, "trials": [asdict(trial) for trial in self.trials]}


def first_batch(config: TrainConfig) -> int:
    """About ``FIRST`` pictures: a multiple of ``repeat``, and enough for all parts of ``accumulate``."""
    return config.repeat * max(1, FIRST // config.repeat, -(-2 * config.accumulate // config.repeat))


def search(measure: Callable[[int], Trial | None], first: int, most: int, budget: int | None) -> BatchSearch:
    """Double the batch from ``first`` up to ``most``; ``measure`` tries one and gives ``None`` where it did not fit.

    Where there is a ``budget``, in bytes, ``measure`` is asked first for a batch of 0: what the process takes anyway.
    """
    nothing = measure(0) if budget is not None else None
    base = nothing.peak_bytes if nothing is not None else 0
    trials: list[Trial] = []
    size = first
    while size <= most:
        expected = _predicted(trials[-1], base, size) if trials else 0
        if budget is not None and expected > budget:
            return BatchSearch(tuple(trials), budget, f"{size} would take {expected / 1e6:,.0f} MB")
        if len(trials) > 1 and budget is not None and trials[-1].seconds > SLOW_S:
            trials.append(Trial(size, expected, None, trials[-1].seconds, predicted=True))
            size *= 2
            continue
        trial = measure(size)
        if trial is None or (budget is not None and trial.peak_bytes > budget):
            return BatchSearch(tuple(trials), budget, f"{size} does not fit")
        trials.append(trial)
        size *= 2
    return BatchSearch(tuple(trials), budget, f"{size} is more than the {most} training pictures")


def _predicted(last: Trial, base: int, size: int) -> int:
    """The peak of a batch: all that the last one took above ``base`` grows with it, which is rather too much.

    What is the same for every batch, such as validation, hides the growth of small ones: the difference of two trials
    would promise too much.
    """
    each = max(0, last.peak_bytes - base) / last.batch_size
    return int(last.peak_bytes + (1 if last.predicted else MARGIN) * each * (size - last.batch_size))


class Prober:
    """Tries batches in this process, one after the other, with pictures that take no memory of their own."""

    def __init__(
        self,
        model: nn.Module,
        p: Preprocess,
        config: TrainConfig,
        teacher: Teacher | None,
        classes: int,
        peak: Callable[[], int],
    ) -> None:
        """``peak`` gives the highest memory of this process so far, in bytes; on a GPU torch itself is asked."""
        self.model, self.p, self.teacher, self.classes, self.peak = model, p, teacher, classes, peak
        self.config = replace(config, epochs=1, views=0, low_size=None)

    def try_batch(self, size: int) -> Trial | None:
        """Two steps of so many pictures and a batch of the validation; ``None`` where a GPU is full. 0: no step."""
        if size == 0:
            return Trial(0, self.peak(), None, 0.0)
        start = time.perf_counter()
        try:
            with own_settings(self.config):
                per_second = self._steps(size)
        except torch.OutOfMemoryError:
            return None
        on_gpu = torch.cuda.is_available() and self.config.device != "cpu"
        peak = torch.cuda.max_memory_reserved() if on_gpu else self.peak()
        return Trial(size, peak, per_second, time.perf_counter() - start)

    def _steps(self, size: int) -> float:
        """Pictures per second of the last step."""
        pictures = same_picture(max(size, EVALUATED), self.p, self.classes, self.config.asked)
        batch = ImageTensors(pictures.images[:size], pictures.labels[:size], pictures.ids[:size])
        run = Run(
            copy.deepcopy(self.model), batch, self.p, replace(self.config, batch_size=size), self.teacher, World()
        )
        run.resume_or_prepare(None, Path(), "")
        self.config = replace(self.config, precision=run.progress.precision)  # measured once
        set_training(run.model)
        since = 0.0
        with run.faster():
            for step in range(STEPS):
                ((chosen, generator),) = run.batches(step)
                since = time.perf_counter()
                run.step(chosen, step, generator)
        seconds = time.perf_counter() - since
        predict_logits(run.evaluated(), pictures.images[:EVALUATED], self.p)
        return size / seconds


def same_picture(count: int, p: Preprocess, classes: int, task: Task) -> ImageTensors:
    """``count`` times one picture of noise, in the memory of one, with all labels."""
    shape = (p.size, p.size, p.channels)
    picture = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.uint8)
    images = np.lib.stride_tricks.as_strided(picture, (count, *shape), (0, *picture.strides[1:]))
    numbers = np.arange(count, dtype=np.int64) % classes
    labels: Labels = np.eye(classes, dtype=np.uint8)[numbers] if task is Task.MULTI_LABEL else numbers
    return ImageTensors(images, labels, tuple(map(str, range(count))))
