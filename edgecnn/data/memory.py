"""How much memory decoded pictures may take before they are kept in a file instead."""

from __future__ import annotations

import os
from pathlib import Path

from edgecnn.errors import UsageError

LIMIT_VARIABLE = "EDGECNN_MEMORY_LIMIT"  # environment variable: the limit in bytes, whatever the machine has
SHARE = 0.25  # of what is available: three splits may be loaded, and the network, its gradients and batches need room
DISK_LIMIT_BYTES = 64 << 30  # that all files of decoded pictures together may take; larger sets are streamed
GROUP = "memory.max", "memory.current", "memory.stat", "inactive_file"
OLD_GROUP = (  # version 1 of control groups; its "no limit" is a number larger than any memory
    "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file",
)  # fmt: skip
UNKNOWN_BYTES = 1 << 30  # the limit where the system does not say what it has


def memory_limit() -> int:
    """The most bytes that one split may take in memory: ``$EDGECNN_MEMORY_LIMIT``, else a quarter of what is available.

    Raises ``UsageError`` if the variable is no number of bytes.
    """
    given = os.environ.get(LIMIT_VARIABLE)
    if given is None:
        available = available_bytes()
        return UNKNOWN_BYTES if available is None else int(SHARE * available)
    if not given.strip().isdecimal():
        raise UsageError(
            f"{LIMIT_VARIABLE} is {given!r}", hint="give a whole number of bytes, such as 2000000000, or unset it"
        )
    return int(given)


def available_bytes(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a new program could use without swapping, in a container no more than its share; None if nothing says it."""
    found = [_machine_bytes(meminfo), _group_bytes(group)]
    return min((each for each in found if each is not None), default=None)


def _machine_bytes(meminfo: Path) -> int | None:
    kilobytes = _fields(meminfo).get("MemAvailable:")
    return None if kilobytes is None else 1024 * kilobytes


def _group_bytes(group: Path) -> int | None:
    """What is left of a control group's limit; pages of files that are not in use count as free."""
    for names in (GROUP, OLD_GROUP):
        *sizes, stat, idle = names
        try:
            limit, used = (int((group / name).read_text()) for name in sizes)
        except (OSError, ValueError):  # no control group, or one whose limit is "max"
            continue
        return max(0, limit - used + _fields(group / stat).get(idle, 0))
    return None


def _fields(path: Path) -> dict[str, int]:
    """The lines ``NAME NUMBER ...`` of a file of the kernel; none if there is no such file."""
    try:
        words = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdecimal()}
