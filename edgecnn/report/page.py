"""What the small pages (data check, evaluation) share: a page that stands on its own, its sections and its pictures."""

from __future__ import annotations

import base64
from pathlib import Path

from edgecnn.report.markup import Markup, element, text

# Belt and braces, as in html.py: everything is inside the page, and the browser is told to fetch nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_JPEG = b"\xff\xd8"


def whole_page(title: str, header: Markup, *sections: Markup, style: str = "") -> str:
    """Return the page as text. Nothing in it refers to anything outside it; ``style`` is CSS added to the report's."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8") + style)),
    )
    footer = element("footer", element("p", "Written by edgecnn. This page is one file and fetches nothing."))
    body = element("body", element("header", header), element("main", *sections), footer)
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"


def section(name: str, title: str, *content: Markup | None) -> Markup:
    """One section with its heading; ``name`` is its anchor."""
    heading = element("h2", title, id=f"{name}-heading")
    return element("section", heading, *content, id=name, aria_labelledby=f"{name}-heading")


def image(alt: str, content: bytes) -> Markup:
    """An image element (which has no end tag) with the picture itself, JPEG or PNG, inside."""
    kind = "jpeg" if content.startswith(_JPEG) else "png"
    encoded = base64.b64encode(content).decode("ascii")
    return Markup(f'<img alt="{text(alt)}" src="data:image/{kind};base64,{encoded}">')
