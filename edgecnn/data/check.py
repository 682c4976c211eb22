"""Decode every picture once before anything is trained on it, so that nothing can break in the middle of an epoch.

A large set that passed is remembered by one small file in the user's cache folder, so that the next command does not
decode it all again. The file holds a hash over path, size and modification time of every picture and the version of
the decoder: whatever changes, everything is checked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL
from PIL import Image

from edgecnn.data.parallel import in_threads
from edgecnn.data.preprocess import load_picture
from edgecnn.errors import DataError

MAX_ASPECT = 50  # beyond this a picture is a line; resizing its short side would need gigabytes
CACHE_VARIABLE = "EDGECNN_CACHE"  # environment variable: another folder for what may be deleted at any time
_WORTH_REMEMBERING_S = 1.0
_CHECK_VERSION = 1  # raise it when a check is added


@dataclass(frozen=True)
class Checked:
    """Size in bytes of every file that is there, and the reason for every file that cannot be used."""

    sizes: Mapping[str, int]
    broken: Mapping[str, str]


def check_pictures(root: Path, ids: Sequence[str]) -> Checked:
    """Decode the pictures ``root / id`` exactly as training will (or know that the same files passed before)."""
    broken: dict[str, str] = {}
    files: dict[str, os.stat_result] = {}
    for id in ids:
        if reason := _name_problem(id):
            broken[id] = reason
            continue
        try:
            files[id] = (root / id).stat()
        except OSError as error:
            broken[id] = error.strerror or str(error)
            continue
        if not stat.S_ISREG(files[id].st_mode):
            broken[id] = "not a file"
    memory = cache_folder() / "checked" / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:24]
    stamp = _stamp(files)
    if not _remembered(memory, stamp):
        start = time.perf_counter()
        broken |= _decode_all(root, [id for id in ids if id not in broken])
        if not broken and time.perf_counter() - start > _WORTH_REMEMBERING_S:
            _remember(memory, stamp)
    return Checked({id: entry.st_size for id, entry in files.items()}, broken)


def cache_folder() -> Path:
    """Where edgecnn keeps what may be deleted at any time: ``$EDGECNN_CACHE``, else the user's cache folder."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "edgecnn"
    try:
        return Path.home() / ".cache" / "edgecnn"
    except RuntimeError:  # a container's user without a home
        return Path(tempfile.gettempdir()) / "edgecnn"


def shape_problem(picture: Image.Image) -> str:
    """The reason against a picture that is nearly a line; empty for others."""
    width, height = picture.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        return f"{width} x {height} pixels: one side is more than {MAX_ASPECT} times the other"
    return ""


def _decode_all(root: Path, ids: Sequence[str]) -> dict[str, str]:
    def reason_against(id: str) -> str:
        try:
            return shape_problem(load_picture(root / id))
        except DataError as error:
            return error.message.removeprefix(f"{root / id}: ")

    return {id: reason for id, reason in zip(ids, in_threads(reason_against, ids), strict=True) if reason}


def _name_problem(id: str) -> str:
    try:
        id.encode()
    except UnicodeEncodeError:
        return "the file name is not valid UTF-8; rename it"
    return "the file name holds a line break; rename it" if len(id.splitlines()) > 1 else ""


def _stamp(files: Mapping[str, os.stat_result]) -> str:
    digest = hashlib.sha256(f"{_CHECK_VERSION} Pillow {PIL.__version__}\n".encode())
    for id, entry in sorted(files.items()):
        digest.update(f"{id}\t{entry.st_size}\t{entry.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _remembered(memory: Path, stamp: str) -> bool:
    try:
        return memory.read_text(encoding="utf-8") == stamp
    except OSError:
        return False


def _remember(memory: Path, stamp: str) -> None:
    with contextlib.suppress(OSError):  # a read-only or full home only means that the next command checks again
        memory.parent.mkdir(parents=True, exist_ok=True)
        unfinished = memory.with_name(f"{memory.name}.{os.getpid()}")
        unfinished.write_text(stamp, encoding="utf-8")
        unfinished.replace(memory)
