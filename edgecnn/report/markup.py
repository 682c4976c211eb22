"""HTML and SVG built from values, escaped by default: the only way by which text enters the page."""

from __future__ import annotations

import re
from html import escape as _escape

_VOID = frozenset({"br", "col", "link", "meta"})
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Markup(str):
    """Text that is already HTML or SVG; everything else is escaped when it is put into an element."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Escape a value for use between tags or inside a quoted attribute; control characters become U+FFFD."""
    if isinstance(value, Markup):
        return value
    return Markup(_escape(_CONTROL.sub("�", str(value)), quote=True))


def join(*parts: object) -> Markup:
    """Set parts side by side, escaping those that are not markup; None is left out."""
    return Markup("".join(text(part) for part in parts if part is not None))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """Build one element.

    ``class_`` and ``for_`` lose their last underscore, other underscores become dashes (``aria_label``). An attribute
    of None or False is left out, True stands alone, a float is rounded to 2 decimals (SVG coordinates).
    """
    opening = "".join([f"<{name}", *(_attribute(key, value) for key, value in attributes.items()), ">"])
    return Markup(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    key = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {key}"
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return f' {key}="{text(value)}"'
