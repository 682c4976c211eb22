"""From pictures to arrays: what training, calibration and evaluation feed to networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecnn.data.items import ImageSet, Item, has_many_labels
from edgecnn.data.memory import memory_limit
from edgecnn.data.parallel import in_threads
from edgecnn.data.preprocess import Pixels, apply
from edgecnn.data.splits import pick_stratified, shuffled
from edgecnn.errors import DataError, UsageError
from edgecnn.spec import Interpolation, Preprocess, Split
from edgecnn.tasks import Labels

_BLOCK = 512  # pictures in flight at once when streaming


@dataclass(frozen=True)
class ImageTensors:
    """Preprocessed pictures.

    ``images`` (N, H, W, C) uint8, of 3 channels or 1, ``labels`` (N,) int64 class numbers, or (N, K) uint8 of 0 and 1
    where a picture may have several, ``ids`` N names, all in the same order.
    """

    images: NDArray[np.uint8]
    labels: Labels
    ids: tuple[str, ...]

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.ids)


def load_split(data: ImageSet, split: Split, p: Preprocess, *, limit: int | None = None, seed: int = 0) -> ImageTensors:
    """All pictures of a split, sorted by id; or ``limit`` of them, chosen by ``seed``, classes in their proportion.

    What would take more memory than ``memory.memory_limit`` lies in a file of the cache, mapped into memory. Raises
    ``UsageError`` if ``limit`` is not positive, ``DataError`` if the disk has no room.
    """
    items = data.splits[split]
    if limit is not None:
        items = pick_stratified(items, limit, seed, f"limit {split}")
    if len(items) * p.size * p.size * p.channels > memory_limit():
        from edgecnn.data.mapped import load_mapped  # needs the file locks of POSIX systems

        return ImageTensors(load_mapped(data, items, p), labels_of(data, items), tuple(item.id for item in items))
    return load_items(data, items, p)


def load_items(data: ImageSet, items: Sequence[Item], p: Preprocess) -> ImageTensors:
    """The given pictures, in the given order, in memory."""
    images = np.empty((len(items), p.size, p.size, p.channels), np.uint8)

    def load(position: int) -> None:
        images[position] = apply(p, data.read(items[position]))

    for _ in in_threads(load, range(len(items))):
        pass
    return ImageTensors(images, labels_of(data, items), tuple(item.id for item in items))


def iter_batches(data: ImageSet, items: Sequence[Item], p: Preprocess, batch_size: int) -> Iterator[ImageTensors]:
    """The given pictures in batches, in order; one batch is in memory at a time, however many items there are.

    Raises ``UsageError`` if ``batch_size`` is not positive.
    """
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}", hint="give a batch size of at least 1")
    for start in range(0, len(items), batch_size):
        yield load_items(data, items[start : start + batch_size], p)


def channel_stats(
    data: ImageSet, p: Preprocess, *, mode: str = "uniform", limit: int | None = None, seed: int = 0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the training split's pixels, in units of [0, 1].

    Only the geometry of ``p`` and its number of channels are used, not its mean and std.

    Args:
        mode: ``"uniform"``: one mean and one std for all channels, 255 * mean rounded to a whole number, so that
            normalization folds exactly into the scale and zero point of a quantized input. ``"per_channel"``: plain.
        limit: use so many pictures (stratified, seeded) instead of the whole split.

    Raises ``DataError`` if all pixels are equal, ``UsageError`` for another mode.
    """
    items = data.splits[Split.TRAIN]
    if limit is not None:
        items = pick_stratified(items, limit, seed, "channel statistics")
    counts = np.zeros((p.channels, 256), np.int64)
    for batch in iter_batches(data, items, p, _BLOCK):
        counts += count_levels(batch.images)
    return stats_of_levels(counts, mode)


def fit_preprocess(
    data: ImageSet,
    size: int,
    *,
    interpolation: Interpolation = Interpolation.BILINEAR,
    crop_fraction: float = 1.0,
    mode: str = "uniform",
    limit: int | None = None,
    channels: int = 3,
) -> Preprocess:
    """The ``Preprocess`` for training from scratch at ``size`` pixels: given geometry, statistics of train.

    Raises as ``channel_stats``, and ``UsageError`` if ``size`` is not positive or ``crop_fraction`` not in (0, 1].
    """
    if size < 1 or not 0 < crop_fraction <= 1:
        raise UsageError(
            f"image size {size} and crop fraction {crop_fraction}",
            hint="the size is a positive number of pixels, the crop fraction a number above 0 and at most 1",
        )
    geometry = Preprocess(size, (0.0,) * channels, (1.0,) * channels, interpolation, crop_fraction)
    mean, std = channel_stats(data, geometry, mode=mode, limit=limit)
    return replace(geometry, mean=mean, std=std)


def count_levels(images: Pixels) -> NDArray[np.int64]:
    """How often each of the 256 levels occurs in each channel: images (N, H, W, C) uint8 -> (C, 256)."""
    channels = images.shape[3]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), _BLOCK):  # bincount makes eight bytes of each
        block = images[start : start + _BLOCK]
        counts += np.stack([np.bincount(block[..., c].ravel(), minlength=256) for c in range(channels)])
    return counts


def stats_of_levels(counts: NDArray[np.int64], mode: str = "uniform") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std from level counts (C, 256), exact whatever the order of the pictures; see ``channel_stats``.

    Raises ``DataError`` if all pixels are equal, ``UsageError`` for another mode.
    """
    if mode == "uniform":
        counts = np.repeat(counts.sum(axis=0, keepdims=True), len(counts), axis=0)
    elif mode != "per_channel":
        raise UsageError(f"channel statistics of kind {mode!r}", hint="choose uniform or per_channel")
    levels = np.arange(256)
    mean = counts @ levels / counts.sum(axis=1)
    if mode == "uniform":
        mean = np.round(mean)
    variance = (counts * (levels[None, :] - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1)
    if variance.min() == 0:
        raise DataError("all training pictures are of one plain colour", hint="check what the files contain")
    return tuple((mean / 255).tolist()), tuple((np.sqrt(variance) / 255).tolist())


def choose_calibration(data: ImageSet, count: int, seed: int) -> tuple[Item, ...]:
    """``count`` pictures of the training split for choosing quantization ranges; stratified, seeded, in mixed order.

    The first few of them, which are looked at more closely, are then of all classes, as those after them are.
    Validation and test pictures are never among them. All of train if it is smaller; ``UsageError`` if ``count`` < 1.
    """
    chosen = pick_stratified(data.splits[Split.TRAIN], count, seed, "calibration")
    return tuple(shuffled(chosen, seed, "order of calibration"))


def labels_of(data: ImageSet, items: Sequence[Item]) -> Labels:
    """The labels of some pictures of a set, as ``ImageTensors`` has them."""
    if not has_many_labels(data):
        return np.array([item.label for item in items], np.int64)
    matrix = np.zeros((len(items), len(data.labels)), np.uint8)
    for row, item in enumerate(items):
        matrix[row, list(item.labels)] = 1
    return matrix
