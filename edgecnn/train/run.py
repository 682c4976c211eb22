"""One training under way: what an epoch and a step do, and what of it is kept."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import UsageError
from edgecnn.spec import Preprocess, Task
from edgecnn.tasks import mean_average_precision
from edgecnn.train import checkpoint, compiling, hints, history, machine, stopping
from edgecnn.train.augment import augment, shrink
from edgecnn.train.augment_albumentations import Pipeline, seeds_of
from edgecnn.train.config import TrainConfig
from edgecnn.train.depthwise import fast_depthwise
from edgecnn.train.distill import Teacher
from edgecnn.train.distributed import World, parts
from edgecnn.train.evaluate import loss_and_top1, predict_logits
from edgecnn.train.feed import Batch, Pictures, feed_of
from edgecnn.train.freezing import set_training
from edgecnn.train.losses import check_outputs, class_logits, class_weights, loss_of_part, right
from edgecnn.train.mixing import mix
from edgecnn.train.optimizer import make_optimizer, set_rate
from edgecnn.train.precision import autocast, choose_precision
from edgecnn.train.progress import Begun, Progress
from edgecnn.train.schedule import WeightAverage, lr_factor, plateau_factor
from edgecnn.train.update import Update

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"
WEIGHTS, AVERAGE, OPTIMIZER, REGRESSORS = "model/", "average/", "optimizer/", "regressors/"

OnStep = Callable[[int, int, int], None]
Due = Callable[[int], bool]
"""Whether the training is to be kept after so many steps of an epoch."""


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
        self.device = world.device(machine.check(config))
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.feed = feed_of(train, config, world)
        self.labels = self.feed.labels
        self.pipeline = Pipeline(config.albumentations, config.threads) if config.albumentations else None
        blank = torch.zeros(1, self.feed.shape[-1], *self.feed.shape[:2], device=self.device)
        with torch.no_grad():
            self.outputs = self.model.eval()(blank).shape[1]
        self.classes = 2 if config.asked is Task.BINARY else self.outputs
        self.class_weights = class_weights(self.labels, self.classes).to(self.device) if config.balance else None
        if teacher is not None:
            teacher.to(self.device)
        self.hints = hints.attach(self.model, p.size, teacher, config)
        trained = self.model if self.hints is None else self.hints.to(self.device)
        self.network = world.spread(trained)
        self.forward = compiling.compiled(self.network) if config.compile else self.network
        self.optimizer = make_optimizer(model, config)
        if self.hints is not None:
            self.optimizer.add_param_group({"params": [*self.hints.regressors.parameters()], "weight_decay": 0.0})
        self.update = Update(model, self.optimizer, config, trained)
        self.average = WeightAverage(model, config.ema) if config.ema is not None else None
        self.batch_size = min(config.batch_size, len(train) // config.repeat * config.repeat)
        world.check_batch(self.batch_size, config.accumulate)
        self.steps = len(train) // self.batch_size
        self.progress = Progress(config.precision, [])
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
            if self.hints is not None:
                checkpoint.load_model(self.hints.regressors, tensors, REGRESSORS)
            self.progress = Progress(**state)
            self.feed.skipped.update(self.progress.skipped)
            self.update.prepare(self.progress.precision, self.device, self.progress.scaler)
            return
        example = augment(self.feed.some(self.batch_size).to(self.device), self.config, self.p, self._generator(0))
        check_outputs(self.outputs, self.labels, self.config.asked)
        example = example[parts(self.world.share(len(example)), self.config.accumulate)[0]]
        precision = choose_precision(self.config.precision, self.model, example, self.outputs)
        self.progress.precision = self.world.leaders(precision)
        self.update.prepare(self.progress.precision, self.device, {})

    def one_epoch(self, on_step: OnStep | None, due: Due, keep: Callable[[], None]) -> history.Row:
        """Train on every picture once (but an incomplete last batch, and ``repeat`` times on some where that is set);
        the epoch's row without the validation part. Goes on where ``keep``, called when it is ``due``, was called last.
        """
        epoch, begun, lr = self.progress.epoch, self._begun(), 0.0
        self.lap()
        set_training(self.model, frozen_bn=self.config.frozen_bn)
        for step, (batch, generator) in enumerate(self.batches(epoch, begun.steps), begun.steps):
            taken = epoch * self.steps + step
            lr = self._set_lr(taken)
            loss, correct = self.step(batch, taken, generator)
            if not math.isfinite(loss):
                raise stopping.not_finite(loss, epoch + 1, step + 1, self.steps, lr, batch.ids)
            begun.loss_sum, begun.correct = begun.loss_sum + loss, begun.correct + correct
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

    def _take_down(self, begun: Begun, steps: int) -> Begun:
        """Bring the progress to where the epoch stands after so many steps; what this process goes on from."""
        loss_sum, correct = self.world.sums([begun.loss_sum, begun.correct])
        done = self.progress
        done.begun = asdict(Begun(steps, loss_sum, correct, begun.seconds + self.lap()))
        done.skipped, done.scaler = sorted(self.feed.skipped), self.update.state()
        return self._begun()

    def _begun(self) -> Begun:
        """What the epoch has come to as far as it is kept; the sums over all processes are the leader's."""
        begun = Begun(**self.progress.begun)
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
        batch = augment(self._pictures(chosen, taken).to(self.device), config, self.p, generator)
        labels = chosen.labels.to(self.device)
        labels = labels.float() if labels.dim() == 2 else labels
        batch, target = mix(batch, labels, self.classes, config, generator)
        mine = self.world.share(len(chosen))
        with nullcontext() if self.hints is None else self.hints.watching():
            wanted = None if self.teacher is None else self._teacher_logits(batch[mine], taken)
        if config.low_size is not None and taken < config.low_epochs * self.steps:
            batch = shrink(batch, config.low_size)
        with compiling.failures_told(config.compile):
            found = self.update.step(lambda: self._gradients(batch, labels, target, mine, wanted))
        self.world.average_buffers(self.model)
        if self.average is not None:
            self.average.update(self.model, taken)
        return found

    def _gradients(
        self, batch: Tensor, labels: Tensor, target: Tensor, mine: slice, wanted: Tensor | None
    ) -> tuple[float, int]:
        """Add the gradients of this process's share of the batch, ``mine``, part by part; its loss and hits."""
        config, loss_sum, correct = self.config, 0.0, 0
        for part in parts(mine, config.accumulate):
            rows = slice(part.start - mine.start, part.stop - mine.start)  # of what only this share has
            with self.world.gradients(self.network, last=part.stop == mine.stop):
                with autocast(self.progress.precision, self.device):
                    answer = self.forward(batch[part])
                logits = class_logits((answer if self.hints is None else answer[0]).float(), config.asked)
                theirs = None if wanted is None else wanted[rows]
                loss = loss_of_part(logits, target, part, config, self.class_weights, theirs)
                if self.hints is not None:
                    share = len(logits) / len(target)
                    loss = loss + config.hint_weight * share * self.hints.loss(answer[1], rows)
                self.update.backward(loss * self.world.size)  # summed over processes, where DDP takes the mean
            loss_sum, correct = loss_sum + loss.item(), correct + int(right(logits, labels[part], config.asked).sum())
        return loss_sum, correct

    def validate(self, val: ImageTensors) -> history.Row:
        """Loss and top-1 on the validation pictures, of which every process looks at its share; mAP of all of them."""
        mine, task = self.world.share(len(val)), self.config.asked
        images, labels = val.images[mine], val.labels[mine]
        logits = predict_logits(self.evaluated(), images, self.p) if len(labels) else np.zeros((0, self.outputs), "f")
        found = loss_and_top1(logits, labels, task) if len(labels) else (0.0, 0.0)
        loss, top1 = self.world.mean(found, len(labels))
        row = {"val_loss": loss, "val_top1": top1}
        if task is Task.MULTI_LABEL:
            row["val_map"] = mean_average_precision(self.world.gathered(logits), val.labels)
        return row

    def record(self, row: history.Row, workdir: Path, identity: str) -> None:
        """Take the epoch into the history; the leader writes the files, whose last checkpoint declares it done."""
        done = self.progress
        done.history.append(row)
        done.begun, done.skipped = {}, sorted(self.feed.skipped)
        done.scaler = self.update.state()
        if history.score(row) > done.best_top1:
            done.best_top1, done.best_epoch = history.score(row), row["epoch"]
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
        if self.hints is not None:
            tensors |= checkpoint.model_tensors(self.hints.regressors, REGRESSORS)
        state = asdict(self.progress) | {"identity": identity}
        checkpoint.write(workdir / LAST, tensors, state, previous=workdir / PREVIOUS)

    @contextmanager
    def faster(self) -> Iterator[None]:
        """Around the steps: layers replaced by faster ones that compute the same."""
        with nullcontext() if self.config.compile else fast_depthwise(self.model, self.device):
            yield

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
        key = (self._view(epoch), step) if self.config.views else None
        return self.teacher.logits(batch, self.p, self.progress.precision, key)

    def _generator(self, epoch: int, step: int | None = None) -> torch.Generator:
        """What the order and augmentation of an epoch, or of one step of it, are drawn from; torch's global source
        (dropout) is seeded too.
        """
        place = () if step is None else (step,)
        seed = _seed_of(self.config.seed, epoch, *place)
        torch.manual_seed(seed + 2 * self.world.rank)  # dropout: another in each process
        return torch.Generator().manual_seed(_seed_of(self.config.seed, self._view(epoch), *place) + 1)

    def _view(self, epoch: int) -> int:
        """The epoch whose augmentation this one has."""
        return epoch % self.config.views if self.config.views else epoch

    def _pictures(self, chosen: Batch, taken: int) -> Tensor:
        """The pictures of step ``taken``, through the pipeline where there is one: (N, H, W, 3) uint8."""
        if self.pipeline is None:
            return chosen.images
        seeds = seeds_of(self.config.seed, self._view(taken // self.steps), chosen.ids)
        return torch.from_numpy(self.pipeline(chosen.images.numpy(), seeds, chosen.ids))


def _seed_of(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()[:7], "big")
