"""The plot that a decision is made on: accuracy against latency, with size as area and both 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgecnn.report import wording
from edgecnn.report.axes import Frame, Scale, draw_axes, padded_scale, positive_scale, tick_words
from edgecnn.report.columns import answered_right, one_line
from edgecnn.report.markup import Markup, element
from edgecnn.report.rows import Row

WIDTH, HEIGHT = 920, 460
FRAME = Frame(left=62, top=34, right=WIDTH - 24, bottom=HEIGHT - 54)
_LARGEST_RADIUS, _SMALLEST_RADIUS = 17.0, 4.0
_RUNTIME_COLOURS = {"torch": 1, "onnxruntime": 2, "litert": 3, "openvino": 4}
_SHAPES = {"fp32": "circle", "int8": "square"}
_LAST_COLOUR = 6


@dataclass(frozen=True)
class _Point:
    """A drawable row: ``number`` is its place in the table, ``x`` and ``y`` its place on paper."""

    number: int
    row: Row
    x: float
    y: float
    radius: float


def drawable(row: Row) -> bool:
    """Tell whether a row has what the plot needs: a measured accuracy and a measured latency above zero."""
    measured = row.top1 is not None and row.latency_ms is not None and row.latency_ms > 0
    return measured and row.status in ("ok", "inconclusive")


def colour_class(runtime: str) -> str:
    """Return the CSS class of a runtime's colour: fixed for the known ones, so that reports can be compared."""
    others = _LAST_COLOUR - len(_RUNTIME_COLOURS)
    number = _RUNTIME_COLOURS.get(runtime, 1 + len(_RUNTIME_COLOURS) + sum(runtime.encode()) % others)
    return f"colour-{number}"


def frontier(rows: Sequence[Row]) -> list[Row]:
    """Return the drawable rows that no other row beats in both top-1 and latency, fastest first."""
    best: list[Row] = []
    for row in sorted(filter(drawable, rows), key=lambda row: (row.latency_ms or 0.0, -(row.top1 or 0.0))):
        if not best or (row.top1 or 0.0) > (best[-1].top1 or 0.0):
            best.append(row)
    return best


def draw_scatter(rows: Sequence[Row]) -> Markup | None:
    """Draw the plot as one SVG element, or None when no row can be drawn. Marks carry the row's number in the table."""
    numbered = [(number, row) for number, row in enumerate(rows, start=1) if drawable(row)]
    if not numbered:
        return None
    x, y = _scales([row for _, row in numbered])
    largest = max((row.size_bytes or 0 for _, row in numbered), default=0)
    points = [_place(number, row, x, y, largest) for number, row in numbered]
    points.sort(key=lambda point: -point.radius)  # small marks last, so that a large one never hides them
    answered = answered_right(rows)
    title = f"{answered} against latency for {wording.count(len(points), 'row')}; the table has the same figures"
    axes = draw_axes(
        FRAME,
        x,
        y,
        x_title="Latency of one call, ms" + (" (logarithmic)" if x.logarithmic else ""),
        y_title=f"{answered}, %",
        word_x=tick_words,
        word_y=lambda fraction: tick_words(100 * fraction),
    )
    return element(
        "svg",
        element("title", title),
        axes,
        _frontier_line(points),
        *(_error_bars(point, x, y) for point in points),
        *(_mark(point) for point in points),
        *_labels(points),
        class_="plot",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=title,
    )


def draw_key(rows: Sequence[Row]) -> Markup:
    """Draw the legend as HTML: a swatch per runtime (colour) and per precision (shape) that the plot shows."""
    shown = [row for row in rows if drawable(row)]
    runtimes = [
        _key_item(outline("circle", 8, 8, 6), runtime, colour_class(runtime))
        for runtime in dict.fromkeys(str(row.runtime) for row in shown)
    ]
    precisions = [
        _key_item(outline(_SHAPES.get(precision, "diamond"), 8, 8, 6), precision, "neutral")
        for precision in dict.fromkeys(str(row.precision) for row in shown)
    ]
    return element("ul", *runtimes, *precisions, class_="key")


