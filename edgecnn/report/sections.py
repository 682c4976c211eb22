"""The sections of the page, each a function from values to markup, or None when there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgecnn.report import wording
from edgecnn.report.columns import COLUMNS, Column, heading, one_line, status_note
from edgecnn.report.confusion import confusion_words, draw_confusion
from edgecnn.report.curves import draw_curves
from edgecnn.report.markup import Markup, element, join
from edgecnn.report.rows import Confusion, Curves, Environment, ParityRow, Row
from edgecnn.report.scatter import colour_class, draw_key, draw_scatter, drawable


def tiles(rows: Sequence[Row]) -> Markup:
    """Show what stands out: the most accurate, the fastest, the smallest, and how many rows failed."""
    good = [row for row in rows if drawable(row)]
    found = [
        _tile("Most accurate", good, lambda row: -(row.top1 or 0.0), lambda row: wording.percent(row.top1)),
        _tile("Fastest", good, lambda row: row.latency_ms, lambda row: wording.milliseconds(row.latency_ms)),
        _tile("Smallest", good, lambda row: row.size_bytes, lambda row: wording.byte_size(row.size_bytes)),
        _count_tile(rows),
    ]
    return element("dl", *found, class_="tiles")


def _tile(
    title: str, rows: Sequence[Row], order: Callable[[Row], float | None], words: Callable[[Row], str]
) -> Markup | None:
    ranked = [
        (key, row.latency_ms or 0.0, index, row) for index, row in enumerate(rows) if (key := order(row)) is not None
    ]
    if not ranked:
        return None
    best = min(ranked, key=lambda entry: entry[:3])[3]
    return _draw_tile(title, words(best), one_line(best))


def _count_tile(rows: Sequence[Row]) -> Markup:
    others: dict[str, int] = {}
    for row in rows:
        if row.status != "ok":
            others[str(row.status)] = others.get(str(row.status), 0) + 1
    rest = ", ".join(f"{number} {status}" for status, number in others.items())
    return _draw_tile("Rows", str(len(rows)), rest or "all ok" if rows else "nothing was measured")


def _draw_tile(title: str, figure: str, origin: str) -> Markup:
    shown = element("dd", element("span", figure, class_="figure"))
    return element("div", element("dt", title), shown, element("dd", origin, class_="from"), class_="tile")


def scatter_section(rows: Sequence[Row]) -> Markup | None:
    """Show the plot with its legend, and say how to read it and what it leaves out."""
    drawing = draw_scatter(rows)
    if drawing is None:
        return None
    missing = sum(not drawable(row) for row in rows)
    left_out = f" {wording.count(missing, 'row')} without both figures not drawn." if missing else ""
    words = (
        "Better is up and to the left. Colour is the runtime, shape the precision, area the file's size (the smallest"
        " marks are enlarged to stay visible). Bars are 95 % intervals. Numbers are rows of the table. On the dashed"
        f" line lies what no other row beats in both accuracy and speed.{left_out}"
    )
    return join(draw_key(rows), drawing, element("p", words, class_="soft"))


def result_table(rows: Sequence[Row]) -> Markup:
    """Show every row, the failing ones with their reason."""
    if not rows:
        return element("p", "No rows were measured.")
    titles = [_heading(heading(c, rows), numeric=c.numeric, help=c.help) for c in COLUMNS]
    headings = [_heading("#", numeric=True), *titles]
    headings.append(_heading("Status"))
    body = [_result_row(number, row) for number, row in enumerate(rows, start=1)]
    return _scrolling("Table of results", headings, body)


def _heading(title: str, *, numeric: bool = False, help: str = "", sortable: bool = True) -> Markup:
    label = element("button", title, type="button", title=help or None) if sortable else title
    kind = "number" if numeric else "text"
    return element("th", label, scope="col", data_kind=kind, class_="figure-cell" if numeric else None)


def _scrolling(caption: str, headings: Sequence[Markup], rows: Sequence[Markup]) -> Markup:
    table = element("table", element("thead", element("tr", *headings)), element("tbody", *rows), aria_label=caption)
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"{caption}, scrollable")


def _result_row(number: int, row: Row) -> Markup:
    cells = [element("td", number, class_="figure-cell", data_order=number)]
    cells.extend(_result_cell(column, row) for column in COLUMNS)
    note = element("span", status_note(row), class_="detail note")
    cells.append(element("td", _badge(row.status), note, class_="status", data_order=str(row.status)))
    return element("tr", *cells, class_=str(row.status))


def _result_cell(column: Column, row: Row) -> Markup:
    detail = column.detail(row)
    order = column.order(row)
    dot = element("span", class_=f"dot {colour_class(row.runtime)}", aria_hidden="true")
    return element(
        "th" if column.title == "Model" else "td",
        dot if column.title == "Runtime" else None,
        column.cell(row),
        element("span", detail, class_="detail") if detail else None,
        scope="row" if column.title == "Model" else None,
        class_="figure-cell" if column.numeric else None,
        data_order="" if order is None else str(order),
    )


def _badge(status: str) -> Markup:
    return element("span", str(status), class_=f"badge {status}")


def parity_table(rows: Sequence[ParityRow]) -> Markup | None:
    """Show every stage against its parent; a stage that failed names the first layer that diverges."""
    if not rows:
        return None
    words = (
        "Each stage is compared with the one before it on the same real pictures. Agreement is the share of pictures"
        " with the same answer, or, where pictures have several labels, of equal decisions (and sets); SQNR says"
        " how far the logits stand above their difference; errors are in logits, of int8 files also in steps of their"
        " output. A near tie is an answer that differs by one such step at most."
    )
    numeric = ("Pictures", "Agreement", "Cosine", "SQNR", "Largest error")
    titles = ("Stage", "Against", *numeric, "Verdict", "First diverging layer", "Notes")
    headings = [_heading(title, numeric=title in numeric, sortable=False) for title in titles]
    table = _scrolling("Table of parity", headings, [_parity_row(row) for row in rows])
    return join(element("p", words, class_="soft"), table)


def _parity_row(row: ParityRow) -> Markup:
    figures = (
        wording.MISSING if row.images is None else f"{row.images:,}",
        wording.percent(row.agreement)
        + ("" if row.equal_sets is None else f" (sets {wording.percent(row.equal_sets)})")
        + (f", {wording.count(row.near_ties, 'near tie')}" if row.near_ties else ""),
        wording.MISSING if row.cosine is None else f"{row.cosine:.5f}",
        wording.decibel(row.sqnr_db),
        (wording.MISSING if row.max_error is None else wording.significant(row.max_error))
        + ("" if row.max_steps is None else f" ({row.max_steps:.1f} steps)"),
    )
    bundle = element("span", row.bundle, class_="detail") if row.bundle else None
    return element(
        "tr",
        element("th", row.stage, bundle, scope="row"),
        element("td", row.parent),
        *(element("td", figure, class_="figure-cell") for figure in figures),
        element("td", _badge(row.status)),
        element("td", row.first_divergence or wording.MISSING, class_="divergence"),
        element("td", row.note, class_="note"),
        class_=str(row.status),
    )


def curves_section(curves: Sequence[Curves]) -> Markup | None:
    """Show loss and top-1 over the epochs, one pair of plots per training run."""
    drawn = [(run, draw_curves(run)) for run in curves if run.history]
    blocks = [
        join(element("h3", run.name), element("div", *plots, class_="side-by-side"), _sentences(run.findings))
        for run, plots in drawn
        if plots
    ]
    return join(*blocks) if blocks else None


def _sentences(words: Sequence[str]) -> Markup | None:
    return element("ul", *(element("li", sentence) for sentence in words), class_="sentences") if words else None


def confusion_section(confusions: Sequence[Confusion]) -> Markup | None:
    """Show each matrix beside the sentences that say what to look at first."""
    return join(*map(_confusion_block, confusions)) if confusions else None


def _confusion_block(confusion: Confusion) -> Markup:
    sentences = element("ul", *(element("li", words) for words in confusion_words(confusion)), class_="sentences")
    matrix = draw_confusion(confusion)
    words = "Blue: right, by share of the row. Orange: mistakes, relative to the largest." if matrix else None
    reading = element("p", words, class_="soft") if words else None
    beside = element("div", sentences, reading)
    return join(element("h3", confusion.name), element("div", matrix, beside, class_="side-by-side"))


def environment_section(environment: Environment) -> Markup | None:
    """Show the facts as a list of terms; nested mappings are written as "machine / cores"."""
    facts = _flatten(environment.facts)
    if not facts:
        return None
    pairs = [join(element("dt", name), element("dd", value)) for name, value in facts]
    return element("dl", *pairs, class_="facts")


def _flatten(facts: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat.extend(_flatten(value, f"{prefix}{name} / "))
        elif isinstance(value, list | tuple | set | frozenset):
            flat.append((f"{prefix}{name}", ", ".join(map(str, value)) or wording.MISSING))
        else:
            flat.append((f"{prefix}{name}", wording.MISSING if value is None else str(value)))
    return flat
