"""Tables for the terminal besides the table of results: parity, layers, and layers that lose in int8."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from edgecnn.models.layers import LayerRow
from edgecnn.report.diagnosis_page import LossRow
from edgecnn.report.rows import ParityRow
from edgecnn.report.wording import count


def print_parity(rows: Sequence[ParityRow]) -> None:
    """One line per stage: who was compared with whom, and how well they agree."""
    table = Table()
    for title in (
        "Bundle",
        "Parent",
        "Stage",
        "Images",
        "Agreement",
        "Cosine",
        "SQNR, dB",
        "Largest error",
        "Steps",
        "Verdict",
    ):
        table.add_column(title, justify="right" if title not in ("Bundle", "Parent", "Stage", "Verdict") else "left")
    for row in rows:
        table.add_row(
            row.bundle,
            row.parent,
            row.stage,
            _number(row.images, "d"),
            agreement_words(row),
            _number(row.cosine, ".6f"),
            _number(row.sqnr_db, ".1f"),
            _number(row.max_error, ".4g"),
            _number(row.max_steps, ".1f"),
            f"{row.status}{': ' + row.note if row.note else ''}",
        )
    _print(table)


def agreement_words(row: ParityRow) -> str:
    """The share of equal answers; of several labels that of equal decisions, and of pictures with equal sets."""
    sets = "" if row.equal_sets is None else f" of labels, {100 * row.equal_sets:.2f} % of sets"
    ties = f", {count(row.near_ties, 'near tie')}" if row.near_ties else ""
    return _number(None if row.agreement is None else 100 * row.agreement, ".2f", " %") + sets + ties


def print_layers(rows: Sequence[LayerRow], params: int, macs: int, published: str = "") -> None:
    """The layer table of a network with its totals, and what is ``published`` about them on a line below."""
    table = Table(caption=f"{params:,} parameters, {macs / 1e6:,.2f} M MACs")
    for title in ("Layer", "Type", "Output", "Parameters", "MACs", "Receptive field, px"):
        table.add_column(title, justify="left" if title in ("Layer", "Type", "Output") else "right")
    for row in rows:
        shape = " x ".join(map(str, row.output_shape))
        table.add_row(row.name, row.type, shape, f"{row.params:,}", f"{row.macs:,}", str(row.receptive_field))
    _print(table)
    if published:
        print(published)


def print_losses(rows: Sequence[LossRow]) -> None:
    """Layers of an int8 network, the worst first: SQNR in dB and the reason; evidence and repairs stand below."""
    table = Table()
    for title in ("#", "Layer", "Weights", "Activation", "Up to here", "Only this", "All but this", "Reason"):
        table.add_column(title, justify="left" if title in ("Layer", "Reason") else "right")
    for number, row in enumerate(rows, start=1):
        levels = (row.weights_db, row.activation_db, row.accumulated_db, row.only_db, row.without_db)
        table.add_row(str(number), row.name, *(_number(db, ".1f") for db in levels), row.cause)
    _print(table)
    print("SQNR in dB; the last two are of the answers, with only this layer in int8 and with all but this one.")
    for number, row in enumerate(rows, start=1):
        print(f"{number}. {row.name}: {row.cause}: {row.evidence}")
    for cause, repair in {row.cause: row.repair for row in rows}.items():
        print(f"{cause}: {repair}")


def _print(table: Table) -> None:
    """To stdout; whole when nobody's terminal limits the width."""
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"
