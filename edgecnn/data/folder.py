"""Pictures in class folders: find them, check them all, split them, or report every problem at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from edgecnn.data.check import check_pictures
from edgecnn.data.items import Item
from edgecnn.data.layout import LAYOUT_HINT, class_problems, scan
from edgecnn.data.preprocess import load_picture
from edgecnn.data.splits import SPLIT_ORDER, by_id, split_stratified
from edgecnn.errors import DataError
from edgecnn.spec import Split

LISTED_PROBLEMS = 200
SOURCES = "digits, a folder, a .csv or .parquet file, or torchvision:NAME"
Divide = Callable[[Sequence[Item], Mapping[Split, float], int], dict[Split, tuple[Item, ...]]]


@dataclass(frozen=True)
class FolderImages:
    """A folder of pictures, each of which has been decoded once."""

    name: str
    root: Path
    labels: tuple[str, ...]
    splits: Mapping[Split, tuple[Item, ...]]
    digest: str
    notes: tuple[str, ...]

    def read(self, item: Item) -> Image.Image:
        """Decode one picture to upright 8-bit RGB.

        Raises ``DataError`` if the file has changed since and is broken now.
        """
        return load_picture(self.root / item.id)


def open_folder(source: str, *, seed: int, fractions: tuple[float, float, float]) -> FolderImages:
    """Find, check and split the pictures under a folder; see ``open_data``. Raises ``DataError`` with all problems."""
    root = Path(source).expanduser()
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"{source} {kind}", hint=f"give {SOURCES}; {LAYOUT_HINT}")
    found = scan(root)
    checked = check_pictures(root, found.pictures)
    broken = [f"{root / id}: {reason}" for id, reason in checked.broken.items()]
    if problems := [*found.problems, *broken, *class_problems(found, checked.broken)]:
        raise report_problems(root, problems)
    given = {
        split: by_id(Item(id, found.labels.index(label)) for label, ids in classes.items() for id in ids)
        for split, classes in found.splits.items()
    }
    splits, notes = complete_splits(given, seed, fractions)
    return FolderImages(
        name=root.resolve().name,
        root=root,
        labels=found.labels,
        splits=splits,
        digest=digest_of(found.labels, given, checked.sizes),
        notes=(*found.notes, *notes),
    )


def complete_splits(
    given: Mapping[Split, tuple[Item, ...]],
    seed: int,
    fractions: tuple[float, float, float],
    divide: Divide = split_stratified,
) -> tuple[dict[Split, tuple[Item, ...]], list[str]]:
    """The three splits from those that the folders give (train at least), and what to tell about it.

    ``divide`` makes splits out of train.
    """
    if len(given) == 3:
        return dict(given), []
    if len(given) == 1:
        return divide(given[Split.TRAIN], dict(zip(SPLIT_ORDER, fractions, strict=True)), seed), []
    weights = {Split.TRAIN: 1 - fractions[1], Split.VAL: fractions[1]}
    splits = divide(given[Split.TRAIN], weights, seed)
    if Split.TEST in given:
        notes = [f"no val/: {fractions[1]:.0%} of train/ serves as the val split"]
        return {**splits, Split.TEST: given[Split.TEST]}, notes
    notes = [f"no test/: val/ serves as the test split, {fractions[1]:.0%} of train/ as the val split"]
    return {**splits, Split.TEST: given[Split.VAL]}, notes


def digest_of(labels: tuple[str, ...], given: Mapping[Split, Sequence[Item]], sizes: Mapping[str, int]) -> str:
    """SHA-256 (hex) over ids, class names and file sizes, in no order."""
    lines = [f"{item.id}\t{item.words(labels)}\t{sizes[item.id]}" for items in given.values() for item in items]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def report_problems(root: Path, problems: Sequence[str], layout: str = LAYOUT_HINT) -> DataError:
    """One error for all problems of the set at ``root``; ``layout`` says how such a set looks."""
    listed = [f"  {_printable(problem)}" for problem in problems[:LISTED_PROBLEMS]]
    if len(problems) > LISTED_PROBLEMS:
        listed.append(f"  ... and {len(problems) - LISTED_PROBLEMS} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return DataError(
        "\n".join([f"{root}: {count} found", *listed]),
        hint=f"repair, move or remove what is listed; {layout}",
    )


def _printable(text: str) -> str:
    """File names may hold line breaks and bytes that no terminal can print."""
    return text.encode(errors="backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")
