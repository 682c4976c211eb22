"""A program that tries batches of a training, in a process of its own, which may run out of memory.

The first line of stdin is the task as JSON; every further line is a batch size, answered by one line of JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgecnn.errors import EdgecnnError
from edgecnn.pipeline import teaching
from edgecnn.pipeline.context import Context
from edgecnn.pipeline.preparing import first_preprocess, model_spec, prepared, task_of, train_config
from edgecnn.runtimes.worker import peak_memory_bytes
from edgecnn.steps import TrainStep
from edgecnn.tasks import outputs
from edgecnn.train.allocator import keep_freed_memory
from edgecnn.train.batch_finder import Prober
from edgecnn.train.freezing import train_only_last


def prober_of(task: dict[str, Any]) -> Prober:
    """The training of the task, ready to be tried."""
    step = TrainStep.model_validate_json(task["step"])
    labels, run = tuple(task["labels"]), Path(task["run"])
    context = Context(run, tell=lambda line: None)
    settings = train_config(step, step.seed, step.device, step.threads)
    spec = model_spec(step, outputs(task_of(step), len(labels)))
    model = prepared(context, step, spec)
    if step.train_last is not None:
        train_only_last(model, step.train_last)
    named = teaching.find_for(step, run, labels)
    teacher = teaching.load(named, spec.num_classes, spec.image_size) if named else None
    p, _ = first_preprocess(step, spec)
    return Prober(model, p, settings, teacher, len(labels), peak_memory_bytes)


def main() -> None:
    """Answer until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    die_first()
    keep_freed_memory()
    prober = None
    for line in sys.stdin:
        try:
            if prober is None:
                prober = prober_of(json.loads(line))
                continue
            trial = prober.try_batch(int(line))
            answer: dict[str, Any] = {"fits": trial is not None, "trial": trial and asdict(trial)}
        except EdgecnnError as error:
            answer = {"error": error.message, "hint": error.hint}
        print(json.dumps(answer), file=answers, flush=True)
        if "error" in answer:
            return


def die_first() -> None:
    """Have the kernel end this process, not another one, if memory runs out after all. Linux only."""
    wish = Path("/proc/self/oom_score_adj")
    if wish.exists():
        wish.write_text("1000")


if __name__ == "__main__":
    main()
