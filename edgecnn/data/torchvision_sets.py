"""Data sets of torchvision by name, such as ``torchvision:CIFAR10``; they are downloaded when they are not there.

They lie in the folder ``torchvision`` of edgecnn's cache (``$EDGECNN_CACHE``, else ``~/.cache/edgecnn``).
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from edgecnn.catalog import require
from edgecnn.data.check import CACHE_VARIABLE, cache_folder, shape_problem
from edgecnn.data.folder import complete_splits, report_problems
from edgecnn.data.items import Item
from edgecnn.data.layout import Classes, Found, class_problems
from edgecnn.data.preprocess import to_rgb
from edgecnn.data.splits import by_id
from edgecnn.errors import DataError
from edgecnn.spec import Split

PREFIX = "torchvision:"
_SPLIT_WORDS = {Split.TRAIN: ("train", "trainval"), Split.VAL: ("val", "valid"), Split.TEST: ("test",)}


@dataclass(frozen=True)
class TorchvisionImages:
    """A data set of torchvision; the id ``test/000007`` is its test picture 7, counted from 0."""

    name: str
    labels: tuple[str, ...]
    splits: Mapping[Split, tuple[Item, ...]]
    digest: str
    notes: tuple[str, ...]
    sets: Mapping[Split, Any]

    def read(self, item: Item) -> Image.Image:
        """One picture as 8-bit RGB."""
        split, _, number = item.id.partition("/")
        return to_rgb(self.sets[Split(split)][int(number)][0])


def open_torchvision(source: str, *, seed: int, fractions: tuple[float, float, float]) -> TorchvisionImages:
    """Open (or download) a set, look at every picture once, and make the splits that it does not bring.

    Raises ``DataError`` for an unknown set, for one that cannot be had, and with all problems of its pictures;
    ``MissingPackageError`` without torchvision.
    """
    name = source.removeprefix(PREFIX)
    sets = _open_sets(name)
    digest = hashlib.sha256(name.encode())
    by_split: dict[Split, Classes] = {}
    numbers: dict[str, int] = {}  # of classes, in torchvision's order
    problems: list[str] = []
    for split, whole in sets.items():
        names = getattr(whole, "classes", None)
        for index in range(len(whole)):
            id = f"{split}/{index:06d}"
            picture, label = whole[index]
            if not isinstance(picture, Image.Image) or not isinstance(label, int):
                raise DataError(f"{source} does not give one picture and one class each", hint="take another set")
            picture = to_rgb(picture)
            if reason := shape_problem(picture):
                problems.append(f"{id}: {reason}")
            digest.update(b"%s %d %d %d" % (id.encode(), label, *picture.size) + picture.tobytes())
            text = str(names[label]) if names else str(label)
            numbers[text] = label
            by_split.setdefault(split, {}).setdefault(text, []).append(id)
    found = Found(by_split or {Split.TRAIN: {}}, (), ())
    if problems := [*problems, *class_problems(found, ())]:
        raise report_problems(cache_folder(), problems, f"{source} cannot be used as it is")
    labels = tuple(sorted(numbers, key=lambda text: numbers[text]))
    given = {
        split: by_id(Item(id, labels.index(text)) for text, ids in classes.items() for id in ids)
        for split, classes in by_split.items()
    }
    splits, notes = complete_splits(given, seed, fractions)
    return TorchvisionImages(name, labels, splits, digest.hexdigest(), tuple(notes), sets)


def _open_sets(name: str) -> dict[Split, Any]:
    """The parts that the set brings: train, and perhaps val and test."""
    datasets = require("torchvision.datasets", extra="timm")
    kind = getattr(datasets, name, None) if name in getattr(datasets, "__all__", ()) else None
    if kind is None or "download" not in inspect.signature(kind.__init__).parameters:
        raise DataError(
            f"torchvision has no data set {name!r} that it can download", hint="such as torchvision:CIFAR10"
        )
    options = inspect.signature(kind.__init__).parameters
    if "train" in options:
        return {Split.TRAIN: _fetch(kind, name, train=True), Split.TEST: _fetch(kind, name, train=False)}
    if "split" not in options:
        return {Split.TRAIN: _fetch(kind, name)}
    found = {}
    for split, words in _SPLIT_WORDS.items():
        for word in words:
            try:
                found[split] = _fetch(kind, name, split=word)
                break
            except DataError as error:
                if not isinstance(error.__cause__, ValueError):  # which means that this set has no such split
                    raise
    return found


def _fetch(kind: Any, name: str, **part: Any) -> Any:
    root = cache_folder() / "torchvision"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to results
            return kind(str(root), download=True, **part)
    except Exception as error:  # urllib, sockets, tarfile and torchvision's own checks raise nearly anything
        raise DataError(
            f"torchvision:{name} is not in {root} and cannot be had: {error}",
            hint=f"fetch it once where there is a network and copy {root} here (or name that folder's parent with "
            f"{CACHE_VARIABLE}), or use a folder of pictures",
        ) from error
