"""What a set of labelled pictures is, wherever it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from edgecnn.spec import Split


@dataclass(frozen=True)
class Item:
    """One labelled picture.

    ``id`` names it for good: its path relative to the root of the set with ``/`` between folders, or a made-up path
    such as ``digits/0001``. ``label`` is an index into the set's ``labels``.
    """

    id: str
    label: int


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