def outline(shape: str, x: float, y: float, radius: float) -> Markup:
    """Draw a mark; all shapes of one radius cover the same area (pi * radius^2)."""
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=radius)
    if shape == "square":
        side = radius * math.sqrt(math.pi)
        return element("rect", x=x - side / 2, y=y - side / 2, width=side, height=side, rx=1.0)
    reach = radius * math.sqrt(math.pi / 2)
    return element(
        "path",
        d=f"M{x:.2f} {y - reach:.2f} l{reach:.2f} {reach:.2f} l{-reach:.2f} {reach:.2f} l{-reach:.2f} {-reach:.2f}z",
    )


def _key_item(swatch: Markup, words: str, css: str) -> Markup:
    drawing = element("svg", element("g", swatch, class_=f"mark {css}"), viewBox="0 0 16 16", aria_hidden="true")
    return element("li", drawing, words)


def _scales(rows: Sequence[Row]) -> tuple[Scale, Scale]:
    latencies = [row.latency_ms or 0.0 for row in rows]
    tops = [row.top1 or 0.0 for row in rows]
    for row in rows:
        latencies.extend(end for end in row.latency_interval or () if end > 0)
        tops.extend(row.top1_interval or ())
    x = positive_scale(latencies, FRAME.left, FRAME.right)
    return x, padded_scale(tops, FRAME.bottom, FRAME.top, floor=0.0, ceiling=1.0)


def _place(number: int, row: Row, x: Scale, y: Scale, largest: int) -> _Point:
    share = (row.size_bytes or 0) / largest if largest else 0.0
    radius = max(_SMALLEST_RADIUS, _LARGEST_RADIUS * math.sqrt(share))
    return _Point(number, row, x(row.latency_ms or 0.0), y(row.top1 or 0.0), radius)


def _frontier_line(points: Sequence[_Point]) -> Markup | None:
    places = {point.number: point for point in points}
    best = frontier([point.row for point in sorted(points, key=lambda point: point.number)])
    corners = [next(point for point in places.values() if point.row is row) for row in best]
    if len(corners) < 2:
        return None
    steps = "".join(f" H{point.x:.2f} V{point.y:.2f}" for point in corners[1:])
    return element("path", class_="frontier", d=f"M{corners[0].x:.2f} {corners[0].y:.2f}{steps}")


def _error_bars(point: _Point, x: Scale, y: Scale) -> Markup:
    across, along = point.row.latency_interval, point.row.top1_interval
    lines: list[Markup] = []
    if across and across[0] > 0:
        lines.append(element("line", x1=x(across[0]), x2=x(across[1]), y1=point.y, y2=point.y))
    if along:
        lines.append(element("line", x1=point.x, x2=point.x, y1=y(along[0]), y2=y(along[1])))
    loose = " inconclusive" if point.row.status == "inconclusive" else ""
    return element("g", *lines, class_=f"bars {colour_class(point.row.runtime)}{loose}")


def _mark(point: _Point) -> Markup:
    row = point.row
    figures = (
        f"{wording.percent(row.top1)}, {wording.milliseconds(row.latency_ms)}, {wording.byte_size(row.size_bytes)}"
    )
    shape = _SHAPES.get(row.precision, "diamond")
    mark = outline(shape, point.x, point.y, point.radius)
    tip = element("title", f"{point.number}: {one_line(row)}\n{figures}")
    return element("g", tip, mark, class_=f"mark {colour_class(row.runtime)}")


def _labels(points: Sequence[_Point]) -> Iterator[Markup]:
    """Set each row's number beside its mark, at the first of eight places that is free."""
    taken = [(point.x, point.y, point.radius) for point in points]
    for point in points:
        words = str(point.number)
        reach, half = point.radius + 8.0, 3.5 * len(words)
        angles = [math.radians(angle) for angle in (-45, -135, 45, 135, -90, 90, 0, 180)]
        places = [(point.x + (reach + half) * math.cos(a), point.y + reach * math.sin(a)) for a in angles]
        free = [place for place in places if _free(place, half, taken)]
        at = free[0] if free else places[0]
        taken.append((*at, half + 2))
        yield element("text", words, class_="label", x=at[0], y=at[1] + 4, text_anchor="middle")


def _free(place: tuple[float, float], half: float, taken: Sequence[tuple[float, float, float]]) -> bool:
    inside = FRAME.left < place[0] < FRAME.right and FRAME.top < place[1] < FRAME.bottom
    return inside and all(math.hypot(place[0] - x, place[1] - y) >= reach + half for x, y, reach in taken)
