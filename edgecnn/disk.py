"""Files that are replaced in one go, and what is said when the disk does not take them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgecnn.errors import WriteError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What a system says of a disk that takes nothing, whatever is being written."""


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; on leaving, that file becomes ``path`` and the old one ``keep``.

    A file that could not be written whole never gets so far: it is removed, ``path`` and ``keep`` stay as they were.
    Raises ``WriteError``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with told(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # some file systems find out only here that there is no room
            if keep is not None and path.exists():
                path.replace(keep)
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def told(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Turn what the system says while ``path`` is being written into an error that names it. Raises ``WriteError``.

    Where other files are read meanwhile, ``draft`` is the folder that becomes ``path``: then only what the system says
    of that folder, or of a full disk, is turned.
    """
    try:
        yield
    except Exception as error:
        # By its name: the commands that only look at a bundle need not import safetensors.
        from_safetensors = type(error).__name__ == "SafetensorError"
        if not from_safetensors and not (isinstance(error, OSError) and (draft is None or _concerns(error, draft))):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise WriteError(
            f"{path} could not be written: {reason}; {_free(path.parent)}",
            hint="make room (or the folder writable) and run the same command again: what was written before is as it "
            "was, and it goes on from there",
        ) from error


def _concerns(error: OSError, draft: Path) -> bool:
    names = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return error.errno in NO_ROOM or any(name.is_relative_to(draft) for name in names)


def _free(folder: Path) -> str:
    """How much room there is, in words."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return f"how much is free there is not known ({error.strerror})"
    return f"{usage.free / 1e6:.1f} of {usage.total / 1e6:.1f} MB are free there"
