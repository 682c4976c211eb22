"""Pictures packed into larger files: what a set of them needs beside the way to get at the bytes of one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from edgecnn.data.check import shape_problem
from edgecnn.data.folder import complete_splits, digest_of, report_problems
from edgecnn.data.items import Item
from edgecnn.data.layout import SPLIT_FOLDERS, Classes, Found, class_problems
from edgecnn.data.parallel import in_threads
from edgecnn.data.preprocess import decode, load_picture
from edgecnn.data.splits import by_id
from edgecnn.errors import DataError
from edgecnn.spec import Split

CHECKED = 256  # pictures that are decoded when a set is opened that is too large to decode all of it
BROKEN_PERCENT = 1  # of the pictures of such a set may be broken; one always
SAMPLE_LENIENCY = 3  # times as many in the sample, which may have more than its share

Content = Callable[[str], bytes | Path]
"""From a picture's id to its bytes as a file would have them, or to its path. Raises ``DataError`` without a place."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a picture are."""

    file: Path
    offset: int
    size: int


@dataclass(frozen=True)
class PackedImages:
    """Pictures in larger files."""

    name: str
    labels: tuple[str, ...]
    splits: Mapping[Split, tuple[Item, ...]]
    digest: str
    notes: tuple[str, ...]
    content: Content
    place: Callable[[str], Place] | None = None

    def read(self, item: Item) -> Image.Image:
        """Decode one picture to upright 8-bit RGB. Raises ``DataError``."""
        try:
            picture = _decoded(self.content(item.id))
            if problem := shape_problem(picture):  # where not every picture was looked at when the set was opened
                raise DataError(problem)
            return picture
        except DataError as error:
            raise DataError(f"{item.id}: {error.message}", hint="replace or remove the picture") from error


@dataclass(frozen=True)
class Packed:
    """What was found in the files: ids by split and class, the classes in their order, and how to read one picture.

    ``place`` says where a picture's bytes are, where that is known without reading them.
    """

    root: Path
    by_split: Mapping[Split, Classes]
    labels: tuple[str, ...]
    content: Content
    hint: str
    place: Callable[[str], Place] | None = None

    def opened(
        self, problems: Sequence[str], *, seed: int, fractions: tuple[float, float, float], sampled: bool = False
    ) -> PackedImages:
        """Decode every picture once, and split as a folder is split. Raises ``DataError`` with all problems.

        ``sampled``: decode ``CHECKED`` pictures only, where places are known. Few broken ones among them are a note.
        """
        found = Found({split: self.by_split[split] for split in Split if split in self.by_split}, (), ())
        if Split.TRAIN not in found.splits:
            raise DataError(
                f"{self.root} has no train split", hint="name its files train-..., validation-... and test-..."
            )
        place = self.place if sampled else None
        seen = found.pictures if place is None else _sample(found.pictures)
        looked = dict(zip(seen, in_threads(self._look, seen), strict=True))
        broken = {id: reason for id, (_, reason) in looked.items() if reason}
        reasons = [f"{id}: {reason}" for id, reason in broken.items()]
        few = place is not None and len(reasons) <= SAMPLE_LENIENCY * most_broken(len(seen))
        if told := [*problems, *([] if few else reasons), *class_problems(found, broken)]:
            raise report_problems(self.root, told, self.hint)
        numbers = {name: number for number, name in enumerate(self.labels)}
        given = {
            split: by_id(Item(id, numbers[name]) for name, ids in classes.items() for id in ids)
            for split, classes in found.splits.items()
        }
        splits, notes = complete_splits(given, seed, fractions)
        if place is None:
            sizes = {id: size for id, (size, _) in looked.items()}
        else:
            sizes = {id: place(id).size for id in found.pictures}
            notes += [f"{len(seen)} of {len(sizes)} pictures were decoded to check them", *reasons]
        digest = digest_of(self.labels, given, sizes)
        name = self.root.resolve().name
        return PackedImages(name, self.labels, splits, digest, tuple(notes), self.content, self.place)

    def _look(self, id: str) -> tuple[int, str]:
        """The size in bytes, and the reason against the picture if it cannot be used."""
        try:
            content = self.content(id)
            problem = shape_problem(_decoded(content))
            return (content.stat().st_size if isinstance(content, Path) else len(content)), problem
        except DataError as error:
            return 0, error.message


def most_broken(pictures: int) -> int:
    """How many of so many pictures may be broken where not all were decoded before they are used."""
    return max(1, pictures * BROKEN_PERCENT // 100)


def read_place(place: Place) -> bytes:
    """The bytes there. Raises ``DataError`` where the file cannot be read."""
    try:
        with place.file.open("rb") as file:
            file.seek(place.offset)
            return file.read(place.size)
    except OSError as error:
        raise DataError(f"{place.file}: {error.strerror}") from error


def _sample(ids: Sequence[str]) -> list[str]:
    """``CHECKED`` ids, evenly spread over the splits, classes and files in whose order they come."""
    count = min(CHECKED, len(ids))
    return [ids[number * len(ids) // count] for number in range(count)]


def split_of(key: str) -> Split:
    """The split that a folder or the first word of a file's name says; train if none does."""
    *folders, name = key.lower().split("/")
    words = [re.split(r"[-_.]", name)[0], *reversed(folders)]
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), Split.TRAIN)


def _decoded(content: bytes | Path) -> Image.Image:
    return load_picture(content) if isinstance(content, Path) else decode(content)
