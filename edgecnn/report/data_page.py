"""One self-contained HTML page about a data set: counts, sizes, and the pictures that are in it more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecnn.report.markup import Markup, element, join
from edgecnn.report.page import line, pictures, section, table, whole_page
from edgecnn.report.rows import write_whole

_STYLE = """
.bar { display: block; height: 12px; border-radius: 3px; background: var(--accent); }
.bars td:last-child { width: 60%; }
.twins img { min-width: 48px; }
"""


@dataclass(frozen=True)
class Thumbnail:
    """One picture of a group: its id, split and class, width and height in pixels, and a small JPEG of it."""

    id: str
    split: str
    label: str
    size: tuple[int, int]
    jpeg: bytes


@dataclass(frozen=True)
class Twins:
    """One group of pictures that are the same; ``left_out`` more are in it than are shown."""

    title: str
    leak: bool
    pictures: Sequence[Thumbnail]
    left_out: int


@dataclass(frozen=True)
class DataPage:
    """All that the page shows.

    ``counts`` are pictures by split and class (in the order of ``labels``), ``sizes`` are (name, pictures);
    ``left_out`` more groups were found than are shown.
    """

    name: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    labels: Sequence[str]
    counts: Mapping[str, Sequence[int]]
    sizes: Sequence[tuple[str, int]]
    twins: Sequence[Twins]
    left_out: int = 0


def write_data_page(path: Path, page: DataPage) -> None:
    """Write the page to ``path``, whole or not at all. Raises ``OSError`` if it cannot be written."""
    write_whole(path, render(page))


def render(page: DataPage) -> str:
    """Return the page as text. Nothing in it refers to anything outside it."""
    title = f"Data check: {page.name}"
    tiles = [
        element("div", element("dt", name), element("dd", value, class_="figure"), class_="tile")
        for name, value in page.facts
    ]
    return whole_page(
        title,
        join(element("h1", title), element("dl", *tiles, class_="tiles")),
        section("notes", "Findings", element("ul", *(element("li", note) for note in page.notes))),
        section("counts", "Pictures by class and split", _counts(page)),
        section("sizes", "Sizes in pixels", _bars(page.sizes, "Size (one number: short side)")),
        section("twins", "Pictures that are there more than once", _groups(page)),
        style=_STYLE,
    )


def _counts(page: DataPage) -> Markup:
    parts = []
    for split, row in page.counts.items():
        parts.append(element("h3", f"{split}: {sum(row)}"))
        parts.append(_bars(list(zip(page.labels, row, strict=True)), "Class"))
    return join(*parts)


def _bars(rows: Sequence[tuple[str, int]], title: str) -> Markup:
    """A table of name, count, and a bar of which the longest is as wide as its column."""
    most = max((count for _, count in rows), default=0) or 1
    lines = [
        line(name, (str(count),), element("span", class_="bar", style=f"width: {100 * count / most:.1f}%"))
        for name, count in rows
    ]
    return table((title, "Pictures", ""), lines, css="bars")


def _groups(page: DataPage) -> Markup:
    if not page.twins:
        return element("p", "None was found.")
    parts = [_group(twins) for twins in page.twins]
    if page.left_out:
        parts.append(element("p", f"{page.left_out} groups more are not shown; --json lists them all.", class_="soft"))
    return join(*parts)


def _group(twins: Twins) -> Markup:
    badge = element("span", "in two splits or more", class_="badge bad") if twins.leak else None
    shown = [(each.id, each.jpeg, _below(each)) for each in twins.pictures]
    more = element("p", f"and {twins.left_out} more", class_="soft") if twins.left_out else None
    return join(element("h3", twins.title, " ", badge), pictures(shown, "twins", more))


def _below(each: Thumbnail) -> Markup:
    width, height = each.size
    return join(element("strong", each.split), f", {each.label}, {width} x {height}: {each.id}")
