"""Files that are replaced in one go, and what is said when the disk does not take them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from edgecnn.errors import WriteError


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
def told(path: Path) -> Iterator[None]:
    """Turn what the system says while ``path`` is being written into an error that names it. Raises ``WriteError``."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise WriteError(
            f"{path} could not be written: {reason}; {_free(path.parent)}",
            hint="make room (or the folder writable) and run the same command again: what was written before is as it "
            "was, and it goes on from there",
        ) from error


def _free(folder: Path) -> str:
    """How much room there is, in words."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return f"how much is free there is not known ({error.strerror})"
    return f"{usage.free / 1e6:.1f} of {usage.total / 1e6:.1f} MB are free there"
