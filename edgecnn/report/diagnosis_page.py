"""One self-contained HTML page about an int8 network: what it loses, in which layers, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecnn.report import wording
from edgecnn.report.axes import Frame, Scale, draw_axes, tick_words
from edgecnn.report.markup import Markup, element, join
from edgecnn.report.page import section, table, whole_page
from edgecnn.report.rows import write_whole

FULL_DB = 60.0  # a bar of so many dB is whole
SHOWN_BARS = 16  # layers
WIDTH, HEIGHT = 1180, 330
FRAME = Frame(left=52, top=32, right=WIDTH - 12, bottom=HEIGHT - 50)
SMALL_WIDTH, SMALL_HEIGHT = 420, 210
SMALL = Frame(left=12, top=30, right=SMALL_WIDTH - 12, bottom=SMALL_HEIGHT - 44)
SERIES: tuple[tuple[str, str, Callable[[LossRow], float | None]], ...] = (
    ("weights alone", "colour-2", lambda row: row.weights_db),
    ("activation alone", "colour-1", lambda row: row.activation_db),
    ("everything up to here", "neutral", lambda row: row.accumulated_db),
)
_STYLE = """
.db { display: grid; grid-template-columns: minmax(40px, 1fr) 5ch; gap: 0 8px; align-items: center; line-height: 1.25; }
.db span { height: 8px; border-radius: 3px; background: var(--colour); }
.db b { font-weight: 400; text-align: right; }
.layers td:nth-child(2), .layers td:nth-child(3) { width: 21%; }
.layers td:last-child { white-space: normal; min-width: 36ch; }
.layers tbody th { max-width: 30ch; }
.histograms { display: flex; flex-wrap: wrap; gap: 18px 24px; }
.histograms figure { margin: 0; flex: 1 1 380px; max-width: 520px; }
.histograms figcaption { font-size: 12.5px; overflow-wrap: anywhere; }
.levels { fill: var(--accent); fill-opacity: 0.10; }
.series { fill: none; stroke: var(--colour); stroke-width: 1.75; stroke-linejoin: round; }
.suspect { fill: var(--wrong); }
"""


@dataclass(frozen=True)
class LossRow:
    """One layer: SQNR in dB (``None``: it has no weights, or was not measured), why, and what to do."""

    name: str
    kind: str
    weights_db: float | None
    activation_db: float
    accumulated_db: float
    only_db: float | None
    without_db: float | None
    cause: str
    evidence: str
    repair: str


@dataclass(frozen=True)
class TensorHistogram:
    """How often a tensor's values occur: ``counts`` (B,) between ``edges`` (B + 1,), and the real values of -128 and
    127."""

    name: str
    counts: Sequence[int]
    edges: Sequence[float]
    grid: tuple[float, float]
    words: str


@dataclass(frozen=True)
class DiagnosisPage:
    """All that the page shows.

    ``figures`` are (name, value, what it is); ``findings`` (cause, evidence, repair) of the whole network; ``layers``
    the worst first; ``order`` their names in the network's order.
    """

    title: str
    subtitle: str
    figures: Sequence[tuple[str, str, str]]
    findings: Sequence[tuple[str, str, str]]
    layers: Sequence[LossRow]
    order: Sequence[str]
    histograms: Sequence[TensorHistogram]


def write_diagnosis_page(path: Path, page: DiagnosisPage) -> None:
    """Write the page to ``path``, whole or not at all. Raises ``OSError`` if it cannot be written."""
    write_whole(path, render(page))


def render(page: DiagnosisPage) -> str:
    """Return the page as text. Nothing in it refers to anything outside it."""
    tiles = [
        element(
            "div",
            element("dt", name),
            element("dd", value, class_="figure"),
            element("dd", what, class_="from"),
            class_="tile",
        )
        for name, value, what in page.figures
    ]
    header = join(
        element("h1", page.title), element("p", page.subtitle, class_="soft"), element("dl", *tiles, class_="tiles")
    )
    return whole_page(
        page.title,
        header,
        *([section("findings", "The whole network", _findings(page.findings))] if page.findings else []),
        section("worst", "The worst layers, and why", _worst(page.layers)),
        section("profile", "Along the network", _profile(page)),
        section("histograms", "Values of the worst tensors against their 256 levels", _histograms(page.histograms)),
        style=_STYLE,
    )


def _findings(findings: Sequence[tuple[str, str, str]]) -> Markup:
    badge = "badge failed"
    items = [
        element("li", element("span", cause, class_=badge), f" {evidence}. ", element("em", f"{repair}."))
        for cause, evidence, repair in findings
    ]
    return element("ul", *items, class_="sentences")


def _worst(layers: Sequence[LossRow]) -> Markup:
    words = (
        "Signal to quantization noise in dB: each bar is whole at 60 dB, and 6 dB are one bit. Left: the layer's own"
        " output. Right: the answers of the network with only this layer in int8, and with all but this one."
    )
    rows = [
        element(
            "tr",
            element("th", row.name, element("span", row.kind, class_="detail"), scope="row"),
            element(
                "td",
                *(_bar(value(row), colour, title) for title, colour, value in SERIES),
            ),
            element(
                "td", _bar(row.only_db, "colour-4", "only this layer"), _bar(row.without_db, "colour-3", "all but this")
            ),
            element(
                "td",
                element("strong", row.cause),
                f": {row.evidence}",
                element("span", row.repair, class_="detail"),
            ),
        )
        for row in layers[:SHOWN_BARS]
    ]
    key = [(title, colour) for title, colour, _ in SERIES]
    key += [("answers, only this layer in int8", "colour-4"), ("answers, all but this one", "colour-3")]
    left_out = len(layers) - len(rows)
    more = element("p", f"{left_out} layers more; --json has them all.", class_="soft") if left_out else None
    shown = table(("Layer", "Its output", "The answers", "Reason and repair"), rows, "The worst layers", "layers")
    return join(element("p", words, class_="soft"), _key(key), shown, more)


def _bar(value: float | None, colour: str, title: str) -> Markup | None:
    if value is None:
        return None
    wide = 100 * min(1.0, max(0.01, value / FULL_DB))
    bar = element("span", style=f"width: {wide:.1f}%")
    return element("div", bar, element("b", f"{value:.0f}"), class_=f"db {colour}", title=f"{title}: {value:.1f} dB")


def _profile(page: DiagnosisPage) -> Markup:
    """SQNR over the layers in the network's order; orange dots mark those with a sensitivity that was measured."""
    by_name = {row.name: row for row in page.layers}
    rows = [by_name[name] for name in page.order]
    x = Scale(0.0, max(1.0, len(rows) - 1.0), FRAME.left + 6, FRAME.right - 6)
    y = Scale(0.0, FULL_DB, FRAME.bottom, FRAME.top)
    words = "Signal to quantization noise of every layer, in the order of the network"

    def points(value: Callable[[LossRow], float | None]) -> list[tuple[float, float]]:
        found = [(at, value(row)) for at, row in enumerate(rows)]
        return [(x(at), y(min(FULL_DB, max(0.0, db)))) for at, db in found if db is not None]

    lines = [
        element("path", d="M" + " L".join(f"{a:.1f} {b:.1f}" for a, b in points(value)), class_=f"series {colour}")
        for _, colour, value in SERIES
        if points(value)
    ]
    dots = [
        element(
            "circle",
            element("title", f"{row.name}: {row.cause}"),
            cx=x(at),
            cy=y(min(FULL_DB, max(0.0, row.accumulated_db))),
            r=3.5,
            class_="suspect",
        )
        for at, row in enumerate(rows)
        if row.only_db is not None
    ]
    axes = draw_axes(
        FRAME, x, y, x_title="Layer", y_title="SQNR, dB", word_x=lambda at: tick_words(at + 1), word_y=tick_words
    )
    drawn = element(
        "svg",
        element("title", words),
        axes,
        *lines,
        *dots,
        class_="plot",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=words,
    )
    return join(_key([(title, colour) for title, colour, _ in SERIES]), drawn)


