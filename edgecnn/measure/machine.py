"""The machine that the figures were taken on: what it is, and what state it was in."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgecnn.versions import versions

FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
CPU0 = Path("/sys/devices/system/cpu/cpu0/cpufreq")


@dataclass(frozen=True)
class Machine:
    """What does not change from run to run. ``flags``: the instruction sets that decide int8 and bf16 speed."""

    cpu: str
    architecture: str
    cores: int
    flags: tuple[str, ...]
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class State:
    """What may change: read before and after a measurement. ``None`` where the system does not say."""

    load_1min: float | None
    clock_mhz: float | None
    governor: str | None
    temperature_c: float | None
    affinity: tuple[int, ...] | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@cache
def describe() -> Machine:
    """This machine; read once per process."""
    info = _cpuinfo()
    found = info.get("flags", info.get("features", "")).split()
    cpu = info.get("model name") or info.get("hardware") or platform.processor() or platform.machine()
    return Machine(
        cpu=cpu,
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        flags=tuple(flag for flag in FLAGS if flag in found),
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=versions(),
    )


def state() -> State:
    """The machine's state now."""
    affinity = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None
    governor = CPU0 / "scaling_governor"
    return State(
        load_1min=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        clock_mhz=_clock_mhz(),
        governor=governor.read_text().strip() if governor.exists() else None,
        temperature_c=_temperature_c(),
        affinity=affinity,
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of ``/proc/cpuinfo``, keys in lower case; empty elsewhere than on Linux."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip().lower(), value.strip())
    return found


def _memory_bytes() -> int:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _clock_mhz() -> float | None:
    current = CPU0 / "scaling_cur_freq"
    if current.exists():
        return int(current.read_text()) / 1000
    shown = _cpuinfo().get("cpu mhz")
    return float(shown) if shown else None


def _temperature_c() -> float | None:
    """The hottest thermal zone, in degrees Celsius."""
    zones = [zone for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp") if zone.is_file()]
    readings = [int(text) / 1000 for text in (_read(zone) for zone in zones) if text.lstrip("-").isdigit()]
    return max(readings, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # a zone that is switched off cannot be read
        return ""
