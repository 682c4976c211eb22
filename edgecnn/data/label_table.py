"""Tables in which a picture has several labels, or none: which columns say so, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from edgecnn.data.items import MANY, SEPARATOR, Item
from edgecnn.data.splits import by_id
from edgecnn.spec import Split

LABELS = "labels"
_SEPARATORS = re.compile(r"[|;]")


@dataclass(frozen=True)
class Labelled:
    """Labels in their order, pictures by split (none is empty), what is wrong with them, and what is worth telling."""

    labels: tuple[str, ...]
    given: Mapping[Split, tuple[Item, ...]]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def label_columns(header: Sequence[str], rows: Sequence[Mapping[str, str]], others: Collection[str]) -> list[str]:
    """The columns that stand for a label: those, beside ``others``, of which most values are 0 or 1.

    A value that is neither is then a mistake (``sets_of_columns`` says so), while a column of something else, the age
    or the camera, is none.
    """
    found = []
    for name in header:
        marked = sum(row[name] in ("0", "1") for row in rows)
        if name not in others and 2 * marked > len(rows):
            found.append(name)
    return found


def sets_of_cells(cells: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Id -> its labels, from a cell such as ``cat|indoors`` or ``cat; indoors``; an empty one has none."""
    return {
        id: tuple(dict.fromkeys(name for part in _SEPARATORS.split(cell) if (name := part.strip())))
        for id, cell in cells.items()
    }


def sets_of_columns(
    rows: Mapping[str, Mapping[str, str]], lines: Mapping[str, int], columns: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Id -> the columns in which its row has a 1, and the values that are neither 0 nor 1, with their lines."""
    problems = [
        f"line {lines[id]}: {name} is {row[name]!r}, wanted 0 or 1"
        for id, row in rows.items()
        for name in columns
        if row[name] not in ("0", "1")
    ]
    return {id: tuple(name for name in columns if row[name] == "1") for id, row in rows.items()}, problems


def labelled(
    sets: Mapping[str, Collection[str]],
    splits: Mapping[str, Split],
    labels: Sequence[str],
    broken: Collection[str],
) -> Labelled:
    """Items from the labels and the split of each id; ``broken`` pictures do not count for what a split needs."""
    number = {name: index for index, name in enumerate(labels)}
    items = {id: Item(id, MANY, tuple(sorted(number[name] for name in names))) for id, names in sets.items()}
    given = {
        split: found for split in Split if (found := by_id(item for id, item in items.items() if splits[id] is split))
    }
    problems = [f"label {name!r} holds a {SEPARATOR}: it separates labels" for name in labels if SEPARATOR in name]
    notes = []
    for index, name in enumerate(labels):
        with_it = {
            split: sum(index in item.labels and item.id not in broken for item in part) for split, part in given.items()
        }
        problems += _too_few(name, with_it)
        if sum(with_it.values()) == len(items) - len(broken):
            notes.append(f"every picture has the label {name!r}: there is nothing to learn about it")
    if not labels:
        problems.append("no row has a label")
    return Labelled(tuple(labels), given, tuple(problems), tuple(notes))


def _too_few(name: str, with_it: Mapping[Split, int]) -> list[str]:
    """The splits that have too few pictures with a label: train lends one to each split that is taken from it."""
    needed = {split: 4 - len(with_it) if split is Split.TRAIN else 1 for split in with_it}
    return [
        f"label {name!r} is on {count} usable pictures in {f'{split}/' if len(with_it) > 1 else 'the set'}, "
        f"at least {needed[split]} are needed"
        for split, count in with_it.items()
        if count < needed[split]
    ]
