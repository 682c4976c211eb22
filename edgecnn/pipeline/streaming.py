"""What a training step means on its pictures: its task, and whether they are streamed.

Streamed ones are decoded in every epoch anew, because no cache would hold them decoded. It is the train split that is.
Val and test are decoded once, into memory or a mapped file, as always; so that this ends for a set of any size, they
have at most as many pictures as take a quarter of that cache each. Mean and std are those of ``stream.SAMPLE`` pictures
of train.
"""

from __future__ import annotations

from collections.abc import Callable

from edgecnn import tasks
from edgecnn.data.items import ImageSet, has_many_labels
from edgecnn.data.memory import DISK_LIMIT_BYTES
from edgecnn.data.source import can_sample, with_most, with_val_share
from edgecnn.data.stream import open_stream
from edgecnn.data.tensors import load_split
from edgecnn.errors import UsageError
from edgecnn.pipeline.context import Context, opened
from edgecnn.spec import Preprocess, Split, Task
from edgecnn.steps import TrainStep
from edgecnn.train.feed import Pictures

QUARTER = 4  # the part of the cache that val and test may each take


def opened_for(
    context: Context, step: TrainStep, source: str, image_size: Callable[[int], int]
) -> tuple[TrainStep, ImageSet]:
    """The pictures, and the step that says what their task is and whether they are streamed.

    Where either is as it always was before there was a choice, ``task`` or ``stream`` is ``None``. Where the step
    leaves it open, pictures are streamed if more would have to be kept than ``memory.DISK_LIMIT_BYTES``.
    ``image_size`` gives the side of a picture for a number of classes. Raises ``UsageError`` for a step that cannot
    stream or for a task that is not that of the pictures, and what opening raises.
    """
    if step.stream:
        _check(step, "stream is true")
    sampled = step.stream is not False and can_sample(source)
    data = opened(source, context.data_seed, step.task, sampled=sampled)
    step = with_task(step, data, source)
    picture = channels_of(step) * image_size(len(data.labels)) ** 2
    needed = picture * len(data.splits[Split.TRAIN])
    if step.stream is None and needed > DISK_LIMIT_BYTES:
        reason = f"the decoded pictures would take {needed >> 30} GiB, and the cache holds {DISK_LIMIT_BYTES >> 30}"
        _check(step, reason)
        context.tell(f"{reason}: they are streamed (stream: true)")
    elif not step.stream:
        return step.model_copy(update={"stream": None}), opened(source, context.data_seed, step.task)
    return step.model_copy(update={"stream": True}), data


def with_task(step: TrainStep, data: ImageSet, source: str) -> TrainStep:
    """The step with the task that it means, ``None`` for the usual one. Raises UsageError where the pictures differ."""
    task = tasks.choose(step.task, data.labels, has_many_labels(data), source)
    return step.model_copy(update={"task": None if task is Task.MULTI_CLASS else task})


def divided(step: TrainStep, data: ImageSet, image_size: int) -> ImageSet:
    """The pictures in the splits that a step trains with: its ``val_share``, and an end for what is not streamed."""
    if step.val_share is not None:
        data = with_val_share(data, step.val_share)
    if not step.stream:
        return data
    return with_most(data, max(1, DISK_LIMIT_BYTES // QUARTER // (channels_of(step) * image_size**2)))


def channels_of(step: TrainStep) -> int:
    """The channels of the pictures that a train step asks for."""
    return 1 if step.grey else 3


def training_pictures(data: ImageSet, p: Preprocess, streamed: bool) -> Pictures:
    """The train split: an array, or a stream. Raises what ``load_split`` and ``open_stream`` raise."""
    return open_stream(data, p) if streamed else load_split(data, Split.TRAIN, p)


def _check(step: TrainStep, reason: str) -> None:
    """Refuse what needs all training pictures at once."""
    if step.transfer != "full":
        raise UsageError(
            f"transfer: {step.transfer} keeps features of all training pictures, which cannot be streamed; {reason}",
            hint="use transfer: full, or, where the disk has room for the decoded pictures, stream: false",
        )
