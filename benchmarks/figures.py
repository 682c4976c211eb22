"""The one file of figures: ``benchmarks/results/figures.json``, name -> value with interval, command, date, commit,
machine.

Benchmark scripts write here through :func:`record`; README's tables are made from it by ``benchmarks/tables.py``.
Nobody edits it by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgecnn.bundle import write_atomically
from edgecnn.measure.machine import describe
from edgecnn.spec import Interval

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "figures.json"


def record(name: str, value: Interval | float, unit: str, *, n: int | None = None, command: str | None = None) -> None:
    """Add or replace one figure. ``unit``: "percent", "ratio", "minutes", "bytes", "MB", "ms", "images/s", "MACs",
    "points" (of percent) or "nats"."""
    interval = value if isinstance(value, Interval) else None
    scale = 100 if unit == "percent" and interval is not None else 1
    machine = describe()
    entry = {
        "value": round(scale * (interval.value if interval else float(value)), 6),  # type: ignore[arg-type]
        "unit": unit,
        "low": round(scale * interval.low, 6) if interval else None,
        "high": round(scale * interval.high, 6) if interval else None,
        "n": interval.n if interval else n,
        "command": command or _command(sys.argv),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": f"{machine.cpu}, {machine.cores} cores, {', '.join(machine.flags) or 'no int8 instructions'}",
    }
    figures = load()
    figures[name] = entry
    write_atomically(FILE, json.dumps(dict(sorted(figures.items())), indent=1) + "\n")
    print(f"{name}: {entry['value']} {unit}", flush=True)


def _command(words: list[str]) -> str:
    """The script's command line as anyone could give it: no folder of the machine that it ran on."""
    script = f"benchmarks/{Path(words[0]).name}"
    return " ".join(["python", script, *("..." if word.startswith("/") else word for word in words[1:])])


def load() -> dict[str, Any]:
    """All figures there are."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


def save_result(name: str, content: Any, folder: Path = RESULTS) -> None:
    """Keep the whole result of a script, beside the figures unless told otherwise."""
    facts = {
        "date": datetime.now(UTC).isoformat(),
        "commit": commit(),
        "machine": describe().as_dict(),
        "result": content,
    }
    write_atomically(folder / f"{name}.json", json.dumps(facts, indent=1) + "\n")


def commit() -> str:
    """The checkout's commit, with ``+`` when files differ from it."""
    here = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
    )
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
