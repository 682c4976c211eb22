"""What verifications of a bundle found, beside it in ``measurements/``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from edgecnn.bundle import Bundle, dump_json, write_atomically
from edgecnn.report.rows import ParityRow


def record(bundle: Bundle, rows: list[ParityRow]) -> Path:
    """Add the rows to the bundle's measurements."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    path = bundle.path / "measurements" / f"parity-{stamp}.json"
    write_atomically(path, dump_json([row.to_dict() for row in rows]))
    return path


def latest(bundle: Bundle) -> list[ParityRow]:
    """The rows of the last verification, or none."""
    files = sorted((bundle.path / "measurements").glob("parity-*.json"))
    return [ParityRow.from_dict(row) for row in json.loads(files[-1].read_text())] if files else []
