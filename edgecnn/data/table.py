"""Pictures that a table lists: a CSV file with a path and a class in each row, and perhaps a split.

| column | names | holds |
|---|---|---|
| the picture | ``file``, ``image``, ``path``, ``filename`` | a path, relative to the folder of the table, or absolute |
| the class | ``label``, ``class`` | any text |
| several labels | ``labels`` in the place of ``label`` | ``cat|indoors`` or ``cat;indoors``; empty: none of them |
| | one column for each label | 0 or 1 in every row |
| the split | ``split`` (may be missing) | train, val or test; in every row or not at all |
| the group | ``group`` (may be missing) | pictures of one thing, never to be torn apart where this package splits |
| the fold | ``fold`` (may be missing) | the fold for cross-validation: ``train --folds`` |

Other columns may be there and are kept. Commas, semicolons or tabs separate; the first line says which.

A table with a column ``label`` or ``class`` gives one class per picture, whatever the text in it, unless several are
asked for (``several``, which ``task=multi_label`` means). One with ``labels`` gives several. One with none of the three
does too: the columns of which most values are 0 or 1 are its labels. Labels are sorted, columns keep their order.
"""

from __future__ import annotations

import csv
import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from edgecnn.data.check import check_pictures
from edgecnn.data.folder import FolderImages, complete_splits, digest_of, report_problems
from edgecnn.data.grouping import split_grouped
from edgecnn.data.items import ImageSet, Item
from edgecnn.data.label_table import LABELS, Labelled, label_columns, labelled, sets_of_cells, sets_of_columns
from edgecnn.data.layout import SPLIT_FOLDERS, Classes, Found, class_problems
from edgecnn.data.splits import by_id, split_stratified
from edgecnn.errors import DataError
from edgecnn.spec import Split

TABLE_SUFFIXES = (".csv", ".tsv")
TABLE_HINT = "a table has a header with file and label, and perhaps split (train, val, test), group and fold"
LABELS_HINT = "in labels cat|indoors or cat;indoors, or a column of 0 and 1 for each label"
_FILE, _LABEL = ("file", "image", "path", "filename"), ("label", "class")
_SPLIT, _GROUP, _FOLD = "split", "group", "fold"


@dataclass(frozen=True)
class Row:
    """One row: the number of its line in the file, and its values by column name (lower case)."""

    line: int
    values: Mapping[str, str]


@dataclass(frozen=True)
class TableImages(FolderImages):
    """The pictures of a table; ``root`` is its folder, ``rows`` has the row of each id."""

    rows: Mapping[str, Row] = field(default_factory=dict)

    def column(self, name: str) -> dict[str, str]:
        """A column's value for every id. Raises ``DataError`` if there is no such column, or if it has gaps."""
        key = name.strip().lower()
        known = list(next(iter(self.rows.values())).values)
        if key not in known:
            raise DataError(f"{self.name} has no column {name!r}", hint=f"its columns are {', '.join(known)}")
        found = {id: row.values[key] for id, row in self.rows.items()}
        if empty := [f"line {self.rows[id].line}: no {name}" for id, value in found.items() if not value]:
            raise report_problems(self.root / self.name, empty, TABLE_HINT)
        return found


def groups_of(data: ImageSet) -> dict[str, str]:
    """The group of every id where a set has groups, else nothing."""
    return _optional(data, _GROUP)


def folds_of(data: ImageSet) -> dict[str, str]:
    """The fold of every id where a set has folds, else nothing."""
    return _optional(data, _FOLD)


def _optional(data: ImageSet, name: str) -> dict[str, str]:
    there = isinstance(data, TableImages) and name in next(iter(data.rows.values())).values
    return data.column(name) if there and isinstance(data, TableImages) else {}


def open_table(source: str, *, seed: int, fractions: tuple[float, float, float], several: bool = False) -> TableImages:
    """Read a table, check every picture that it lists, and split; ``several``: labels, not classes, also in ``label``.

    Raises ``DataError`` with all problems.
    """
    path = Path(source).expanduser()
    header, rows, problems = _read(path)
    file = _find(path, header, _FILE, "the pictures")
    marks = _mark_columns(header, rows)
    label = "" if marks else _find(path, header, (*_LABEL, LABELS), "their classes")
    several = several or label in ("", LABELS)
    listed = _collect(rows, file, "" if several else label, problems)
    for name in {_GROUP, _FOLD} & set(header):
        problems += [f"line {row.line}: no {name}" for row in rows if not row.values[name]]
    checked = check_pictures(path.parent, list(listed))
    problems += [f"line {listed[id].line}: {id}: {reason}" for id, reason in checked.broken.items()]
    found = (
        _several(listed, label, marks, checked.broken, problems) if several else _classes(listed, label, checked.broken)
    )
    problems.sort(key=_line_of)
    problems += found.problems
    if listed and Split.TRAIN not in found.given:
        problems.append("no row is in the train split")
    if problems:
        raise report_problems(path, problems, LABELS_HINT if several else TABLE_HINT)
    groups = {id: row.values[_GROUP] for id, row in listed.items()} if _GROUP in header else {}
    together = bool(groups) or several  # what holds several labels is divided as a group of them is
    divide = partial(split_grouped, labels=found.labels, groups=groups) if together else split_stratified
    splits, notes = complete_splits(found.given, seed, fractions, divide)
    return TableImages(
        name=path.name,
        root=path.parent,
        labels=found.labels,
        splits=splits,
        digest=_digest(digest_of(found.labels, found.given, checked.sizes), listed),
        notes=(*_torn(splits, groups), *found.notes, *notes),
        rows=listed,
    )


