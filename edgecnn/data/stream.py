"""A training split whose pictures are decoded when they are asked for, in every epoch anew: for sets no cache holds.

What is in memory is an index: ids, labels and places. Which picture comes when is the business of whoever asks
(``train/order.py``); this reads them, in threads, a few batches ahead. Threads, because Pillow spends its time outside
the interpreter lock, and what they decode need not be copied from one process to another.

Not every picture has been looked at before. In the place of one that is broken stands the next one, by id, that is
not: so every process of a training, and every epoch, sees the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.data.items import ImageSet, Item, unwrapped
from edgecnn.data.packed import PackedImages, Place, most_broken
from edgecnn.data.preprocess import Pixels, apply
from edgecnn.data.splits import pick_stratified
from edgecnn.data.tensors import ImageTensors, labels_of
from edgecnn.errors import DataError, UsageError
from edgecnn.spec import Preprocess, Split

AHEAD = 2  # batches that are decoded while the one before them is learned
SAMPLE = 4096  # pictures that mean and std are taken from
_CHUNK = 16  # pictures that a thread decodes at a time
_IN_A_ROW = 100  # broken pictures beside each other: not pictures are broken then, but a file or a disk


class Decoded(NamedTuple):
    """``images`` (n, H, W, C) uint8, and the ``positions`` (n,) int64 that they are of."""

    images: Pixels
    positions: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageStream:
    """The training pictures of a set, sorted by id: a position is a place in that order.

    ``labels`` are as ``ImageTensors`` has them. ``files`` (N,) int64 numbers the file that each picture lies in, and
    ``offsets`` (N,) int64 says where in it; a picture that is a file of its own is the only one with its number.
    ``broken``: why each position cannot be used that could not be.
    """

    data: ImageSet
    items: tuple[Item, ...]
    p: Preprocess
    files: NDArray[np.int64]
    offsets: NDArray[np.int64]
    broken: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.items)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The labels of all pictures."""
        return labels_of(self.data, self.items)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all pictures."""
        return tuple(item.id for item in self.items)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of a picture."""
        return self.read(0)[0].shape

    def read(self, position: int) -> tuple[Pixels, int]:
        """The picture there, or the next one that is not broken, and the position of the one that it is.

        Raises ``DataError`` where there is none near.
        """
        reason = ""
        for used in range(position, position + min(_IN_A_ROW, len(self))):
            used %= len(self)
            try:
                return apply(self.p, self.data.read(self.items[used])), used
            except DataError as error:
                reason = self.broken[used] = error.message
        raise DataError(
            f"{_IN_A_ROW} pictures in a row cannot be read, the last one being {reason}",
            hint="look whether all files of the set are there and whole (edgecnn data check)",
        )

    def sample(self, count: int = SAMPLE) -> ImageTensors:
        """``count`` pictures that depend on nothing but the set, classes in their proportion."""
        wanted = {item.id for item in pick_stratified(self.items, count, 0, "channel statistics")}
        positions = np.array([place for place, item in enumerate(self.items) if item.id in wanted], np.int64)
        found = self.take(positions)
        ids = tuple(self.items[position].id for position in found.positions)
        return ImageTensors(found.images, self.labels[found.positions], ids)

    def take(self, positions: NDArray[np.int64], workers: int = 1) -> Decoded:
        """The pictures at these positions, in this order."""
        return next(self.decoded([positions], workers))

    def decoded(self, wanted: Iterable[NDArray[np.int64]], workers: int) -> Generator[Decoded, None, None]:
        """The pictures of one batch of positions after the other, decoded by ``workers`` threads up to ``AHEAD`` ahead.

        Raises what ``read`` raises. To be closed when it is left before its end.
        """
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        waiting: deque[_Batch] = deque()
        try:
            for positions in wanted:
                waiting.append(_Batch(self, positions, pool))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().done()
            while waiting:
                yield waiting.popleft().done()
        finally:
            pool.shutdown(cancel_futures=True)


class _Batch:
    """A batch that is being decoded, some pictures at a time."""

    def __init__(self, stream: ImageStream, positions: NDArray[np.int64], pool: ThreadPoolExecutor) -> None:
        self.found = Decoded(np.empty((len(positions), *stream.shape), np.uint8), np.empty(len(positions), np.int64))
        self.parts: list[Future[None]] = []
        for start in range(0, len(positions), _CHUNK):
            self.parts.append(pool.submit(self._decode, stream, positions[start : start + _CHUNK], start))

    def _decode(self, stream: ImageStream, positions: NDArray[np.int64], start: int) -> None:
        for row, position in enumerate(positions.tolist(), start):
            self.found.images[row], self.found.positions[row] = stream.read(position)

    def done(self) -> Decoded:
        """The batch once it is whole."""
        for part in self.parts:
            part.result()
        return self.found


def open_stream(data: ImageSet, p: Preprocess) -> ImageStream:
    """The training split as a stream. Raises ``UsageError`` for a set that can only be read from its beginning."""
    items = data.splits[Split.TRAIN]
    whole = unwrapped(data)
    if not isinstance(whole, PackedImages):  # a file for each picture, or a set that lies in memory
        return ImageStream(data, items, p, np.arange(len(items)), np.zeros(len(items), np.int64))
    if whole.place is None:
        raise UsageError(
            f"{data.name} cannot be streamed: Parquet and Arrow files have no picture at a place of its own",
            hint="write WebDataset shards (NAME.jpg and NAME.cls in tar files) of about 1,000 pictures each",
        )
    files, offsets = _places(items, [whole.place(item.id) for item in items])
    return ImageStream(data, items, p, files, offsets)


def readable(data: ImageSet, items: Sequence[Item]) -> tuple[Item, ...]:
    """Those of a few items that can be decoded, where not all of the set were when it was opened."""

    def fine(item: Item) -> bool:
        try:
            data.read(item)
        except DataError:
            return False
        return True

    return tuple(item for item in items if fine(item))


def check_broken(stream: ImageStream, skipped: Collection[int]) -> None:
    """Raise ``DataError`` where more pictures were skipped than a set may have broken ones."""
    most = most_broken(len(stream))
    if len(skipped) > most:
        told = [stream.broken.get(position, stream.items[position].id) for position in sorted(skipped)]
        raise DataError(
            "\n  ".join(
                [f"more than {most} of {len(stream)} training pictures of {stream.data.name} are broken:", *told]
            ),
            hint="replace them or leave them out; edgecnn data check decodes and lists all",
        )


def _places(items: Sequence[Item], places: Sequence[Place]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    numbers = {file: number for number, file in enumerate(sorted({place.file for place in places}))}
    files = np.fromiter((numbers[place.file] for place in places), np.int64, len(items))
    return files, np.fromiter((place.offset for place in places), np.int64, len(items))
