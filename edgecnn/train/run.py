"""One training under way: what an epoch and a step do, and what of it is kept."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import DataError, UsageError
from edgecnn.spec import Preprocess
from edgecnn.train import checkpoint, history, stopping
from edgecnn.train.augment import augment, shrink
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.distributed import World, parts
from edgecnn.train.evaluate import loss_and_top1, predict_logits
from edgecnn.train.feed import Batch, Pictures, feed_of
from edgecnn.train.freezing import set_training
from edgecnn.train.losses import class_weights, loss_of_part
from edgecnn.train.mixing import mix
from edgecnn.train.optimizer import absolute_sum, make_optimizer, set_rate
from edgecnn.train.precision import autocast, choose_precision
from edgecnn.train.schedule import WeightAverage, lr_factor, plateau_factor

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"
WEIGHTS, AVERAGE, OPTIMIZER = "model/", "average/", "optimizer/"

OnStep = Callable[[int, int, int], None]
Due = Callable[[int], bool]
"""Whether the training is to be kept after so many steps of an epoch."""


@dataclass
class _Begun:
    """What an epoch has come to after some of its steps: loss and hits summed over them and over all processes."""

    steps: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0


@dataclass
class _Progress:
    """Where the run stands: everything about it that is not a tensor."""

    precision: str
    history: list[history.Row]
    best_top1: float = -1.0
    best_epoch: int = 0
    skipped: list[int] = field(default_factory=list)
    begun: dict[str, Any] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)


class Run:
    """One training: model, optimizer, average and progress, and what an epoch does with them."""

    def __init__(
        self,
        model: nn.Module,
        train: Pictures,
        p: Preprocess,
        config: TrainConfig,
        teacher: Teacher | None,
        world: World,
    ) -> None:
        self.config, self.p, self.teacher, self.world = config, p, teacher, world
        self.device = world.device(pick_device(config.device))
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.feed = feed_of(train, config, world)
        self.labels = self.feed.labels
        blank = torch.zeros(1, self.feed.shape[-1], *self.feed.shape[:2], device=self.device)
        with torch.no_grad():
            self.classes = self.model.eval()(blank).shape[1]
        self.class_weights = class_weights(self.labels, self.classes).to(self.device) if config.balance else None
        if teacher is not None:
            teacher.to(self.device)
        self.network = world.spread(self.model)
        self.optimizer = make_optimizer(model, config)
        self.average = WeightAverage(model, config.ema) if config.ema is not None else None
        self.batch_size = min(config.batch_size, len(train) // config.repeat * config.repeat)
        world.check_batch(self.batch_size, config.accumulate)
        self.steps = len(train) // self.batch_size
        self.progress = _Progress(config.precision, [])
        self._since = time.perf_counter()

    def resume_or_prepare(self, kept: checkpoint.Checkpoint | None, workdir: Path, identity: str) -> None:
        """Load the checkpoint if there is one; else check model against labels and choose the precision."""
        if kept is not None:
            tensors, state = kept
            if state.pop("identity") != identity:
                raise UsageError(
                    f"{workdir} holds a training with other pictures, another model or other settings",
                    hint="use another work directory, or delete this one to start again",
                )
            checkpoint.load_model(self.model, tensors, WEIGHTS)
            checkpoint.load_optimizer(self.optimizer, tensors, OPTIMIZER)
            if self.average is not None:
                checkpoint.load_model(self.average.model, tensors, AVERAGE)
            self.progress = _Progress(**state)
            self.feed.skipped.update(self.progress.skipped)
            return
        example = augment(self.feed.some(self.batch_size).to(self.device), self.config, self.p, self._generator(0))
        if int(self.labels.max()) >= self.classes:
            raise DataError(
                f"label {int(self.labels.max())} occurs, but the model has {self.classes} logits",
                hint="build the model with as many classes as the data has",
            )
        example = example[parts(self.world.share(len(example)), self.config.accumulate)[0]]
        precision = choose_precision(self.config.precision, self.model, example, self.classes)
        self.progress.precision = self.world.leaders(precision)

    def one_epoch(self, on_step: OnStep | None, due: Due, keep: Callable[[], None]) -> history.Row:
        """Train on every picture once (but an incomplete last batch, and ``repeat`` times on some where that is set);
        the epoch's row without the validation part. Goes on where ``keep``, called when it is ``due``, was called last.
        """
        epoch, begun, lr = self.progress.epoch, self._begun(), 0.0
        self.lap()
        set_training(self.model)
        for step, (batch, generator) in enumerate(self.batches(epoch, begun.steps), begun.steps):
            taken = epoch * self.steps + step
            lr = self._set_lr(taken)
            loss, right = self.step(batch, taken, generator)
            if not math.isfinite(loss):
                raise stopping.not_finite(loss, epoch + 1, step + 1, self.steps, lr, batch.ids)
            begun.loss_sum, begun.correct = begun.loss_sum + loss, begun.correct + right
            if self.feed.anywhere and step + 1 < self.steps and due(step + 1):
                begun = self._take_down(begun, step + 1)
                keep()
            if on_step is not None:
                on_step(epoch + 1, step + 1, self.steps)
        loss_sum, hits = self.world.sums([begun.loss_sum, begun.correct])
        seen, seconds = self.steps * self.batch_size, begun.seconds + self.lap()
        figures = {
            "train_loss": loss_sum / self.steps,
            "train_top1": hits / seen,
            "images_per_second": seen / seconds,
        }
        return {"epoch": epoch + 1, "lr": lr, **figures, "seconds": seconds}

    def _take_down(self, begun: _Begun, steps: int) -> _Begun:
        """Bring the progress to where the epoch stands after so many steps; what this process goes on from."""
        loss_sum, correct = self.world.sums([begun.loss_sum, begun.correct])
        self.progress.begun = asdict(_Begun(steps, loss_sum, correct, begun.seconds + self.lap()))
        return self._begun()

    def _begun(self) -> _Begun:
        """What the epoch has come to as far as it is kept; the sums over all processes are the leader's."""
        begun = _Begun(**self.progress.begun)
        return begun if self.world.leader else replace(begun, loss_sum=0.0, correct=0.0)

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Batch, torch.Generator]]:
        """The pictures of each step of an epoch, from step ``first`` on, with what their augmentation is drawn from."""
        return self.feed.batches(epoch, first, self.batch_size, self._generator)

    def step(self, chosen: Batch, taken: int, generator: torch.Generator) -> tuple[float, int]:
        """One step, after ``taken`` earlier ones, on the pictures ``chosen``.

        Every process augments all of them and takes its share. Returns what that share has in the loss, and how many of
        it were right: over all processes they sum up to the batch's.
        """
        config = self.config
        batch = augment(chosen.images.to(self.device), config, self.p, generator)
        labels = chosen.labels.to(self.device)
        batch, target = mix(batch, labels, self.classes, config, generator)
        mine = self.world.share(len(chosen))
        wanted = None if self.teacher is None else self._teacher_logits(batch[mine], taken)
        if config.low_size is not None and taken < config.low_epochs * self.steps:
            batch = shrink(batch, config.low_size)
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum, correct = 0.0, 0
        for part in parts(mine, config.accumulate):
            with self.world.gradients(self.network, last=part.stop == mine.stop):
                with autocast(self.progress.precision, self.device):
                    logits = self.network(batch[part]).float()
                theirs = None if wanted is None else wanted[part.start - mine.start : part.stop - mine.start]
                loss = loss_of_part(logits, target, part, config, self.class_weights, theirs)
                torch.autograd.backward(loss * self.world.size)  # summed over processes, where DDP takes the mean
            loss_sum, correct = loss_sum + loss.item(), correct + int((logits.argmax(1) == labels[part]).sum())
        if config.l1:
            torch.autograd.backward(config.l1 * absolute_sum(self.model))
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.world.average_buffers(self.model)
        if self.average is not None:
            self.average.update(self.model, taken)
        return loss_sum, correct

    def validate(self, val: ImageTensors) -> list[float]:
        """Loss and top-1 on the validation pictures, of which every process looks at its share."""
        mine = self.world.share(len(val))
        images, labels = val.images[mine], val.labels[mine]
        if not len(labels):
            return self.world.mean((0.0, 0.0), 0)
        return self.world.mean(loss_and_top1(predict_logits(self.evaluated(), images, self.p), labels), len(labels))

    def record(self, row: history.Row, workdir: Path, identity: str) -> None:
        """Take the epoch into the history; the leader writes the files, whose last checkpoint declares it done."""
        done = self.progress
        done.history.append(row)
        done.begun, done.skipped = {}, sorted(self.feed.skipped)
        if row["val_top1"] > done.best_top1:
            done.best_top1, done.best_epoch = row["val_top1"], row["epoch"]
            if self.world.leader:
                best = {"epoch": row["epoch"], "val_top1": row["val_top1"]}
                checkpoint.write(workdir / BEST, checkpoint.model_tensors(self.evaluated(), ""), best)
        if self.world.leader:
            self.keep(workdir, identity)
            history.write_csv(workdir / "history.csv", done.history)
        self.world.barrier()

    def keep(self, workdir: Path, identity: str) -> None:
        """Write a checkpoint of where the training stands; the leader's business."""
        tensors = checkpoint.model_tensors(self.model, WEIGHTS)
        tensors |= checkpoint.optimizer_tensors(self.optimizer, OPTIMIZER)
        if self.average is not None:
            tensors |= checkpoint.model_tensors(self.average.model, AVERAGE)
        self.progress.skipped = sorted(self.feed.skipped)
        state = asdict(self.progress) | {"identity": identity}
        checkpoint.write(workdir / LAST, tensors, state, previous=workdir / PREVIOUS)

    def evaluated(self) -> nn.Module:
        """The network whose accuracy counts: the average if there is one."""
        return self.model if self.average is None else self.average.model

    def out_of_patience(self) -> bool:
        """Whether the last ``patience`` epochs brought nothing better."""
        waited = self.progress.epoch - self.progress.best_epoch
        return self.config.patience is not None and waited >= self.config.patience

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    def _set_lr(self, step: int) -> float:
        warmup = round(self.config.warmup_epochs * self.steps)
        config = self.config
        lr = config.lr * lr_factor(step, config.epochs * self.steps, warmup, config.schedule)
        if config.schedule == "plateau":
            lr *= plateau_factor([row["val_loss"] for row in self.progress.history])
        set_rate(self.optimizer, lr)
        return lr

    def _teacher_logits(self, batch: Tensor, taken: int) -> Tensor:
        """What the teacher says to the batch of step ``taken``: at full size, also where the student sees less."""
        assert self.teacher is not None
        epoch, step = divmod(taken, self.steps)
        key = (epoch % self.config.views, step) if self.config.views else None
        return self.teacher.logits(batch, self.p, self.progress.precision, key)

    def _generator(self, epoch: int, step: int | None = None) -> torch.Generator:
        """What the order and augmentation of an epoch, or of one step of it, are drawn from; torch's global source
        (dropout) is seeded too.
        """
        place = () if step is None else (step,)
        seed = _seed_of(self.config.seed, epoch, *place)
        torch.manual_seed(seed + 2 * self.world.rank)  # dropout: another in each process
        view = epoch % self.config.views if self.config.views else epoch
        return torch.Generator().manual_seed(_seed_of(self.config.seed, view, *place) + 1)


def _seed_of(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()[:7], "big")


def pick_device(asked: str) -> str:
    """``cpu`` or ``cuda``. Raises UsageError if CUDA was asked for and is not there."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda was asked for, but torch finds none", hint="use device auto or cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


@contextmanager
def own_settings(config: TrainConfig) -> Iterator[None]:
    """Threads as asked for, and torch's global random state put back afterwards."""
    threads = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)
