"""The door to all data: a name or a folder becomes an ``ImageSet``."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from edgecnn.data.folder import LISTED_PROBLEMS
from edgecnn.data.grouping import make_folds, split_grouped
from edgecnn.data.items import ImageSet, Item, many_labels
from edgecnn.data.kinds import kind_of
from edgecnn.data.splits import SPLIT_ORDER, by_id, check_fractions, pick_stratified, split_stratified
from edgecnn.data.table import folds_of, groups_of
from edgecnn.errors import DataError, UsageError
from edgecnn.spec import Split

__all__ = ["ImageSet", "Item", "open_data", "split_ids", "with_splits"]

FOLD_VAL_SHARE = 0.1  # of the pictures outside the fold
_FOLD = re.compile(r"(?P<source>.+)#fold=(?P<number>[1-9]\d*)/(?P<count>[1-9]\d*)")


def open_data(
    source: str,
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    sampled: bool = False,
    several: bool = False,
) -> ImageSet:
    """Open ``"digits"`` (embedded), a folder of pictures or another source of ``kinds``; check every file, and split.

    A folder holds class folders, either directly (then it is split by ``fractions``, stratified, seeded) or inside
    ``train/`` with ``val/`` and ``test/`` beside it. What is missing is taken from ``train/``, stratified and seeded:

    * ``train/`` and ``test/``: the share ``fractions[1]`` of train becomes val;
    * ``train/`` and ``val/``: the given val is only ever looked at as the **test** split, and the share
      ``fractions[1]`` of train becomes val, so that choosing the best epoch does not spoil the figure that is
      reported;
    * ``train/`` alone: it is split by ``fractions``.

    A table (CSV) and a set in Parquet are split in the same way, by a column or by the names of files.

    ``SOURCE#fold=2/5`` is the second of five folds: the fold is the **test** split, a tenth of all other pictures is
    val and chooses the epoch. See ``one_fold``.

    With ``several`` a class such as ``cat|indoors`` is taken for several labels, where the source can have those; a
    table that says so itself is read that way in any case. See ``table``.

    Every file is decoded once, in threads, so that nothing can break in the middle of an epoch; with ``sampled`` only
    some are, where the source is of a kind that can be streamed from larger files. Raises ``DataError`` with all
    problems at once, ``UsageError`` for impossible fractions.
    """
    check_fractions(fractions)
    whole, number, count = parse_fold(source)
    if count:
        return one_fold(_opened_whole(whole, seed, fractions, sampled, several), number, count, seed)
    return _open(source, seed, fractions, sampled, several)


def can_sample(source: str) -> bool:
    """Whether a source can be opened without decoding all of it."""
    return kind_of(parse_fold(source)[0]).open_sampled is not None


def _open(source: str, seed: int, fractions: tuple[float, float, float], sampled: bool, several: bool) -> ImageSet:
    kind = kind_of(source)
    opener = (kind.open_sampled if sampled else None) or (kind.open_labels if several else None) or kind.open
    return opener(source, seed=seed, fractions=fractions)


@lru_cache(maxsize=1)
def _opened_whole(
    source: str, seed: int, fractions: tuple[float, float, float], sampled: bool, several: bool
) -> ImageSet:
    """The set that folds are made of: all its pictures are checked once, not once for each fold."""
    return _open(source, seed, fractions, sampled, several)


def parse_fold(source: str) -> tuple[str, int, int]:
    """The source, the number of the fold and how many there are; 0 and 0 for a source that is whole."""
    match = _FOLD.fullmatch(source)
    return (match["source"], int(match["number"]), int(match["count"])) if match else (source, 0, 0)


def name_fold(source: str, number: int, count: int) -> str:
    """The source that is one fold of ``source``."""
    return f"{source}#fold={number}/{count}"


def place_of(source: str) -> str:
    """A source as manifests write it: names as they are, paths absolute, and which fold it is."""
    whole, number, count = parse_fold(source)
    place = str(Path(whole).resolve()) if kind_of(whole).is_path else whole
    return name_fold(place, number, count) if count else place


def is_there(source: str) -> bool:
    """Whether there is something to open: names always are, paths may be gone."""
    whole, _, _ = parse_fold(source)
    return not kind_of(whole).is_path or Path(whole).exists()


@dataclass(frozen=True)
class _Resplit:
    """Another set with other splits."""

    whole: ImageSet
    splits: Mapping[Split, tuple[Item, ...]]
    own_digest: str = ""

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def labels(self) -> tuple[str, ...]:
        return self.whole.labels

    @property
    def digest(self) -> str:
        return self.own_digest or self.whole.digest

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


def with_val_share(data: ImageSet, share: float) -> ImageSet:
    """The same pictures with ``share`` of train and val together as val, stratified; the rest of both is train.

    Of many pictures a few hundred are enough to choose the best epoch, and every other one can be learned from.
    """
    both = (*data.splits[Split.TRAIN], *data.splits[Split.VAL])
    weights = {Split.TRAIN: 1 - share, Split.VAL: share}
    several = many_labels(both)
    halves = split_grouped(both, weights, 0, data.labels) if several else split_stratified(both, weights, 0)
    return _Resplit(data, {**halves, Split.TEST: data.splits[Split.TEST]})


def with_most(data: ImageSet, most: int) -> ImageSet:
    """The same pictures with at most so many in val and in test, classes in their proportion; the others are left out.

    What is validated and tested lies in memory or in a mapped file: of a set of any size that must have an end.
    """
    if max(len(data.splits[split]) for split in (Split.VAL, Split.TEST)) <= most:
        return data
    few = {split: pick_stratified(data.splits[split], most, 0, f"limit {split}") for split in (Split.VAL, Split.TEST)}
    return _Resplit(data, {Split.TRAIN: data.splits[Split.TRAIN], **few})


def one_fold(data: ImageSet, number: int, count: int, seed: int) -> ImageSet:
    """One of ``count`` folds as the test split; of all other pictures a tenth is val and the rest train.

    The splits of the whole set are pooled. A table's column ``fold`` says where the folds are, else they are stratified
    and seeded; what the column ``group`` keeps together is in one split. The fold has no say in anything before the
    figure that is reported: val alone chooses the epoch. Raises ``UsageError`` for a fold that does not exist,
    ``DataError`` when a class cannot be in each split.
    """
    items = [item for split in SPLIT_ORDER for item in data.splits[split]]
    groups = groups_of(data)
    if not 1 <= number <= count:
        raise UsageError(f"there is no fold {number} of {count}", hint=f"give 1 to {count}")
    if given := folds_of(data):
        test = _given_fold(data, items, given, number, count)
        _check_groups(data, given, groups)
    else:
        test = make_folds(items, count, seed, data.labels, groups)[number - 1]
    inside = {item.id for item in test}
    rest = [item for item in items if item.id not in inside]
    weights = {Split.TRAIN: 1 - FOLD_VAL_SHARE, Split.VAL: FOLD_VAL_SHARE}
    splits = {**split_grouped(rest, weights, seed, data.labels, groups), Split.TEST: test}
    # Unlike other sets, which may be split anew: trainings on two folds are never the same training.
    listed = [f"{split} {item.id}" for split in SPLIT_ORDER for item in splits[split]]
    digest = hashlib.sha256("\n".join([data.digest, *listed]).encode()).hexdigest()
    return _Resplit(data, splits, digest)


def _given_fold(
    data: ImageSet, items: Sequence[Item], given: Mapping[str, str], number: int, count: int
) -> tuple[Item, ...]:
    names = sorted(set(given.values()), key=lambda name: (len(name), name))  # "10" after "9"
    if len(names) != count:
        raise UsageError(
            f"the column fold of {data.name} has {len(names)} folds, not {count}: {', '.join(names[:10])}",
            hint=f"use --folds {len(names)}, or remove the column",
        )
    found = by_id(item for item in items if given[item.id] == names[number - 1])
    if absent := set(range(len(data.labels))) - {label for item in found for label in item.labels}:
        classes = ", ".join(repr(data.labels[label]) for label in sorted(absent))
        raise DataError(
            f"fold {names[number - 1]} of {data.name} has no picture of {classes}",
            hint="make the folds with: edgecnn data split --folds",
        )
    return found


def _check_groups(data: ImageSet, given: Mapping[str, str], groups: Mapping[str, str]) -> None:
    places = {(groups[id], fold) for id, fold in given.items() if id in groups}
    torn = sorted(group for group, times in Counter(group for group, _ in places).items() if times > 1)
    if torn:
        raise DataError(
            f"{len(torn)} groups of {data.name} lie in more than one fold, such as {torn[0]!r}",
            hint="make the folds with: edgecnn data split --folds",
        )
