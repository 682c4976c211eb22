"""Decoded pictures in a file that is mapped into memory: for sets that memory has no room for.

A split that would take more than ``memory.memory_limit()`` is decoded once into the folder ``decoded`` of edgecnn's
cache. The kernel reads the pictures of a batch from there when they are asked for and forgets them when it needs the
memory; the process itself stays as small as with a small set. The next command finds the file.

A file holds the pixels, uint8 (N, H, W, C), and after them its key: a SHA-256 over all that decides the pixels. It has
its name only when it is whole, and is used only if its size and its key are right.

What a cache may take on the disk: before a file is made, others are removed, the least recently used ones first, until
all together fit ``LIMIT_BYTES`` and the disk has room. A file that a process has mapped is locked by it, and stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import math
import mmap
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from edgecnn.data.check import CACHE_VARIABLE, cache_folder
from edgecnn.data.folder import FolderImages
from edgecnn.data.items import ImageSet, Item, unwrapped
from edgecnn.data.memory import DISK_LIMIT_BYTES, LIMIT_VARIABLE
from edgecnn.data.packed import PackedImages
from edgecnn.data.parallel import in_threads
from edgecnn.data.preprocess import apply
from edgecnn.errors import DataError
from edgecnn.spec import Preprocess

LIMIT_BYTES = DISK_LIMIT_BYTES  # for all files together
WHOLE, UNFINISHED = ".u8", ".part"
_VERSION = 1  # raise it when decoding or the layout of the file changes
_KEY_BYTES = 32
# A private mapping is writable memory that could come to need its full size, which the kernel refuses to promise for
# sets larger than the machine's memory unless it is told that no promise is needed. (Python 3.13 knows the name.)
_NO_PROMISE = getattr(mmap, "MAP_NORESERVE", 0x4000) if sys.platform == "linux" else 0


def load_mapped(data: ImageSet, items: Sequence[Item], p: Preprocess) -> NDArray[np.uint8]:
    """The given pictures (N, H, W, C), in the given order, mapped from a file that is made if it is not there yet.

    Writing to the array changes the memory of this process only. Several processes that want the same pictures wait
    for the first one to decode them. Raises ``DataError`` when there is no room or the folder cannot be written.
    """
    shape = (len(items), p.size, p.size, p.channels)
    key = key_of(data, items, p)
    file = cache_folder() / "decoded" / f"{key.hex()[:32]}{WHOLE}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        while (images := _open(file, shape, key)) is None:
            with _held(file.with_suffix(UNFINISHED)) as unfinished:
                # Whoever held the file before may have given it its final name.
                if unfinished is not None and _open(file, shape, key) is None:
                    _make_room(file, math.prod(shape) + _KEY_BYTES)
                    _decode(data, items, p, unfinished)
                    os.pwrite(unfinished, key, math.prod(shape))
                    os.fsync(unfinished)  # or a crash might leave a file of the right size and no content
                    file.with_suffix(UNFINISHED).replace(file)
        return images
    except OSError as error:
        raise _trouble(file.parent, math.prod(shape), error.strerror or str(error)) from error


def key_of(data: ImageSet, items: Sequence[Item], p: Preprocess) -> bytes:
    """Names the pixels by all they depend on: set, pictures, resizing, decoder; not by mean and std."""
    digest = hashlib.sha256(f"{_VERSION} Pillow {PIL.__version__} {data.digest} {len(items)}\n".encode())
    digest.update(f"{p.size} {p.resize} {p.interpolation}{'' if p.channels == 3 else ' grey'}\n".encode())
    for item in items:
        digest.update(f"{item.id}\n".encode())
    for state in _states(data, items):
        digest.update(state)
    return digest.digest()


def _states(data: ImageSet, items: Sequence[Item]) -> Iterator[bytes]:
    """What tells a changed picture where the digest of a set cannot: it may see no more than names and sizes."""
    data = unwrapped(data)
    if isinstance(data, FolderImages):
        contents: Iterator[bytes | Path] = (data.root.resolve() / item.id for item in items)
    elif isinstance(data, PackedImages):
        contents = (data.content(item.id) for item in items)  # much less work than opening the set, which decodes it
    else:
        return  # the digests of other sets see every pixel
    for content in contents:
        if isinstance(content, bytes):
            yield hashlib.sha256(content).digest()
            continue
        with contextlib.suppress(FileNotFoundError):  # reading it will say so
            state = content.stat()
            yield f"{content} {state.st_size} {state.st_mtime_ns}\n".encode()


def _open(file: Path, shape: tuple[int, ...], key: bytes) -> NDArray[np.uint8] | None:
    """The pictures of a file that is there and whole, else None. The file stays locked while the array lives."""
    size = math.prod(shape)
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        return None
    with opened:
        fcntl.flock(opened, fcntl.LOCK_SH)
        if not _is_at(file, opened.fileno()) or os.fstat(opened.fileno()).st_size != size + _KEY_BYTES:
            return None
        if os.pread(opened.fileno(), _KEY_BYTES, size) != key:
            return None
        with contextlib.suppress(OSError):  # another user's cache
            os.utime(file)  # used last now
        # The mapping has a copy of the file's descriptor, and the lock lasts as long as any copy does. Private and
        # writable, because torch asks for arrays that can be written; nothing ever reaches the file.
        flags, access = mmap.MAP_PRIVATE | _NO_PROMISE, mmap.PROT_READ | mmap.PROT_WRITE
        mapping = mmap.mmap(opened.fileno(), size + _KEY_BYTES, flags=flags, prot=access)
    return np.frombuffer(mapping, np.uint8, size).reshape(shape)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[int | None]:
    """Open an unfinished file, empty, that no other process writes; None after waiting for one that did.

    It is removed when the work on it fails.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back when the process ends, however it ends
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH)  # shared, or one would wait for those who use the finished file, too
            yield None
            return
        if not _is_at(path, file):
            yield None
            return
        try:
            os.truncate(file, 0)
            yield file
        finally:
            if _is_at(path, file):
                path.unlink()
    finally:
        os.close(file)