def _mark_columns(header: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """The columns of 0 and 1 that stand for labels, where no column holds classes or labels as text."""
    if {*_LABEL, LABELS} & set(header):
        return []
    return label_columns(header, [row.values for row in rows], (*_FILE, _SPLIT, _GROUP, _FOLD))


def _classes(listed: Mapping[str, Row], label: str, broken: Mapping[str, str]) -> Labelled:
    """One class for each picture."""
    found = Found(_by_split(listed, label), (), ())
    labels = found.labels
    given = {
        split: by_id(Item(id, labels.index(name)) for name, ids in classes.items() for id in ids)
        for split, classes in found.splits.items()
    }
    return Labelled(labels, given, tuple(class_problems(found, broken)))


def _several(
    listed: Mapping[str, Row], label: str, marks: Sequence[str], broken: Mapping[str, str], problems: list[str]
) -> Labelled:
    """Any number of labels for each picture; values that cannot be go to ``problems``."""
    values = {id: row.values for id, row in listed.items()}
    if label:
        sets = sets_of_cells({id: row[label] for id, row in values.items()})
        labels = sorted({name for names in sets.values() for name in names})
    else:
        sets, wrong = sets_of_columns(values, {id: row.line for id, row in listed.items()}, marks)
        labels, problems[:] = list(marks), [*problems, *wrong]
    return labelled(sets, {id: _split_of(row) for id, row in listed.items()}, labels, broken)


def _read(path: Path) -> tuple[list[str], list[Row], list[str]]:
    """The header, the rows, and what is wrong with their shape. Raises ``DataError`` where no table can be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            first = lines.readline()
            lines.seek(0)
            reader = csv.reader(lines, delimiter=max(",;\t", key=first.count), strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            rows: list[Row] = []
            problems: list[str] = []
            end = reader.line_num
            for values in reader:
                line, end = end + 1, reader.line_num  # a quoted value may go over several lines
                if len(values) == len(header):
                    rows.append(Row(line, dict(zip(header, (value.strip() for value in values), strict=True))))
                elif any(value.strip() for value in values):
                    problems.append(f"line {line}: {len(values)} values, the header has {len(header)}")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint=TABLE_HINT) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8", hint="save the table again as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}", hint="save the table again as CSV") from error
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{path}: the header names {', '.join(repeated)} more than once", hint="rename a column")
    return header, rows, problems


def _find(path: Path, header: Sequence[str], names: Sequence[str], what: str) -> str:
    found = [name for name in names if name in header]
    if len(found) != 1:
        several = f"{' and '.join(found)} may all mean {what}" if found else f"no column for {what}"
        raise DataError(
            f"{path}: {several}; its columns are {', '.join(header) or 'none'}",
            hint=f"name exactly one column {' or '.join(names)}",
        )
    return found[0]


def _collect(rows: Sequence[Row], file: str, label: str, problems: list[str]) -> dict[str, Row]:
    """The usable rows by id; what is wrong with the others goes to ``problems``. Without ``label`` it may be empty."""
    listed: dict[str, Row] = {}
    for row in rows:
        wrong = [f"no {name}" for name in (file, label) if name and not row.values[name]]
        split = row.values.get(_SPLIT)
        if split is not None and split.lower() not in SPLIT_FOLDERS:
            wrong.append(f"split {split!r} is none of train, val, test" if split else "no split")
        id = posixpath.normpath(row.values[file]) if row.values[file] else ""
        if id in listed:
            wrong.append(f"{id} is in line {listed[id].line} already")
        problems += [f"line {row.line}: {each}" for each in wrong]
        if not wrong:
            listed[id] = row
    return listed


def _by_split(listed: Mapping[str, Row], label: str) -> dict[Split, Classes]:
    """Ids by split and class; without a split column all are train."""
    found: dict[Split, Classes] = {}
    for id, row in listed.items():
        found.setdefault(_split_of(row), {}).setdefault(row.values[label], []).append(id)
    return {split: found[split] for split in Split if split in found} or {Split.TRAIN: {}}


def _split_of(row: Row) -> Split:
    return SPLIT_FOLDERS[row.values.get(_SPLIT, "train").lower()]


def _digest(pictures: str, listed: Mapping[str, Row]) -> str:
    """The digest of the pictures and of what the table says on how they are divided."""
    said = [f"{id}\t{row.values.get(_SPLIT, '')}\t{row.values.get(_GROUP, '')}" for id, row in listed.items()]
    return hashlib.sha256("\n".join([pictures, *sorted(said)]).encode()).hexdigest()


def _torn(splits: Mapping[Split, Sequence[Item]], groups: Mapping[str, str]) -> list[str]:
    """A note when the splits that the table gives tear groups apart."""
    where: dict[str, set[Split]] = {}
    for split, items in splits.items():
        for item in items:
            if item.id in groups:
                where.setdefault(groups[item.id], set()).add(split)
    torn = sorted(group for group, found in where.items() if len(found) > 1)
    if not torn:
        return []
    return [f"{len(torn)} groups lie in more than one split, such as {torn[0]!r}: that flatters the test figure"]


def _line_of(problem: str) -> int:
    return int(problem.removeprefix("line ").partition(":")[0])
