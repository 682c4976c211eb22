"""The kinds of sources, in one table: a new kind is a function that opens it, and a row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from edgecnn.data.digits import open_digits
from edgecnn.data.folder import open_folder
from edgecnn.data.items import ImageSet
from edgecnn.data.parquet import holds_shards, open_parquet
from edgecnn.data.table import TABLE_SUFFIXES, open_table
from edgecnn.data.torchvision_sets import PREFIX, open_torchvision
from edgecnn.data.webdataset import holds_tars, open_webdataset


class Opener(Protocol):
    """Opens, checks and splits a source; see ``source.open_data``."""

    def __call__(self, source: str, *, seed: int, fractions: tuple[float, float, float]) -> ImageSet:
        """The pictures in their splits. Raises ``DataError`` with all problems."""


@dataclass(frozen=True)
class Kind:
    """A kind of source: which sources are of it, how they are opened, and whether they are names or paths.

    ``open_sampled`` opens one without decoding all of its pictures, where that is possible.
    ``open_labels`` opens one whose pictures have several labels each, also where it does not say so itself.
    """

    matches: Callable[[str], bool]
    open: Opener
    is_path: bool = True
    open_sampled: Opener | None = None
    open_labels: Opener | None = None


def _digits(source: str, *, seed: int, fractions: tuple[float, float, float]) -> ImageSet:
    return open_digits(seed=seed, fractions=fractions)


def _is_table(source: str) -> bool:
    return source.lower().endswith(TABLE_SUFFIXES) and not Path(source).expanduser().is_dir()


KINDS: dict[str, Kind] = {  # the first that matches counts
    "digits": Kind(lambda source: source == "digits", _digits, is_path=False),
    "torchvision": Kind(lambda source: source.startswith(PREFIX), open_torchvision, is_path=False),
    "table": Kind(_is_table, open_table, open_labels=partial(open_table, several=True)),
    "parquet": Kind(holds_shards, open_parquet),
    "webdataset": Kind(holds_tars, open_webdataset, open_sampled=partial(open_webdataset, sampled=True)),
    "folder": Kind(lambda source: True, open_folder),
}


def kind_of(source: str) -> Kind:
    """The row of a source."""
    return next(kind for kind in KINDS.values() if kind.matches(source))
