"""The result table in the terminal, with rich: one line per row, reasons and notes under the table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from edgecnn.report.columns import COLUMNS, Column, status_note
from edgecnn.report.columns import heading as titled
from edgecnn.report.rows import Row
from edgecnn.report.wording import MISSING
from edgecnn.spec import Status

_STYLES = {Status.OK: "green", Status.INCONCLUSIVE: "yellow", Status.UNAVAILABLE: "yellow", Status.FAILED: "bold red"}
_FIRST_TO_GO = ("Load, ms", "Peak memory", "p90, ms", "Format")
_SHORT = {"Precision": "Prec.", "Threads": "Thr."}
_NARROWEST_MODEL = 10


def result_table(rows: Sequence[Row], *, title: str | None = None, width: int | None = None) -> Table:
    """Build the table of results, with numbered reasons and notes as its caption.

    Columns in which no row has a figure are left out, and the status when every row is ok. With a ``width`` in
    characters, the less important columns go until the table fits, then the intervals, and at last the model's name is
    folded; the page and the JSON always have everything.
    """
    shown = [column for column in COLUMNS if any(column.cell(row) != MISSING for row in rows)]
    table = _build(rows, shown, title, short=False)
    for name in _FIRST_TO_GO:
        if width is None or natural_width(table) <= width:
            return table
        shown = [column for column in shown if column.title != name]
        table = _build(rows, shown, title, short=False)
    if width is None or natural_width(table) <= width:
        return table
    table = _build(rows, shown, title, short=True)
    excess = max(0, natural_width(table) - width)
    table.columns[1].width = max(_NARROWEST_MODEL, natural_width(table, column=1) - excess)
    return table


def print_table(rows: Sequence[Row], *, title: str | None = None, console: Console | None = None) -> None:
    """Print the table of results to ``console``, or to standard output; into a pipe or a file it goes whole."""
    if console is None:
        console = Console()
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = max(console.width, natural_width(result_table(rows)))
    console.print(result_table(rows, title=title, width=console.width))


def natural_width(table: Table, *, column: int | None = None) -> int:
    """Return how many characters the table, or one of its columns, needs when nothing wraps; the caption may wrap."""
    console = Console(width=10_000)
    if column is None:
        return Measurement.get(console, console.options, table).maximum
    cells = [table.columns[column].header, *table.columns[column].cells]
    return max(Measurement.get(console, console.options, cell).maximum for cell in cells)


def _build(rows: Sequence[Row], shown: Sequence[Column], title: str | None, *, short: bool) -> Table:
    table = Table(title=title, caption=_notes(rows), box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    table.add_column("#", justify="right", no_wrap=True)
    for column in shown:
        heading = _SHORT.get(column.title) if short else None
        heading = heading or titled(column, rows)
        justify: Literal["left", "right"] = "right" if column.numeric else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=column.title != "Model")
    statuses = any(row.status != Status.OK for row in rows)
    if statuses:
        table.add_column("Status", no_wrap=True)
    for number, row in enumerate(rows, start=1):
        # Text, not str: a class folder called "[red]" must not be read as rich's own markup.
        cells = [Text((column.cell if short else column.line or column.cell)(row)) for column in shown]
        status = [Text(str(row.status), style=_STYLES.get(row.status, ""))] if statuses else []
        table.add_row(Text(str(number)), *cells, *status)
    return table


def _notes(rows: Sequence[Row]) -> Text | None:
    lines = [f"{number}: {note}" for number, row in enumerate(rows, start=1) if (note := status_note(row))]
    return Text("\n".join(lines), style="default not italic") if lines else None
