"""The values a report is made of, and their JSON. Standard library only.

A figure that was not measured is ``None``, never 0 or nan. Accuracies and agreements are fractions in [0, 1],
latencies milliseconds per call, sizes bytes. JSON knows no infinity: an infinite SQNR (bit-identical logits) is
written ``"inf"``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from edgecnn.errors import UsageError
from edgecnn.spec import Format, Interval, Precision, Runtime, Status, Task

_TEXTS = frozenset({"model", "bundle", "stage", "parent", "first_divergence", "note"})
_AnyRow = TypeVar("_AnyRow", bound="Row | ParityRow")


@dataclass(frozen=True)
class Row:
    """One file measured in one runtime with one number of threads; ``note`` is the reason when ``status`` is not ok.

    ``top1`` is the share of pictures that are answered right: with the task ``multi_label``, exact matches.
    """

    model: str
    format: Format
    precision: Precision
    runtime: Runtime
    threads: int
    bundle: str = ""
    top1: float | None = None
    top1_low: float | None = None
    top1_high: float | None = None
    latency_ms: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    p90_ms: float | None = None
    load_ms: float | None = None
    peak_memory_bytes: int | None = None
    size_bytes: int | None = None
    params: int | None = None
    macs: int | None = None
    agreement: float | None = None
    parity_sqnr_db: float | None = None
    status: Status = Status.OK
    note: str = ""
    task: Task = Task.MULTI_CLASS

    def __post_init__(self) -> None:
        """Refuse an accuracy given in percent, which would be shown a hundred times too high."""
        for name in ("top1", "top1_low", "top1_high", "agreement"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is a fraction in [0, 1], got {value!r}")

    @property
    def top1_interval(self) -> tuple[float, float] | None:
        """Ends of the 95 % Wilson interval of top-1, fractions; None when not measured."""
        return _ends(self.top1_low, self.top1_high)

    @property
    def latency_interval(self) -> tuple[float, float] | None:
        """Ends of the 95 % interval of the median latency, milliseconds; None when not measured."""
        return _ends(self.latency_low, self.latency_high)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON can hold it; every field is there, ``None`` where nothing was measured."""
        return _to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote; fields of later versions are ignored.

        Raises:
            UsageError: a field is missing, or is a word that edgecnn does not know.
        """
        return _from_dict(cls, data)


@dataclass(frozen=True)
class ParityRow:
    """One stage compared with its parent on the same real images.

    ``agreement`` is the fraction of images with the same answer, with several labels of equal label decisions, and
    ``equal_sets`` then that of images with the same set of labels; ``cosine``, ``sqnr_db`` and ``max_error`` (in
    logits) are taken over the logits; ``first_divergence`` names the first layer below the threshold. Of int8 logits,
    ``max_steps`` is the largest difference in steps of the output, and ``near_ties`` counts the answers that differ
    where the parent prefers its own by one step at most (see ``measure.parity.Parity``).
    """

    stage: str
    parent: str
    bundle: str = ""
    images: int | None = None
    agreement: float | None = None
    cosine: float | None = None
    sqnr_db: float | None = None
    max_error: float | None = None
    status: Status = Status.OK
    first_divergence: str | None = None
    note: str = ""
    equal_sets: float | None = None
    max_steps: float | None = None
    near_ties: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON can hold it; every field is there, ``None`` where nothing was measured."""
        return _to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote; fields of later versions are ignored.

        Raises:
            UsageError: a field is missing, or is a word that edgecnn does not know.
        """
        return _from_dict(cls, data)


@dataclass(frozen=True)
class Curves:
    """One training run: ``history`` is the rows of ``history.csv``, a column name to a number or its text; ``findings``
    are sentences on what stands out in them.
    """

    name: str
    history: Sequence[Mapping[str, object]]
    findings: Sequence[str] = ()

    def column(self, name: str) -> list[float | None]:
        """Return one column; None where an epoch has no finite number."""
        return [_number(epoch.get(name)) for epoch in self.history]

    def columns(self) -> list[str]:
        """Return the names of the columns that hold at least one number, in file order."""
        names = dict.fromkeys(name for epoch in self.history for name in epoch)
        return [name for name in names if any(value is not None for value in self.column(name))]


@dataclass(frozen=True)
class Confusion:
    """How often each true class (row) was given each label (column): ``counts`` is K x K for K ``labels``."""

    name: str
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        """Refuse counts that are not one row and one column per label."""
        wanted = len(self.labels)
        found = {len(row) for row in self.counts} | {len(self.counts)}
        if found != {wanted}:
            raise ValueError(f"{wanted} labels need {wanted} x {wanted} counts, got sides of {sorted(found)}")


@dataclass(frozen=True)
class Environment:
    """Where and with what the rows were measured: machine, versions, commit, date; values may be nested mappings."""

    facts: Mapping[str, object] = field(default_factory=dict)


def interval_fields(prefix: str, interval: Interval | None) -> dict[str, float | None]:
    """Spread an interval over the three fields of a Row, for ``Row(..., **interval_fields("top1", top1))``.

    ``prefix`` is "top1" or "latency". Without an interval all three are None.
    """
    names = {"top1": "top1", "latency": "latency_ms"}
    ends = (interval.value, interval.low, interval.high) if interval else (None, None, None)
    return dict(zip((names[prefix], f"{prefix}_low", f"{prefix}_high"), ends, strict=True))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write ``report.json``: a list of rows, whole or not at all."""
    text = json.dumps([row.to_dict() for row in rows], indent=2, allow_nan=False)
    write_whole(path, text + "\n")


def read_rows(path: Path) -> list[Row]:
    """Read ``report.json``.

    Raises:
        UsageError: the file is not a JSON list of rows.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UsageError(f"{path} cannot be read as JSON: {problem}", hint="give a report.json") from problem
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise UsageError(f"{path} is not a list of rows", hint="give a report.json, as `edgecnn benchmark` writes it")
    return [Row.from_dict(item) for item in data]


def write_whole(path: Path, text: str) -> None:
    """Write text under a temporary name and rename it, so that a reader never sees half a file.

    Characters that UTF-8 cannot hold (parts of undecodable file names) become question marks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(text.encode("utf-8", "replace"))
    temporary.replace(path)


def _ends(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)


def _to_dict(row: Row | ParityRow) -> dict[str, Any]:
    return {name: _plain(value) for name, value in asdict(row).items()}


def _from_dict(kind: type[_AnyRow], data: Mapping[str, Any]) -> _AnyRow:
    known = {item.name for item in fields(kind)}
    values = {name: value for name, value in data.items() if name in known}
    words = {"format": Format, "precision": Precision, "runtime": Runtime, "status": Status, "task": Task}
    try:
        values.update({name: word(values[name]) for name, word in words.items() if name in values})
        values.update({name: float(value) for name, value in values.items() if name not in _TEXTS and value == "inf"})
        return kind(**values)
    except (TypeError, ValueError) as problem:
        hint = "give rows as `edgecnn benchmark --json` or `edgecnn verify --json` writes them"
        raise UsageError(f"this is not a row of a report: {problem}", hint=hint) from problem


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else None
    return value


def _number(value: object) -> float | None:
    if not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