def _histograms(histograms: Sequence[TensorHistogram]) -> Markup:
    words = (
        "Logarithmic counts of the float network's values. Shaded: what the 256 levels reach; orange: what they do not."
    )
    figures = [element("figure", _histogram(each), element("figcaption", each.words)) for each in histograms]
    return join(element("p", words, class_="soft"), element("div", *figures, class_="histograms"))


def _histogram(each: TensorHistogram) -> Markup:
    ends = [*each.grid, each.edges[0], each.edges[-1]]
    x = Scale(min(ends), max(ends), SMALL.left, SMALL.right)
    y = Scale(0.0, math.log1p(max(each.counts)), SMALL.bottom, SMALL.top)
    low, high = each.grid
    bars = []
    for count, left, right in zip(each.counts, each.edges[:-1], each.edges[1:], strict=True):
        if count:
            top = y(math.log1p(count))
            wide = max(0.6, x(right) - x(left) - 0.6)
            css = "right" if low <= (left + right) / 2 <= high else "wrong"
            bars.append(
                element("g", element("rect", x=x(left), y=top, width=wide, height=SMALL.bottom - top), class_=css)
            )
    shade = element(
        "rect", x=x(low), y=SMALL.top, width=x(high) - x(low), height=SMALL.bottom - SMALL.top, class_="levels"
    )
    ticks = [
        element("text", words, class_="tick", x=x(at), y=SMALL.bottom + shift, text_anchor=anchor)
        for at, words, shift, anchor in (
            (low, f"-128: {wording.significant(low)}", 18, "start"),
            (high, f"127: {wording.significant(high)}", 34, "end"),
        )
    ]
    return element(
        "svg",
        element("title", each.name),
        shade,
        *bars,
        element("line", class_="axis", x1=SMALL.left, x2=SMALL.right, y1=SMALL.bottom, y2=SMALL.bottom),
        *ticks,
        element("text", each.name, class_="label", x=SMALL.left, y=SMALL.top - 10),
        class_="plot",
        viewBox=f"0 0 {SMALL_WIDTH} {SMALL_HEIGHT}",
        role="img",
        aria_label=f"Histogram of {each.name}",
    )


def _key(names: Sequence[tuple[str, str]]) -> Markup:
    items = [element("li", element("span", class_=f"dot {colour}"), name) for name, colour in names]
    return element("ul", *items, class_="key")
