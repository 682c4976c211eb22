"""How folders are read: which hold splits, which hold classes, which files count as pictures.

Any file in a class folder is taken for a picture, so that a phone's HEIC or a half-finished download is reported and
not silently left out; only what a computer or a person obviously left beside the pictures (hidden files, texts,
tables) is not.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgecnn.errors import DataError
from edgecnn.spec import Split

SPLIT_FOLDERS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "val": Split.VAL,
    "valid": Split.VAL,
    "validation": Split.VAL,
    "test": Split.TEST,
    "testing": Split.TEST,
}
_NOT_PICTURES = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".db", ".ini", ".log", ".py")
LAYOUT_HINT = "a set is a folder of class folders, or train/, val/ and test/ folders of class folders"

Classes = dict[str, list[str]]


@dataclass(frozen=True)
class Found:
    """What is under a root: ids by split and class (a flat folder is all train), problems and notes, one line each."""

    splits: Mapping[Split, Classes]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names of all splits, sorted."""
        return tuple(sorted({label for classes in self.splits.values() for label in classes}))

    @property
    def pictures(self) -> list[str]:
        """The ids of all files taken for pictures."""
        return [id for classes in self.splits.values() for ids in classes.values() for id in ids]


def scan(root: Path) -> Found:
    """List the pictures under ``root`` without opening them.

    Raises ``DataError`` where the folders make no sense or cannot be listed at all.
    """
    try:
        folders = _folders(root)
        by_split = _split_folders(folders)
        problems: list[str] = []
        if not by_split:
            return Found({Split.TRAIN: _classes(root, root, problems)}, tuple(problems), ())
        splits = {split: _classes(root, folder, problems) for split, folder in by_split.items()}
        problems += [f"{stray}: a picture beside the split folders" for stray in _picture_files(root)]
    except OSError as error:
        raise DataError(f"{error.filename or root}: {error.strerror}", hint="make the folder readable") from error
    unused = [folder for folder in folders if folder not in by_split.values()]
    notes = tuple(f"{folder.name}/ stands beside the split folders and is not used" for folder in unused)
    return Found(splits, tuple(problems), notes)


def class_problems(found: Found, broken: Collection[str]) -> list[str]:
    """Classes that are too few, too small, or not in every split that the folders give; broken files do not count."""
    problems: list[str] = []
    for split, classes in found.splits.items():
        where = f"{split}/" if len(found.splits) > 1 else "the set"
        # One picture for each split that is taken from train.
        least = 4 - len(found.splits) if split is Split.TRAIN else 1
        for label in found.labels:
            if label not in classes:
                others = ", ".join(f"{other}/" for other, there in found.splits.items() if label in there)
                problems.append(f"class {label!r} is missing from {where} (it is in {others})")
                continue
            usable = sum(id not in broken for id in classes[label])
            if usable < least:
                problems.append(f"class {label!r} has {usable} usable pictures in {where}, at least {least} are needed")
    if len(found.labels) < 2:
        classes_found = f"only one class, {found.labels[0]!r}" if found.labels else "no class folder"
        problems.append(f"{classes_found}: a classifier needs at least two")
    return problems


def _split_folders(folders: list[Path]) -> dict[Split, Path]:
    """The folders that are splits, or none if the folders are classes.

    A class may be called "train" (beside "bus" and "car"): it is one if it has pictures and no folders inside and
    something that is no split folder stands beside it.
    """
    named = [folder for folder in folders if folder.name.lower() in SPLIT_FOLDERS]
    nested = [folder for folder in named if _folders(folder)]
    if not named or (len(named) < len(folders) and not nested):
        return {}
    by_split: dict[Split, Path] = {}
    for folder in named:
        split = SPLIT_FOLDERS[folder.name.lower()]
        if split in by_split:
            raise DataError(f"{folder} and {by_split[split]} are both the {split} split", hint="merge or rename one")
        by_split[split] = folder
    if Split.TRAIN not in by_split:
        names = ", ".join(f"{folder.name}/" for folder in named)
        raise DataError(f"{named[0].parent} has {names} but no train/", hint=LAYOUT_HINT)
    return {split: by_split[split] for split in Split if split in by_split}


def _classes(root: Path, folder: Path, problems: list[str]) -> Classes:
    problems += [f"{stray}: a picture outside any class folder" for stray in _picture_files(folder)]
    return {child.name: sorted(_walk(root, child, problems)) for child in _folders(folder)}


def _walk(root: Path, folder: Path, problems: list[str]) -> Iterator[str]:
    """The ids of the pictures anywhere under ``folder``. Plain strings: a Path per picture would triple the time."""

    def cannot_list(error: OSError) -> None:
        problems.append(f"{error.filename}: {error.strerror}")

    for here, folders, files in os.walk(folder, onerror=cannot_list):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        links = [Path(here, name) for name in folders if Path(here, name).is_symlink()]
        problems.extend(f"{link}: a link to a folder is not followed" for link in links)
        prefix = Path(here).relative_to(root).as_posix()
        yield from (f"{prefix}/{name}" for name in files if _is_picture(name))


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not _hidden(child.name))


def _picture_files(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_file() and _is_picture(child.name))


def _is_picture(name: str) -> bool:
    return not _hidden(name) and not name.lower().endswith(_NOT_PICTURES)


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
