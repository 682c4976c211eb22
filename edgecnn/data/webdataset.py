"""WebDataset shards: tar files whose members of one name, ``000017.jpg`` and ``000017.cls``, are one sample.

The format is the one of github.com/webdataset/webdataset: everything before the first dot of a member's name is the
sample's key, everything after it says what it holds: a picture (``jpg``, ``png``, ...), and its class in ``cls`` (a
number or a text) or in ``json`` (its ``label`` or ``cls``). Members of a sample lie one behind the other.

The tar files are never unpacked. Their headers are read once, and a picture is read at its place; so order, shuffling,
sharing among processes and going on after a kill are those of every other source, to the bit. Splits are told by the
names of files or folders, ``train-000000.tar``, as in Parquet shards.

Of a set that is streamed (``stream.py``) a sample is decoded when it is opened, and what is kept is its index: an id, a
class and 20 bytes per picture.
"""

from __future__ import annotations

import json
import re
import tarfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from edgecnn.data.layout import Classes
from edgecnn.data.packed import Packed, PackedImages, Place, read_place, split_of
from edgecnn.errors import DataError
from edgecnn.spec import Split

HINT = "a sample needs a picture and its class: NAME.jpg and NAME.cls (or NAME.json with a label)"
PICTURES = {"jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff", "gif"}
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass
class _Sample:
    key: str
    picture: tuple[int, int] | None = None
    label: str | None = None


@dataclass
class _Index:
    """What the headers of all files say: ids by split and class, and the place of each, in columns."""

    files: list[Path]
    by_split: dict[Split, Classes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    file: array[int] = field(default_factory=lambda: array("i"))
    offset: array[int] = field(default_factory=lambda: array("q"))
    size: array[int] = field(default_factory=lambda: array("q"))

    def place(self, id: str) -> Place:
        """Where the bytes of a picture are."""
        row = bisect_left(self.ids, id)
        return Place(self.files[self.file[row]], self.offset[row], self.size[row])

    def sort(self) -> None:
        """Bring the columns into the order of the ids, in which ``place`` looks for them."""
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)
        self.ids = [self.ids[row] for row in order]
        self.problems += [f"{id}: there twice" for id, other in pairwise(self.ids) if id == other]
        for name in ("file", "offset", "size"):
            column: array[int] = getattr(self, name)
            setattr(self, name, array(column.typecode, (column[row] for row in order)))


def shards_of(source: str) -> list[Path]:
    """The tar files that a source names: one, a folder of them, or a range such as ``set/train-{000..011}.tar``."""
    if (numbers := _RANGE.search(source)) is not None:
        first, last = numbers[1], numbers[2]
        names = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
        return [Path(source[: numbers.start()] + name + source[numbers.end() :]).expanduser() for name in names]
    root = Path(source).expanduser()
    return sorted(path for pattern in ("*.tar", "*/*.tar") for path in root.glob(pattern)) if root.is_dir() else [root]


def holds_tars(source: str) -> bool:
    """Whether a source is a tar file, a range of them, or a folder that has some."""
    return source.endswith(".tar") or (Path(source).expanduser().is_dir() and bool(shards_of(source)))


def open_webdataset(
    source: str, *, seed: int, fractions: tuple[float, float, float], sampled: bool = False
) -> PackedImages:
    """Open shards, decode every picture once (or, ``sampled``, a few of them), and split as a folder is split.

    The id ``train-000003/000017`` is the sample of that key in the file of that name. Raises ``DataError`` with all
    problems.
    """
    index = _indexed(tuple((file, _state(file)) for file in shards_of(source)))
    labels = sorted({label for classes in index.by_split.values() for label in classes}, key=_number_first)
    packed = Packed(
        Path(source), index.by_split, tuple(labels), lambda id: read_place(index.place(id)), HINT, index.place
    )
    return packed.opened(index.problems, seed=seed, fractions=fractions, sampled=sampled)


@lru_cache(maxsize=1)
def _indexed(files: tuple[tuple[Path, tuple[int, int]], ...]) -> _Index:
    """The index of files in a certain state: a set may be opened twice, before and after it is known how."""
    index = _Index([file for file, _ in files])
    for number, file in enumerate(index.files):
        classes = index.by_split.setdefault(split_of(f"{file.parent.name}/{file.stem}"), {})
        for sample in _samples(file):
            id = f"{file.stem}/{sample.key}"
            if sample.picture is None or sample.label is None:
                index.problems.append(f"{id}: no {'picture' if sample.picture is None else 'class'}")
                continue
            classes.setdefault(sample.label, []).append(id)
            index.ids.append(id)
            index.file.append(number)
            index.offset.append(sample.picture[0])
            index.size.append(sample.picture[1])
    index.sort()
    return index


def _state(file: Path) -> tuple[int, int]:
    """What tells a changed file; nothing of one that is not there: reading it will say so."""
    try:
        state = file.stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def _samples(file: Path) -> Iterator[_Sample]:
    """The samples of one file in their order. Raises ``DataError`` where it is no tar file."""
    try:
        with tarfile.open(file, "r:") as tar:
            sample: _Sample | None = None
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if sample is not None and sample.key != key:
                    yield sample
                if sample is None or sample.key != key:
                    sample = _Sample(key)
                _take(sample, kind.lower(), tar, member)
            if sample is not None:
                yield sample
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{file}: {error}", hint="name uncompressed tar files, and download damaged ones again"
        ) from error


def _take(sample: _Sample, kind: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Put what a member holds into its sample; kinds that are neither picture nor class are passed over."""
    if kind in PICTURES:
        sample.picture = member.offset_data, member.size
    elif kind in ("cls", "json"):
        content = tar.extractfile(member)
        text = content.read().decode(errors="replace").strip() if content else ""
        if kind == "json":
            text = _label_in(text)
        sample.label = text or sample.label


def _label_in(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        return ""
    label = found.get("label", found.get("cls")) if isinstance(found, dict) else None
    return "" if label is None else str(label)


def _number_first(label: str) -> tuple[bool, int, str]:
    return (False, int(label), "") if label.isdigit() else (True, 0, label)
