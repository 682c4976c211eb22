"""One training under way: what an epoch and a step do, and what of it is kept."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import DataError, UsageError
from edgecnn.spec import Preprocess, Task
from edgecnn.tasks import Labels, mean_average_precision
from edgecnn.train import checkpoint, history, stopping
from edgecnn.train.augment import augment, repeated, shrink
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.distributed import World, parts
from edgecnn.train.evaluate import loss_and_top1, predict_logits
from edgecnn.train.freezing import set_training
from edgecnn.train.losses import class_logits, class_weights, loss_of_part, right
from edgecnn.train.mixing import mix
from edgecnn.train.optimizer import absolute_sum, make_optimizer, set_rate
from edgecnn.train.precision import autocast, choose_precision
from edgecnn.train.schedule import WeightAverage, lr_factor, plateau_factor

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"
WEIGHTS, AVERAGE, OPTIMIZER = "model/", "average/", "optimizer/"

OnStep = Callable[[int, int, int], None]


@dataclass
class _Progress:
    """Where the run stands: everything about it that is not a tensor."""

    precision: str
    history: list[history.Row]
    best_top1: float = -1.0
    best_epoch: int = 0

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)


class Run:
    """One training: model, optimizer, average and progress, and what an epoch does with them."""

    def __init__(
        self,
        model: nn.Module,
        train: ImageTensors,
        p: Preprocess,
        config: TrainConfig,
        teacher: Teacher | None,
        world: World,
    ) -> None:
        self.config, self.p, self.teacher, self.world = config, p, teacher, world
        self.device = world.device(pick_device(config.device))
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.ids = train.ids
        self.images = torch.from_numpy(train.images)
        self.labels = torch.from_numpy(train.labels)
        blank = torch.zeros(1, self.images.shape[3], *self.images.shape[1:3], device=self.device)
        with torch.no_grad():
            self.outputs = self.model.eval()(blank).shape[1]
        self.classes = 2 if config.asked is Task.BINARY else self.outputs
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
            return
        example = augment(self.images[: self.batch_size].to(self.device), self.config, self.p, self._generator(0))
        check_outputs(self.outputs, self.labels, self.config.asked)
        example = example[parts(self.world.share(len(example)), self.config.accumulate)[0]]
        precision = choose_precision(self.config.precision, self.model, example, self.outputs)
        self.progress.precision = self.world.leaders(precision)

    def one_epoch(self, on_step: OnStep | None) -> history.Row:
        """Train on every picture once (but an incomplete last batch, and ``repeat`` times on some where that is set);
        the epoch's row without the validation part.
        """
        epoch = self.progress.epoch
        self.lap()
        set_training(self.model)
        loss_sum, correct, lr = 0.0, 0, 0.0
        for step, (chosen, generator) in enumerate(self.batches(epoch)):
            taken = epoch * self.steps + step
            lr = self._set_lr(taken)
            loss, right = self.step(chosen, taken, generator)
            if not math.isfinite(loss):
                ids = [self.ids[index] for index in chosen.tolist()]
                raise stopping.not_finite(loss, epoch + 1, step + 1, self.steps, lr, ids)
            loss_sum, correct = loss_sum + loss, correct + right
            if on_step is not None:
                on_step(epoch + 1, step + 1, self.steps)
        loss_sum, hits = self.world.sums([loss_sum, correct])
        seen, seconds = self.steps * self.batch_size, self.lap()
        figures = {
            "train_loss": loss_sum / self.steps,
            "train_top1": hits / seen,
            "images_per_second": seen / seconds,
        }
        return {"epoch": epoch + 1, "lr": lr, **figures, "seconds": seconds}

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, torch.Generator]]:
        """The pictures of each step of an epoch, with what their augmentation is drawn from."""
        generator = self._generator(epoch)
        order = repeated(torch.randperm(len(self.images), generator=generator), self.batch_size, self.config.repeat)
        for step in range(self.steps):
            yield order[step * self.batch_size : (step + 1) * self.batch_size], generator

    def step(self, chosen: Tensor, taken: int, generator: torch.Generator) -> tuple[float, int]:
        """One step, after ``taken`` earlier ones, on the pictures ``chosen``.

        Every process augments all of them and takes its share. Returns what that share has in the loss, and how many of
        it were right: over all processes they sum up to the batch's.
        """
        config = self.config
        batch = augment(self.images[chosen].to(self.device), config, self.p, generator)
        labels = self.labels[chosen].to(self.device)
        labels = labels.float() if labels.dim() == 2 else labels
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
                    logits = class_logits(self.network(batch[part]).float(), config.asked)
                theirs = None if wanted is None else wanted[part.start - mine.start : part.stop - mine.start]
                loss = loss_of_part(logits, target, part, config, self.class_weights, theirs)
                torch.autograd.backward(loss * self.world.size)  # summed over processes, where DDP takes the mean
            loss_sum, correct = loss_sum + loss.item(), correct + int(right(logits, labels[part], config.asked).sum())
        if config.l1:
            torch.autograd.backward(config.l1 * absolute_sum(self.model))
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.world.average_buffers(self.model)
        if self.average is not None:
            self.average.update(self.model, taken)
        return loss_sum, correct

    def validate(self, val: ImageTensors) -> history.Row:
        """Loss and top-1 on the validation pictures, of which every process looks at its share; mAP of all of them."""
        mine, task = self.world.share(len(val)), self.config.asked
        images, labels = val.images[mine], val.labels[mine]
        logits = predict_logits(self.evaluated(), images, self.p) if len(labels) else np.zeros((0, self.outputs), "f")
        found = loss_and_top1(logits, labels, task) if len(labels) else (0.0, 0.0)
        loss, top1 = self.world.mean(found, len(labels))
        row = {"val_loss": loss, "val_top1": top1}
        return row if task is not Task.MULTI_LABEL else row | {"val_map": self._ranked(logits, val.labels)}

    def _ranked(self, logits: NDArray[np.float32], labels: Labels) -> float:
        """Mean average precision of the logits (n, K) of all processes."""
        return mean_average_precision(self.world.gathered(logits), labels)

    def record(self, row: history.Row, workdir: Path, identity: str) -> None:
        """Take the epoch into the history; the leader writes the files, whose last checkpoint declares it done."""
        done = self.progress
        done.history.append(row)
        if history.score(row) > done.best_top1:
            done.best_top1, done.best_epoch = history.score(row), row["epoch"]
            if self.world.leader:
                best = {"epoch": row["epoch"], "val_top1": row["val_top1"]}
                checkpoint.write(workdir / BEST, checkpoint.model_tensors(self.evaluated(), ""), best)
        if self.world.leader:
            tensors = checkpoint.model_tensors(self.model, WEIGHTS)
            tensors |= checkpoint.optimizer_tensors(self.optimizer, OPTIMIZER)
            if self.average is not None:
                tensors |= checkpoint.model_tensors(self.average.model, AVERAGE)
            state = asdict(done) | {"identity": identity}
            checkpoint.write(workdir / LAST, tensors, state, previous=workdir / PREVIOUS)
            history.write_csv(workdir / "history.csv", done.history)
        self.world.barrier()

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

    def _generator(self, epoch: int) -> torch.Generator:
        """What the epoch's order and augmentation are drawn from; torch's global source (dropout) is seeded too."""
        torch.manual_seed(_seed_of(self.config.seed, epoch) + 2 * self.world.rank)  # dropout: another in each process
        view = epoch % self.config.views if self.config.views else epoch
        return torch.Generator().manual_seed(_seed_of(self.config.seed, view) + 1)


def check_outputs(outputs: int, labels: Tensor, task: Task) -> None:
    """Raise DataError where a network with so many logits cannot learn these labels."""
    if task is Task.MULTI_LABEL:
        fits, found = labels.dim() == 2 and labels.shape[1] == outputs, f"labels are {tuple(labels.shape)}"
    else:
        most = int(labels.max())
        fits, found = most < (2 if task is Task.BINARY and outputs == 1 else outputs), f"label {most} occurs"
    if not fits:
        raise DataError(
            f"{found}, but the model has {outputs} logits (task {task})",
            hint="build the model with as many classes as the data has (binary: one logit)",
        )


def _seed_of(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch}".encode()).digest()[:7], "big")


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
