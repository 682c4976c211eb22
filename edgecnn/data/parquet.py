"""Pictures inside Parquet files, or in a data set that the package ``datasets`` has saved (Arrow files).

A row has a column ``image``, a struct of ``bytes`` (a picture file as it is) and ``path``, and a column ``label``
with a text or a number. Names for the numbers are taken from where ``datasets`` writes them: the schema's metadata. The
splits are told by the names of folders or files: ``train-00000-of-00002.parquet``, ``test/data-00000-of-00001.arrow``.

Nothing is unpacked: Arrow files are mapped into memory, of Parquet files the row group that was read last is kept.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecnn.catalog import require
from edgecnn.data.layout import SPLIT_FOLDERS, Classes
from edgecnn.data.packed import Packed, PackedImages, split_of
from edgecnn.errors import DataError
from edgecnn.spec import Split

SHARD_SUFFIXES = (".parquet", ".arrow")
PARQUET_HINT = "each row needs image (a struct of bytes and path) and label (a text or a number)"
_IMAGE, _LABEL = ("image", "img"), ("label", "labels", "class")


def shards_of(root: Path) -> list[Path]:
    """The Parquet and Arrow files at or under a path, up to two folders deep."""
    if root.is_file():
        return [root] if root.suffix.lower() in SHARD_SUFFIXES else []
    found = [path for pattern in ("*", "*/*", "*/*/*") for path in root.glob(pattern)]
    shards = sorted(path for path in found if path.suffix.lower() in SHARD_SUFFIXES and path.is_file())
    return [path for path in shards if not path.name.startswith((".", "cache-"))]  # datasets' own leftovers


def holds_shards(source: str) -> bool:
    """Whether a source is a Parquet or Arrow file, or a folder that has some where others have pictures."""
    root = Path(source).expanduser()
    if not root.is_dir():
        return root.suffix.lower() in SHARD_SUFFIXES
    marked = any((root / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
    places = [root, root / "data", *(root / word for word in SPLIT_FOLDERS)]
    patterns = [f"*{suffix}" for suffix in SHARD_SUFFIXES]
    return marked or any(next(place.glob(pattern), None) for place in places for pattern in patterns)


@dataclass
class Shard:
    """One file: its columns, and the pictures of one row group after the other."""

    path: Path
    schema: Any
    labels: list[Any]
    starts: list[int]
    read_group: Any
    _last: tuple[int, Any] = (-1, None)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def picture(self, row: int) -> Mapping[str, Any]:
        """The struct of a row: ``bytes`` and ``path``."""
        group = bisect_right(self.starts, row) - 1
        with self._lock:
            if self._last[0] != group:
                self._last = group, self.read_group(group)
            found = self._last[1][row - self.starts[group]].as_py()
        return found if isinstance(found, dict) else {"bytes": found}


def open_parquet(source: str, *, seed: int, fractions: tuple[float, float, float]) -> PackedImages:
    """Open shards, decode every picture once, and split as a folder is split.

    The id ``test-00000-of-00001/000007`` is row 7 (from 0) of the file of that name. Raises ``DataError`` with all
    problems, ``MissingPackageError`` without pyarrow.
    """
    root = Path(source).expanduser()
    if not root.exists():
        raise DataError(f"{source} does not exist", hint=PARQUET_HINT)
    files = shards_of(root)
    if not files:
        raise DataError(f"{root} has no .parquet or .arrow file", hint=PARQUET_HINT)
    base = root if root.is_dir() else root.parent
    shards = {path.relative_to(base).with_suffix("").as_posix(): _open_shard(path) for path in files}
    by_split: dict[Split, Classes] = {}
    order: dict[str, None] = {}  # the names of the classes that have pictures, in the order of their numbers
    problems: list[str] = []
    for key, shard in shards.items():
        names = _class_names(shard)
        there = set(shard.labels)
        order |= dict.fromkeys(names[number] for number in sorted(there & names.keys(), key=_number_first))
        classes = by_split.setdefault(split_of(key), {})
        for row, label in enumerate(shard.labels):
            if label in names:
                classes.setdefault(names[label], []).append(f"{key}/{row:06d}")
            else:
                problems.append(f"{key}/{row:06d}: no label" if label in (None, -1) else f"{key}/{row:06d}: {label!r}")
    packed = Packed(root, by_split, tuple(order), lambda id: _content(base, shards, id), PARQUET_HINT)
    return packed.opened(problems, seed=seed, fractions=fractions)


def _open_shard(path: Path) -> Shard:
    pa = require("pyarrow", extra="parquet")
    try:
        if path.suffix.lower() == ".parquet":
            file = require("pyarrow.parquet", extra="parquet").ParquetFile(path)
            image, label = _columns(path, file.schema_arrow.names)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            labels = file.read(columns=[label]).column(label).to_pylist()

            def read_group(group: int) -> Any:
                return file.read_row_group(group, columns=[image]).column(image)

            return Shard(path, file.schema_arrow, labels, _starts(sizes), read_group)
        table = _read_arrow(pa, path)
        image, label = _columns(path, table.column_names)
        return Shard(path, table.schema, table.column(label).to_pylist(), [0], lambda group: table.column(image))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {error}", hint="download or write the file again") from error


def _read_arrow(pa: Any, path: Path) -> Any:
    """The table of an Arrow file in either of its two layouts, mapped into memory."""
    content = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(content).read_all()  # what ``datasets`` writes
    except pa.ArrowInvalid:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _columns(path: Path, there: Sequence[str]) -> tuple[str, str]:
    found = [next((name for name in names if name in there), None) for names in (_IMAGE, _LABEL)]
    if found[0] is None or found[1] is None:
        lacking = " and ".join(names[0] for names, each in zip((_IMAGE, _LABEL), found, strict=True) if each is None)
        raise DataError(f"{path} has no column {lacking}; its columns are {', '.join(there)}", hint=PARQUET_HINT)
    return found[0], found[1]


def _starts(sizes: Sequence[int]) -> list[int]:
    starts = [0]
    for size in sizes[:-1]:
        starts.append(starts[-1] + size)
    return starts


def _class_names(shard: Shard) -> dict[Any, str]:
    """What each value of the label column means: a ClassLabel's names, or the value itself as text."""
    _, column = _columns(shard.path, shard.schema.names)
    try:
        features = json.loads((shard.schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        names = features[column].get("names")
    except (ValueError, KeyError, TypeError, AttributeError):
        names = None
    if names:
        return {number: str(name) for number, name in enumerate(names)}
    return {value: str(value) for value in set(shard.labels) if value is not None and value != "" and value != -1}


def _number_first(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value


def _content(root: Path, shards: Mapping[str, Shard], id: str) -> bytes | Path:
    """The bytes of a picture, or its path where the file has only that."""
    key, _, row = id.rpartition("/")
    picture = shards[key].picture(int(row))
    content, path = picture.get("bytes"), picture.get("path")
    if isinstance(content, bytes) and content:
        return content
    if path:
        return root / str(path)
    raise DataError("no picture in this row")
