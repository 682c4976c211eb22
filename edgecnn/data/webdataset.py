"""WebDataset shards: tar files whose members of one name, ``000017.jpg`` and ``000017.cls``, are one sample.

The format is the one of github.com/webdataset/webdataset: everything before the first dot of a member's name is the
sample's key, everything after it says what it holds: a picture (``jpg``, ``png``, ...), and its class in ``cls`` (a
number or a text) or in ``json`` (its ``label`` or ``cls``). Members of a sample lie one behind the other.

The tar files are never unpacked. Their headers are read once, and a picture is read at its place; so order, shuffling,
sharing among processes and going on after a kill are those of every other source, to the bit. Splits are told by the
names of files or folders, ``train-000000.tar``, as in Parquet shards.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecnn.data.layout import Classes
from edgecnn.data.packed import Packed, PackedImages, split_of
from edgecnn.errors import DataError
from edgecnn.spec import Split

HINT = "a sample needs a picture and its class: NAME.jpg and NAME.cls (or NAME.json with a label)"
PICTURES = {"jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff", "gif"}
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Place:
    """Where the bytes of a picture are."""

    file: Path
    offset: int
    size: int


@dataclass
class _Sample:
    key: str
    picture: Place | None = None
    label: str | None = None


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


def open_webdataset(source: str, *, seed: int, fractions: tuple[float, float, float]) -> PackedImages:
    """Open shards, decode every picture once, and split as a folder is split.

    The id ``train-000003/000017`` is the sample of that key in the file of that name. Raises ``DataError`` with all
    problems.
    """
    by_split: dict[Split, Classes] = {}
    places: dict[str, Place] = {}
    problems: list[str] = []
    for file in shards_of(source):
        split = split_of(f"{file.parent.name}/{file.stem}")
        for sample in _samples(file):
            id = f"{file.stem}/{sample.key}"
            if sample.picture is None or sample.label is None:
                problems.append(f"{id}: no {'picture' if sample.picture is None else 'class'}")
            elif id in places:
                problems.append(f"{id}: there twice")
            else:
                places[id] = sample.picture
                by_split.setdefault(split, {}).setdefault(sample.label, []).append(id)
    labels = sorted({label for classes in by_split.values() for label in classes}, key=_number_first)
    packed = Packed(Path(source), by_split, tuple(labels), lambda id: _bytes(places[id]), HINT)
    return packed.opened(problems, seed=seed, fractions=fractions)


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
                _take(sample, kind.lower(), tar, member, file)
            if sample is not None:
                yield sample
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{file}: {error}", hint="name uncompressed tar files, and download damaged ones again"
        ) from error


def _take(sample: _Sample, kind: str, tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> None:
    """Put what a member holds into its sample; kinds that are neither picture nor class are passed over."""
    if kind in PICTURES:
        sample.picture = Place(file, member.offset_data, member.size)
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


def _bytes(place: Place) -> bytes:
    try:
        with place.file.open("rb") as file:
            file.seek(place.offset)
            return file.read(place.size)
    except OSError as error:
        raise DataError(f"{place.file}: {error.strerror}") from error


def _number_first(label: str) -> tuple[bool, int, str]:
    return (False, int(label), "") if label.isdigit() else (True, 0, label)
