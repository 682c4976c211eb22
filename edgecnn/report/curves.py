"""Training curves: loss and top-1 over the epochs, with the best epoch marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecnn.report import wording
from edgecnn.report.axes import Frame, Scale, draw_axes, padded_scale, tick_words
from edgecnn.report.markup import Markup, element, join
from edgecnn.report.rows import Curves

WIDTH, HEIGHT = 450, 270
FRAME = Frame(left=54, top=32, right=WIDTH - 16, bottom=HEIGHT - 50)


@dataclass(frozen=True)
class _Line:
    """One curve: a colour for training or validation, and a value (or a gap) per epoch."""

    name: str
    css: str
    values: list[float | None]


def draw_curves(curves: Curves) -> list[Markup]:
    """Draw one SVG per kind of figure found in the history: the columns with "loss", those with "top1", with "map".

    Where there is a mean average precision, pictures have several labels, and top-1 is the share of exact matches.
    """
    names = curves.columns()
    several = "val_map" in names
    kinds = (("loss", "Loss"), ("top1", "Exact match, %" if several else "Top-1, %"), ("map", "mAP, %"))
    found = [(title, [name for name in names if kind in name]) for kind, title in kinds]
    return [_draw(curves, title, columns) for title, columns in found if columns]


def _draw(curves: Curves, title: str, columns: Sequence[str]) -> Markup:
    epochs = _epochs(curves)
    lines = [_Line(name, _css(name), curves.column(name)) for name in columns]
    figures = [value for line in lines for value in line.values if value is not None]
    accuracy = title.endswith("%")
    x = Scale(min(epochs), max(max(epochs), min(epochs) + 1), FRAME.left, FRAME.right)
    ceiling = 1.0 if accuracy else max(*figures, 0.0) * 1.05 + 1e-9
    y = padded_scale([*figures, *([] if accuracy else [0.0])], FRAME.bottom, FRAME.top, floor=0.0, ceiling=ceiling)
    words = f"{title.removesuffix(', %')} of {curves.name} over {wording.count(len(epochs), 'epoch')}"
    axes = draw_axes(
        FRAME,
        x,
        y,
        x_title="Epoch",
        y_title=title,
        word_x=tick_words,
        word_y=lambda value: tick_words(100 * value if accuracy else value),
    )
    drawn = [_draw_line(line, epochs, x, y) for line in lines]
    best = _best(lines, epochs, x, y) if accuracy else None
    attributes = {"class": "plot", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria_label": words}
    return element("svg", element("title", words), axes, *drawn, best, _key(lines), **attributes)


def _epochs(curves: Curves) -> list[float]:
    """Return the epoch column; without one the rows are counted from 1."""
    column = curves.column("epoch")
    known = [value for value in column if value is not None]
    return known if len(known) == len(column) else [float(index + 1) for index in range(len(column))]


def _css(name: str) -> str:
    return next((word for word in ("ema", "val", "train") if word in name), "other")


def _draw_line(line: _Line, epochs: Sequence[float], x: Scale, y: Scale) -> Markup:
    """Draw a curve with a gap wherever an epoch has no finite value; a value without neighbours becomes a dot."""
    values = [None, *line.values, None]
    path: list[str] = []
    dots: list[Markup] = []
    for index, epoch in enumerate(epochs, start=1):
        before, value, after = values[index - 1 : index + 2]
        if value is None:
            continue
        path.append(f"{'M' if before is None else 'L'}{x(epoch):.2f} {y(value):.2f}")
        if before is None and after is None:
            dots.append(element("circle", cx=x(epoch), cy=y(value), r=3))
    return element("g", element("path", d=" ".join(path)), *dots, class_=f"curve {line.css}")


def _best(lines: Sequence[_Line], epochs: Sequence[float], x: Scale, y: Scale) -> Markup | None:
    """Mark the epoch with the best validation top-1, whose weights a run keeps."""
    line = next((line for line in lines if line.css in ("val", "ema")), None)
    known = (
        []
        if line is None
        else [(value, epoch) for value, epoch in zip(line.values, epochs, strict=True) if value is not None]
    )
    if line is None or not known:
        return None
    value, epoch = max(known, key=lambda pair: pair[0])
    at_x, at_y = x(epoch), y(value)
    anchor = "end" if at_x > (FRAME.left + FRAME.right) / 2 else "start"
    words = f"best {wording.percent(value)}, epoch {epoch:g}"
    label = element(
        "text", words, class_="label", x=at_x, y=at_y - 10 if at_y > FRAME.top + 24 else at_y + 20, text_anchor=anchor
    )
    return element("g", element("circle", cx=at_x, cy=at_y, r=4), label, class_=f"best {line.css}")


def _key(lines: Sequence[_Line]) -> Markup:
    items: list[Markup] = []
    right = FRAME.right
    for line in reversed(lines):
        items.append(element("text", line.name, class_="tick", x=right, y=FRAME.top - 10, text_anchor="end"))
        right -= 6.6 * len(line.name) + 8
        swatch = element("path", d=f"M{right - 12:.2f} {FRAME.top - 14:.2f} h14")
        items.append(element("g", swatch, class_=f"curve {line.css}"))
        right -= 28
    return join(*items)
