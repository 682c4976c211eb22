"""The door to all data: a name or a folder becomes an ``ImageSet``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from edgecnn.data.digits import open_digits
from edgecnn.data.folder import LISTED_PROBLEMS, open_folder
from edgecnn.data.items import ImageSet, Item
from edgecnn.data.splits import SPLIT_ORDER, check_fractions
from edgecnn.errors import DataError
from edgecnn.spec import Split

__all__ = ["ImageSet", "Item", "open_data", "split_ids", "with_splits"]


def open_data(source: str, *, seed: int = 0, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> ImageSet:
    """Open ``"digits"`` (embedded) or a folder of pictures, check every file, and split.

    A folder holds class folders, either directly (then it is split by ``fractions``, stratified, seeded) or inside
    ``train/`` with ``val/`` and ``test/`` beside it. What is missing is taken from ``train/``, stratified and seeded:

    * ``train/`` and ``test/``: the share ``fractions[1]`` of train becomes val;
    * ``train/`` and ``val/``: the given val is only ever looked at as the **test** split, and the share
      ``fractions[1]`` of train becomes val, so that choosing the best epoch does not spoil the figure that is
      reported;
    * ``train/`` alone: it is split by ``fractions``.

    Every file is decoded once, in threads, so that nothing can break in the middle of an epoch. Raises ``DataError``
    with all problems at once, ``UsageError`` for impossible fractions.
    """
    check_fractions(fractions)
    if source == "digits":
        return open_digits(seed=seed, fractions=fractions)
    return open_folder(source, seed=seed, fractions=fractions)


@dataclass(frozen=True)
class _Resplit:
    """Another set with other splits."""

    whole: ImageSet
    splits: Mapping[Split, tuple[Item, ...]]

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def labels(self) -> tuple[str, ...]:
        return self.whole.labels

    @property
    def digest(self) -> str:
        return self.whole.digest

    @property
    def notes(self) -> tuple[str, ...]:
        return self.whole.notes

    def read(self, item: Item) -> Image.Image:
        return self.whole.read(item)


def split_ids(data: ImageSet) -> dict[str, list[str]]:
    """The ids of each split as plain JSON values, for a bundle; ``with_splits`` restores them."""
    return {str(split): [item.id for item in data.splits[split]] for split in SPLIT_ORDER}


def with_splits(data: ImageSet, ids: Mapping[str, Sequence[str]]) -> ImageSet:
    """The same pictures with the splits that were listed before; pictures that are in no list are left out.

    So a set that has grown since training is still evaluated on the very pictures that were kept apart. Raises
    ``DataError`` naming the listed pictures that are gone, and those that are listed twice.
    """
    items = {item.id: item for split in SPLIT_ORDER for item in data.splits[split]}
    times_listed = Counter(id for split in SPLIT_ORDER for id in ids.get(split, ()))
    problems = [f"  {id}: listed, but not in {data.name}" for id in times_listed if id not in items]
    problems += [f"  {id}: listed {times} times" for id, times in times_listed.items() if times > 1]
    if problems:
        raise DataError(
            "\n".join(["the listed splits do not fit the pictures:", *problems[:LISTED_PROBLEMS]]),
            hint="open the data set that the list was made from",
        )
    return _Resplit(data, {split: tuple(items[id] for id in ids.get(split, ())) for split in SPLIT_ORDER})
