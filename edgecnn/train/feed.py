"""What gives a training its pictures, batch by batch: from an array, or decoded on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from edgecnn.data.parallel import usable_cores
from edgecnn.data.stream import ImageStream, check_broken
from edgecnn.data.tensors import ImageTensors
from edgecnn.train.augment import repeated
from edgecnn.train.config import TrainConfig
from edgecnn.train.distributed import World
from edgecnn.train.order import streamed_order

Pictures = ImageTensors | ImageStream
"""What a training can learn from."""

Draw = Callable[[int, int | None], torch.Generator]
"""From an epoch (0-based), or one of its steps, to what is drawn in it; sets torch's global source too."""


@dataclass(frozen=True)
class Batch:
    """The pictures of one step: ``images`` (n, H, W, C) uint8, their ``labels`` and ``ids``, in the same order."""

    images: Tensor
    labels: Tensor
    ids: Sequence[str]

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.labels)


class Feed(Protocol):
    """The training pictures, over all processes.

    ``shape``: height, width and channels. ``labels``, ``ids``: those of all pictures. ``anywhere``: whether an epoch
    can be taken up at any step, with the same augmentation as if the steps before had been taken. ``skipped``:
    positions of broken pictures that others stood in for.
    """

    shape: tuple[int, ...]
    labels: Tensor
    ids: Sequence[str]
    anywhere: bool
    skipped: set[int]

    def __len__(self) -> int:
        """The number of pictures."""

    def some(self, n: int) -> Tensor:
        """``n`` pictures to try something on, (n, H, W, C) uint8; the same at every call."""

    def batches(self, epoch: int, first: int, size: int, draw: Draw) -> Iterator[tuple[Batch, torch.Generator]]:
        """The batches of an epoch, each with what its augmentation is drawn from, from step ``first`` (0-based) on.

        All processes get the same whole batches. Raises ``DataError`` where pictures cannot be read.
        """


class ArrayFeed:
    """Pictures in memory, or in a file that is mapped there, in an order that is drawn anew in each epoch."""

    anywhere = False  # order and augmentation of an epoch are drawn from one source, one after the other

    def __init__(self, pictures: ImageTensors, config: TrainConfig) -> None:
        self.ids: Sequence[str] = pictures.ids
        self.repeat = config.repeat
        self.images, self.labels = torch.from_numpy(pictures.images), torch.from_numpy(pictures.labels)
        self.shape = tuple(self.images.shape[1:])
        self.skipped: set[int] = set()

    def __len__(self) -> int:
        """See ``Feed``."""
        return len(self.ids)

    def some(self, n: int) -> Tensor:
        """See ``Feed``."""
        return self.images[:n]

    def batches(self, epoch: int, first: int, size: int, draw: Draw) -> Iterator[tuple[Batch, torch.Generator]]:
        """See ``Feed``."""
        generator = draw(epoch, None)
        order = repeated(torch.randperm(len(self), generator=generator), size, self.repeat)
        for step in range(first, len(self) // size):
            chosen = order[step * size : (step + 1) * size]
            ids = [self.ids[position] for position in chosen.tolist()]
            yield Batch(self.images[chosen], self.labels[chosen], ids), generator


class StreamFeed:
    """Pictures that are decoded a few batches ahead, each process its share, which it then shows to the others."""

    anywhere = True

    def __init__(self, stream: ImageStream, config: TrainConfig, world: World) -> None:
        self.stream, self.repeat, self.shuffle, self.world = stream, config.repeat, config.shuffle, world
        self.ids: Sequence[str] = stream.ids
        self.labels, self.shape = torch.from_numpy(stream.labels), stream.shape
        self.workers = max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
        self.skipped: set[int] = set()

    def __len__(self) -> int:
        """See ``Feed``."""
        return len(self.stream)

    def some(self, n: int) -> Tensor:
        """See ``Feed``."""
        return torch.from_numpy(self.stream.take(torch.arange(n).numpy(), self.workers).images)

    def batches(self, epoch: int, first: int, size: int, draw: Draw) -> Iterator[tuple[Batch, torch.Generator]]:
        """See ``Feed``. A step's augmentation is drawn from its number, so that any step can be the first."""
        different, stream = size // self.repeat, self.stream
        order = streamed_order(
            stream.files, stream.offsets, len(self) // size, different, self.shuffle, draw(epoch, None)
        )[first:]
        mine = self.world.share(different)
        with closing(stream.decoded((row[mine].numpy() for row in order), self.workers)) as decoded:
            for step, (row, found) in enumerate(zip(order, decoded, strict=True), first):
                images = self.world.whole(torch.from_numpy(found.images), different)
                used = self.world.whole(torch.from_numpy(found.positions), different)
                self._note(row[used != row])
                images, used = (torch.cat([each] * self.repeat) for each in (images, used))
                ids = [self.ids[position] for position in used.tolist()]
                yield Batch(images, self.labels[used], ids), draw(epoch, step)

    def _note(self, broken: Tensor) -> None:
        """Take down which pictures others stand in for. Raises ``DataError`` where they are too many."""
        self.skipped.update(broken.tolist())
        check_broken(self.stream, self.skipped)


def feed_of(pictures: Pictures, config: TrainConfig, world: World) -> Feed:
    """The feed for what a training learns from."""
    if isinstance(pictures, ImageStream):
        return StreamFeed(pictures, config, world)
    return ArrayFeed(pictures, config)
