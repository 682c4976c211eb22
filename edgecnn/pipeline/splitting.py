"""Write down how a set is split: a table of its pictures that is itself a source."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecnn.bundle import write_atomically
from edgecnn.data.folder import LISTED_PROBLEMS, FolderImages
from edgecnn.data.grouping import make_folds, split_grouped
from edgecnn.data.items import Item, has_many_labels, many_labels
from edgecnn.data.label_table import LABELS
from edgecnn.data.splits import SPLIT_ORDER, by_id, check_fractions, split_stratified
from edgecnn.data.table import TABLE_SUFFIXES, TableImages, groups_of
from edgecnn.errors import DataError, UsageError
from edgecnn.pipeline.context import opened
from edgecnn.spec import Split


@dataclass(frozen=True)
class Division:
    """The splits of a set, its folds (none unless they were asked for), and the group of each id (perhaps none)."""

    labels: tuple[str, ...]
    splits: Mapping[Split, tuple[Item, ...]]
    folds: Sequence[tuple[Item, ...]] = ()
    groups: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Counts of pictures, groups and classes in each split and fold, in words."""
        parts = [(str(split), items) for split, items in self.splits.items()]
        parts += [(f"fold {number}", items) for number, items in enumerate(self.folds, 1)]
        return [self._line(name, items) for name, items in parts]

    def _line(self, name: str, items: Sequence[Item]) -> str:
        found = Counter(label for item in items for label in item.labels)
        classes = ", ".join(f"{label} {found[index]}" for index, label in enumerate(self.labels))
        groups = f" in {len({self.groups[item.id] for item in items})} groups" if self.groups else ""
        return f"{name}: {len(items)} pictures{groups}; {classes}"


def split(
    source: str,
    out: Path,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    *,
    group_by: str | None = None,
    group_column: str | None = None,
    folds: int | None = None,
    seed: int = 0,
) -> Division:
    """Pool all pictures of ``source``, split them by ``fractions``, and write the table ``out``.

    Groups are told by the first capture group of the regular expression ``group_by`` in a picture's path, or by a
    column of a table (``group``, when it has one and neither is given); none is ever torn apart. With ``folds`` every
    picture also gets the number of its fold. Raises ``UsageError``, and ``DataError`` when a class cannot be in each
    split or fold.
    """
    check_fractions(fractions)
    if out.suffix.lower() != TABLE_SUFFIXES[0]:
        raise UsageError(f"{out} is not called .csv", hint="a source is known to be a table by its name: -o split.csv")
    if group_by is not None and group_column is not None:
        raise UsageError("groups are told in two ways", hint="give --group-by or --group-column, not both")
    if out.exists() and out.resolve() == Path(source).resolve():
        raise UsageError(f"{out} is the source itself", hint="write another file")
    data = opened(source, seed)
    if not isinstance(data, FolderImages):
        raise UsageError(
            f"the pictures of {source} are not files that a table could name",
            hint="give a folder or a CSV; train --folds needs no table",
        )
    items = by_id(item for each in data.splits.values() for item in each)
    groups = _groups(data, items, group_by, group_column)
    weights = dict(zip(SPLIT_ORDER, fractions, strict=True))
    together = bool(groups) or has_many_labels(data)
    splits = (
        split_grouped(items, weights, seed, data.labels, groups) if together else split_stratified(items, weights, seed)
    )
    parts = make_folds(items, folds, seed, data.labels, groups) if folds is not None else []
    made = Division(data.labels, splits, parts, groups)
    write_atomically(out, _table(made, data.root, out))
    return made


def _groups(data: FolderImages, items: Iterable[Item], pattern: str | None, column: str | None) -> dict[str, str]:
    if column is not None:
        if not isinstance(data, TableImages):
            raise UsageError(f"{data.name} is not a table: it has no columns", hint="use --group-by with a folder")
        return data.column(column)
    return groups_of(data) if pattern is None else groups_by(pattern, items)


def groups_by(pattern: str, items: Iterable[Item]) -> dict[str, str]:
    """The group of each id: what the first capture group of ``pattern`` finds in it.

    Raises ``UsageError`` for a pattern that cannot tell groups, ``DataError`` naming the ids in which it finds nothing.
    """
    try:
        search = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{pattern!r} is not a regular expression: {error}", hint=r"such as '(patient\d+)'") from error
    if not search.groups:
        raise UsageError(f"{pattern!r} has no capture group", hint=r"put what tells groups in brackets: '(patient\d+)'")
    found = {item.id: match[1] if (match := search.search(item.id)) else None for item in items}
    if without := [id for id, group in found.items() if not group]:
        listed = [f"  {id}" for id in without[:LISTED_PROBLEMS]]
        raise DataError(
            "\n".join([f"{pattern!r} finds no group in {len(without)} of {len(found)} pictures:", *listed]),
            hint="change the expression so that it finds something in every path",
        )
    return {id: group for id, group in found.items() if group}


def _table(made: Division, root: Path, out: Path) -> str:
    """The table's text: file (from the folder of ``out``), label, split, and fold and group where there are any."""
    folds = {item.id: str(number) for number, items in enumerate(made.folds, 1) for item in items}
    more = {name: values for name, values in (("fold", folds), ("group", made.groups)) if values}
    rows = sorted(((item, split) for split, items in made.splits.items() for item in items), key=lambda row: row[0].id)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    label = LABELS if many_labels([row[0] for row in rows]) else "label"
    writer.writerow(["file", label, "split", *more])
    home, base = out.parent.resolve(), root.resolve()
    for item, split in rows:
        file = Path(os.path.relpath(base / item.id, home)).as_posix()
        writer.writerow([file, item.words(made.labels), str(split), *(values[item.id] for values in more.values())])
    return text.getvalue()
