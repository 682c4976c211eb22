"""What the small pages (data check, evaluation) share: a page that stands on its own, its sections and its pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from edgecnn.report.markup import Markup, element, text

# Belt and braces, as in html.py: everything is inside the page, and the browser is told to fetch nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_JPEG = b"\xff\xd8"
_STYLE = """
.pictures { display: flex; flex-wrap: wrap; gap: 16px; margin: 0 0 18px; }
.pictures figure { margin: 0; width: 132px; font-size: 11.5px; overflow-wrap: anywhere; }
.pictures img { display: block; margin: 0 0 4px; }
"""


def whole_page(title: str, header: Markup, *sections: Markup, style: str = "") -> str:
    """Return the page as text. Nothing in it refers to anything outside it; ``style`` is CSS added to the report's."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8") + _STYLE + style)),
    )
    footer = element("footer", element("p", "Written by edgecnn. This page is one file and fetches nothing."))
    body = element("body", element("header", header), element("main", *sections), footer)
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"


def section(name: str, title: str, *content: Markup | None) -> Markup:
    """One section with its heading; ``name`` is its anchor."""
    heading = element("h2", title, id=f"{name}-heading")
    return element("section", heading, *content, id=name, aria_labelledby=f"{name}-heading")


def table(heads: Sequence[str], rows: Sequence[Markup], caption: str | None = None, css: str | None = None) -> Markup:
    """A table of which the first column names the row and the others hold figures; an empty head is for a drawing."""
    named, *others = heads
    cells = [
        element("th", head, scope="col", class_="figure-cell") if head else element("td", aria_hidden="true")
        for head in others
    ]
    head = element("thead", element("tr", element("th", named, scope="col"), *cells))
    body = element("table", head, element("tbody", *rows), aria_label=caption, class_=css)
    return element("div", body, class_="scroll")


def line(name: str, figures: Sequence[str], drawing: Markup | None = None) -> Markup:
    """A row of ``table``."""
    cells = [element("td", figure, class_="figure-cell") for figure in figures]
    last = None if drawing is None else element("td", drawing)
    return element("tr", element("th", name, scope="row"), *cells, last)


def pictures(shown: Sequence[tuple[str, bytes, Markup]], css: str, more: Markup | None = None) -> Markup:
    """Pictures side by side: (id, JPEG or PNG, what stands below), and something behind the last."""
    figures = [element("figure", image(id, content), element("figcaption", below)) for id, content, below in shown]
    return element("div", *figures, more, class_=f"pictures {css}")


def image(alt: str, content: bytes) -> Markup:
    """An image element (which has no end tag) with the picture itself, JPEG or PNG, inside."""
    kind = "jpeg" if content.startswith(_JPEG) else "png"
    encoded = base64.b64encode(content).decode("ascii")
    return Markup(f'<img alt="{text(alt)}" src="data:image/{kind};base64,{encoded}">')
