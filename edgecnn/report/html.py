"""One self-contained HTML page: results, plot, parity, training curves, confusion matrix, environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edgecnn.report import sections
from edgecnn.report.markup import Markup, element
from edgecnn.report.rows import Confusion, Curves, Environment, ParityRow, Row, write_whole

# Belt and braces: everything is inside the page, and the browser is told to fetch nothing even if it were not.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Report:
    """All that a page shows. Parts that are empty are left out of the page."""

    rows: Sequence[Row]
    title: str = "edgecnn report"
    subtitle: str = ""
    parity: Sequence[ParityRow] = ()
    curves: Sequence[Curves] = ()
    confusions: Sequence[Confusion] = ()
    environment: Environment = field(default_factory=Environment)
    created: datetime | None = None


def write_report(
    path: Path,
    rows: Sequence[Row],
    *,
    title: str = "edgecnn report",
    subtitle: str = "",
    parity: Sequence[ParityRow] = (),
    curves: Sequence[Curves] = (),
    confusions: Sequence[Confusion] = (),
    environment: Environment | Mapping[str, object] | None = None,
    created: datetime | None = None,
) -> None:
    """Write the page to ``path``, whole or not at all; ``created`` is now unless given."""
    facts = environment if isinstance(environment, Environment) else Environment(environment or {})
    report = Report(rows, title, subtitle, parity, curves, confusions, facts, created or datetime.now(UTC))
    write_whole(path, render(report))


def render(report: Report) -> str:
    """Return the page as text. Nothing in it refers to anything outside it."""
    parts = _parts(report)
    body = element(
        "body",
        element("a", "Skip to the results", class_="skip", href="#results"),
        _header(report, parts),
        element("main", *(_section(name, title, content) for name, title, content in parts)),
        _footer(report),
        element("script", Markup(_beside("page.js"))),
    )
    return "<!DOCTYPE html>\n" + element("html", _head(report), body, lang="en") + "\n"


def _parts(report: Report) -> list[tuple[str, str, Markup]]:
    """Return (anchor, heading, content) of every section that has something to show."""
    parts = [
        ("plot", "Accuracy, latency and size", sections.scatter_section(report.rows)),
        ("results", "Results", sections.result_table(report.rows)),
        ("parity", "Parity: does it still compute the same?", sections.parity_table(report.parity)),
        ("training", "Training", sections.curves_section(report.curves)),
        ("confusion", "Confusion", sections.confusion_section(report.confusions)),
        ("environment", "Environment", sections.environment_section(report.environment)),
    ]
    return [(name, title, content) for name, title, content in parts if content is not None]


def _section(name: str, title: str, content: Markup) -> Markup:
    heading = element("h2", title, id=f"{name}-heading")
    return element("section", heading, content, id=name, aria_labelledby=f"{name}-heading")


def _head(report: Report) -> Markup:
    return element(
        "head",
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", report.title),
        element("style", Markup(_beside("page.css"))),
    )


def _header(report: Report, parts: Sequence[tuple[str, str, Markup]]) -> Markup:
    links = [element("li", element("a", title, href=f"#{name}")) for name, title, _ in parts]
    return element(
        "header",
        element("h1", report.title),
        element("p", report.subtitle, class_="soft") if report.subtitle else None,
        sections.tiles(report.rows),
        element("nav", element("ul", *links), aria_label="Sections"),
    )


def _footer(report: Report) -> Markup:
    when = f"{report.created:%Y-%m-%d %H:%M %Z}".strip() if report.created else ""
    words = f"Written by edgecnn{f' on {when}' if when else ''}. This page is one file and fetches nothing."
    return element("footer", element("p", words))


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
