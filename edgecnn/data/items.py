"""What a set of labelled pictures is, wherever it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from edgecnn.spec import Split

MANY = -1  # in the place of a class number
SEPARATOR = "|"  # between the names of a picture's labels


@dataclass(frozen=True)
class Item:
    """One labelled picture.

    ``id`` names it for good: its path relative to the root of the set with ``/`` between folders, or a made-up path
    such as ``digits/0001``. ``label`` is an index into the set's ``labels``. Where a picture may have several labels
    or none, all items of the set have them in ``many``, and ``label`` is ``MANY``.
    """

    id: str
    label: int
    many: tuple[int, ...] | None = None

    @property
    def labels(self) -> tuple[int, ...]:
        """All its labels, as indices: its class alone, where pictures have one class each."""
        return (self.label,) if self.many is None else self.many

    def words(self, labels: Sequence[str]) -> str:
        """Its labels by name, as a table has them: ``cat``, or ``cat|indoors``."""
        return SEPARATOR.join(labels[label] for label in self.labels)


def many_labels(items: Sequence[Item]) -> bool:
    """Whether these pictures may have several labels each: all of a set, or none, are of that kind."""
    return bool(items) and items[0].many is not None


def has_many_labels(data: ImageSet) -> bool:
    """Whether the pictures of a set may have several labels each."""
    return many_labels(data.splits[Split.TRAIN])


class ImageSet(Protocol):
    """Labelled pictures in three splits that never overlap."""

    @property
    def name(self) -> str:
        """A short name for reports."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; ``Item.label`` is an index into them."""

    @property
    def splits(self) -> Mapping[Split, tuple[Item, ...]]:
        """The pictures of each split, sorted by id."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over ids, class names and file sizes; the same however the set is split."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about how the set was read, one line each; empty when nothing is unusual."""

    def read(self, item: Item) -> Image.Image:
        """Decode one picture to 8-bit RGB, upright.

        Raises ``DataError`` if the file has changed since and is broken now.
        """


def unwrapped(data: ImageSet) -> ImageSet:
    """The set that was opened, of one that has other splits around it."""
    while (whole := getattr(data, "whole", None)) is not None:
        data = whole
    return data
