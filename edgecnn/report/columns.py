"""The columns of the result table, said once: the terminal and the page both read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgecnn.report import wording
from edgecnn.report.rows import Row
from edgecnn.spec import RIGHT, Task

TOP1 = "Top-1, %"


def _nothing(row: Row) -> str:
    return ""


@dataclass(frozen=True)
class Column:
    """One column: ``cell`` words the value, ``detail`` what stands smaller under it, ``order`` sorts (None last).

    ``line`` words value and detail on one line, for the terminal; without it the terminal shows ``cell``.
    """

    title: str
    cell: Callable[[Row], str]
    order: Callable[[Row], float | str | None]
    detail: Callable[[Row], str] = _nothing
    line: Callable[[Row], str] | None = None
    numeric: bool = False
    help: str = ""


def _top1_detail(row: Row) -> str:
    ends = row.top1_interval
    return "" if ends is None else wording.span(*(wording.percent(end, unit=False) for end in ends))


def _latency_detail(row: Row) -> str:
    ends = row.latency_interval
    return "" if ends is None else wording.span(*(wording.milliseconds(end, unit=False) for end in ends))


def _top1(row: Row) -> str:
    return wording.percent(row.top1, unit=False)


def _top1_line(row: Row) -> str:
    ends = row.top1_interval
    if row.top1 is None or ends is None:
        return _top1(row)
    return f"{_top1(row)} ±{100 * max(row.top1 - ends[0], ends[1] - row.top1):.2f}"


def _latency(row: Row) -> str:
    return wording.milliseconds(row.latency_ms, unit=False)


def _latency_line(row: Row) -> str:
    ends = row.latency_interval
    if row.latency_ms is None or ends is None:
        return _latency(row)
    return f"{_latency(row)} ±{wording.significant(max(row.latency_ms - ends[0], ends[1] - row.latency_ms), 2)}"


def _model_line(row: Row) -> str:
    return " ".join(filter(None, (row.model, _model_detail(row))))


def _model_detail(row: Row) -> str:
    return row.bundle if row.bundle != row.model else ""


def heading(column: Column, rows: Sequence[Row]) -> str:
    """The column's title over these rows: what counts as right is called otherwise where all have another task."""
    return f"{answered_right(rows)}, %" if column.title == TOP1 else column.title


def answered_right(rows: Sequence[Row]) -> str:
    """What the share of pictures answered right is called: top-1, accuracy of two classes, exact match of labels."""
    found = {row.task for row in rows} or {Task.MULTI_CLASS}
    words = RIGHT[found.pop()] if len(found) == 1 else "answered right"
    return words[0].upper() + words[1:]


COLUMNS: tuple[Column, ...] = (
    Column(
        "Model",
        lambda row: row.model,
        lambda row: row.model,
        _model_detail,
        _model_line,
        help="Model, and the bundle it is in",
    ),
    Column("Format", lambda row: str(row.format), lambda row: str(row.format)),
    Column("Precision", lambda row: str(row.precision), lambda row: str(row.precision)),
    Column("Runtime", lambda row: str(row.runtime), lambda row: str(row.runtime)),
    Column("Threads", lambda row: str(row.threads), lambda row: row.threads, numeric=True),
    Column(
        TOP1,
        _top1,
        lambda row: row.top1,
        _top1_detail,
        _top1_line,
        numeric=True,
        help="Share of test pictures answered right by this file in this runtime, with the 95 % Wilson interval",
    ),
    Column(
        "Latency, ms",
        _latency,
        lambda row: row.latency_ms,
        _latency_detail,
        _latency_line,
        numeric=True,
        help="Median time of one call in steady state, with its 95 % interval over process restarts",
    ),
    Column("p90, ms", lambda row: wording.milliseconds(row.p90_ms, unit=False), lambda row: row.p90_ms, numeric=True),
    Column(
        "Load, ms",
        lambda row: wording.milliseconds(row.load_ms, unit=False),
        lambda row: row.load_ms,
        numeric=True,
        help="Time from opening the file until the first call can start",
    ),
    Column(
        "Peak memory",
        lambda row: wording.byte_size(row.peak_memory_bytes),
        lambda row: row.peak_memory_bytes,
        numeric=True,
        help="Peak resident memory of the process that ran the file",
    ),
    Column("Size", lambda row: wording.byte_size(row.size_bytes), lambda row: row.size_bytes, numeric=True),
)


def status_note(row: Row) -> str:
    """Return the row's note; a row that is not ok and gives no reason says so."""
    if row.note or row.status == "ok":
        return row.note
    return "no reason was recorded"


def one_line(row: Row) -> str:
    """Name a row in one line: model, bundle, precision, runtime, threads."""
    threads = wording.count(row.threads, "thread")
    names = [row.model, _model_detail(row), str(row.precision), str(row.format), str(row.runtime), threads]
    return ", ".join(name for name in names if name)