def _is_at(path: Path, file: int) -> bool:
    """Whether the opened file still has this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _decode(data: ImageSet, items: Sequence[Item], p: Preprocess, file: int) -> None:
    """Write every picture to its place.

    The file is written, not a map of it: a full disk is an error then, where writing to a map kills the process.
    """
    size = p.size * p.size * p.channels

    def work(position: int) -> None:
        if os.pwrite(file, apply(p, data.read(items[position])).tobytes(), position * size) != size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for _ in in_threads(work, range(len(items))):
        pass


def _make_room(file: Path, needed: int) -> None:
    """Remove other files until the new one fits. Raises ``DataError`` if the disk has no room for it even so."""
    folder, own = file.parent, file.with_suffix(UNFINISHED)
    for left in folder.glob(f"*{UNFINISHED}"):
        if left != own:
            _remove_unused(left)  # nobody writes it: its process was killed
    sizes = {each: each.stat() for each in folder.glob(f"*{WHOLE}") if each.exists()}
    total = needed + sum(state.st_size for state in sizes.values())
    for each, state in sorted(sizes.items(), key=lambda pair: pair[1].st_mtime_ns):
        if total <= LIMIT_BYTES and shutil.disk_usage(folder).free >= needed:
            return
        if _remove_unused(each):
            total -= state.st_size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _trouble(folder, needed, f"{free / 1e6:,.0f} MB are free there")


def _remove_unused(file: Path) -> bool:
    """Remove a file unless a process holds it; whether it is gone."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.unlink(missing_ok=True)
    return not file.exists()


def _trouble(folder: Path, needed: int, reason: str) -> DataError:
    return DataError(
        f"the decoded pictures are kept on the disk, {needed / 1e6:,.0f} MB in {folder}: {reason}",
        hint=f"make room there, name another folder with {CACHE_VARIABLE}, if memory has room for them raise "
        f"{LIMIT_VARIABLE} (in bytes), or train with --set stream=true, which keeps no decoded training pictures",
    )
