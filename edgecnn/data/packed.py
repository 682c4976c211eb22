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

Content = Callable[[str], bytes | Path]
"""From a picture's id to its bytes as a file would have them, or to its path. Raises ``DataError`` without a place."""


@dataclass(frozen=True)
class PackedImages:
    """Pictures in larger files."""

    name: str
    labels: tuple[str, ...]
    splits: Mapping[Split, tuple[Item, ...]]
    digest: str
    notes: tuple[str, ...]
    content: Content

    def read(self, item: Item) -> Image.Image:
        """Decode one picture to upright 8-bit RGB. Raises ``DataError``."""
        try:
            return _decoded(self.content(item.id))
        except DataError as error:
            raise DataError(f"{item.id}: {error.message}", hint="replace or remove the picture") from error


@dataclass(frozen=True)
class Packed:
    """What was found in the files: ids by split and class, the classes in their order, and how to read one picture."""

    root: Path
    by_split: Mapping[Split, Classes]
    labels: tuple[str, ...]
    content: Content
    hint: str

    def opened(self, problems: Sequence[str], *, seed: int, fractions: tuple[float, float, float]) -> PackedImages:
        """Decode every picture once, and split as a folder is split. Raises ``DataError`` with all problems."""
        found = Found({split: self.by_split[split] for split in Split if split in self.by_split}, (), ())
        if Split.TRAIN not in found.splits:
            raise DataError(
                f"{self.root} has no train split", hint="name its files train-..., validation-... and test-..."
            )
        looked = dict(zip(found.pictures, in_threads(self._look, found.pictures), strict=True))
        broken = {id: reason for id, (_, reason) in looked.items() if reason}
        told = [*problems, *(f"{id}: {reason}" for id, reason in broken.items()), *class_problems(found, broken)]
        if told:
            raise report_problems(self.root, told, self.hint)
        numbers = {name: number for number, name in enumerate(self.labels)}
        given = {
            split: by_id(Item(id, numbers[name]) for name, ids in classes.items() for id in ids)
            for split, classes in found.splits.items()
        }
        splits, notes = complete_splits(given, seed, fractions)
        digest = digest_of(self.labels, given, {id: size for id, (size, _) in looked.items()})
        return PackedImages(self.root.resolve().name, self.labels, splits, digest, tuple(notes), self.content)

    def _look(self, id: str) -> tuple[int, str]:
        """The size in bytes, and the reason against the picture if it cannot be used."""
        try:
            content = self.content(id)
            problem = shape_problem(_decoded(content))
            return (content.stat().st_size if isinstance(content, Path) else len(content)), problem
        except DataError as error:
            return 0, error.message


def split_of(key: str) -> Split:
    """The split that a folder or the first word of a file's name says; train if none does."""
    *folders, name = key.lower().split("/")
    words = [re.split(r"[-_.]", name)[0], *reversed(folders)]
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), Split.TRAIN)


def _decoded(content: bytes | Path) -> Image.Image:
    return load_picture(content) if isinstance(content, Path) else decode(content)
