"""How large a batch of a training can be on this machine: tried in another process, which may run out of memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from edgecnn.bundle import dump_json, write_atomically
from edgecnn.data.memory import available_bytes, memory_limit
from edgecnn.data.source import with_val_share
from edgecnn.errors import DataError, RuntimeFailure, UsageError
from edgecnn.pipeline import teaching
from edgecnn.pipeline.context import Context, opened
from edgecnn.pipeline.preparing import check_transfer, first_preprocess, model_spec, task_of, train_config
from edgecnn.pipeline.streaming import channels_of, with_task
from edgecnn.spec import Split
from edgecnn.steps import TrainStep
from edgecnn.tasks import outputs
from edgecnn.train import machine
from edgecnn.train.batch_finder import BatchSearch, Trial, first_batch, search

KILLED = -9  # what the kernel does to a process when memory runs out
HELD = 8192  # the largest batch for which Goyal et al. found the rule to hold (figure 1)
SHARE = 0.9  # of the memory that is available: something else may come to need some


def find_batch(context: Context, step: TrainStep) -> BatchSearch:
    """The largest batch, in doublings, that the training of ``step`` has memory for. Nothing is written.

    The context's run is only where a teacher is looked for. Raises what a training raises, and RuntimeFailure when the
    trial breaks.
    """
    if step.transfer == "features":
        raise UsageError("transfer: features has no batches", hint="fit the classifier with edgecnn train")
    check_transfer(step)
    source = context.data or "digits"
    data = opened(source, context.data_seed, step.task, sampled=True)
    step = with_task(step, data, source)
    if step.val_share is not None:
        data = with_val_share(data, step.val_share)
    teaching.find_for(step, context.run, data.labels)  # raises here, not in the trial
    settings = train_config(step, step.seed, step.device, step.threads)
    size = first_preprocess(step, model_spec(step, outputs(task_of(step), len(data.labels))))[0].size
    most, first = len(data.splits[Split.TRAIN]), first_batch(settings)
    if first > most:
        raise DataError(f"{most} training pictures are no batch of {first}", hint="add pictures, or lower accumulate")
    split_bytes = [len(items) * size * size * channels_of(step) for items in data.splits.values()]
    pictures = sum(each for each in split_bytes if each <= memory_limit())  # larger ones stay in a file
    budget = _budget(pictures) if machine.pick_device(settings.device) == "cpu" else None
    task = {"step": step.model_dump_json(), "labels": data.labels, "run": str(context.run)}
    with _Trials(task) as trials:

        def watched(batch_size: int) -> Trial | None:
            trial = trials.try_batch(batch_size)
            if batch_size:
                context.tell(f"batch {batch_size}: " + ("does not fit" if trial is None else _say(trial)))
            return trial

        return search(watched, first, most, budget)


def lines(found: BatchSearch, step: TrainStep) -> list[str]:
    """The largest batch and a learning rate for it, in words. Raises UsageError when none fits."""
    largest = found.largest
    last = found.trials[-1]
    into = "" if found.budget_bytes is None else f" of {found.budget_bytes / 1e6:,.0f}"
    how = "predicted" if last.predicted else "measured"
    told = [f"largest batch: {largest} ({last.peak_bytes / 1e6:,.0f}{into} MB, {how}; {found.reason})"]
    if step.optimizer == "sgd":
        rate = step.lr * largest / step.batch_size
        beyond = "" if largest <= HELD else f"; the paper saw it fail beyond {HELD}"
        told.append(
            f"learning rate: {rate:.2g} by the linear scaling rule, from {step.lr:g} at {step.batch_size} (Goyal et "
            f"al., arXiv:1706.02677, section 2.1; with warm-up{beyond})"
        )
    told.append(
        f"edgecnn find-lr with --batch-size {largest} measures the rate; the fastest batch may be a smaller one"
    )
    return told


def write(found: BatchSearch, folder: Path) -> Path:
    """Write ``batch.json``; returns its path."""
    target = folder / "batch.json"
    write_atomically(target, dump_json(found.as_dict()))
    return target


def _say(trial: Trial) -> str:
    return f"{trial.peak_bytes / 1e6:,.0f} MB, {trial.images_per_second or 0:.0f} pictures per second"


def _budget(pictures: int) -> int:
    """What a training's process may take besides its pictures, which the trial does not have in memory."""
    available = available_bytes()
    if available is None:
        raise UsageError(
            "this system does not say how much memory is available", hint="set batch_size yourself; Linux says it"
        )
    return int(SHARE * available) - pictures


class _Trials:
    """A process that tries batches. Use it as a context manager."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgecnn.pipeline.batch_trial"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
        )
        self._waiting = json.dumps(task) + "\n"

    def try_batch(self, size: int) -> Trial | None:
        """What a batch takes; ``None`` where it did not fit, or the kernel ended the process for its memory."""
        process, said = self._process, ""
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(f"{self._waiting}{size}\n")
            process.stdin.flush()
            self._waiting = ""
            said = process.stdout.readline()
        if not said:
            if process.wait() == KILLED:
                return None
            raise RuntimeFailure(f"the trial of batch {size} broke: {self._last_words()}")
        answer = json.loads(said)
        if "error" in answer:
            raise RuntimeFailure(answer["error"], hint=answer["hint"])
        return Trial(**answer["trial"]) if answer["fits"] else None

    def _last_words(self) -> str:
        self._complaints.seek(0)
        said = self._complaints.read().splitlines()
        return said[-1] if said else f"it ended with code {self._process.returncode}"

    def __enter__(self) -> Self:
        """The process is running."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()
        self._complaints.close()
