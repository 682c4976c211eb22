"""Whether an engine must be kept from int8 kernels that give wrong numbers.

On x86 CPUs without VNNI the fast uint8 x int8 dot product (``vpmaddubsw``) adds pairs of products in 16 bits and
saturates: a convolution with large weights gives wrong numbers without a word. ARM CPUs are not concerned.
"""

from __future__ import annotations

import platform
from pathlib import Path

from edgecnn.errors import RuntimeFailure


def choice_of(option: str) -> str:
    """The option ``exact_int8`` of an engine. Raises ``RuntimeFailure`` for anything but auto, on and off."""
    if option not in ("auto", "on", "off"):
        raise RuntimeFailure(f"option exact_int8 is {option!r}", hint="wanted: auto, on or off")
    return option


def x86_without_vnni(info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this is an x86 CPU whose int8 dot product saturates; unknown CPUs count as such (right before fast)."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not (info.exists() and "vnni" in info.read_text())
