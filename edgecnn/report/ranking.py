"""Precision over recall and ROC, side by side: what another threshold than "the most likely class" would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecnn.report import wording
from edgecnn.report.axes import Frame, Scale, draw_axes, tick_words
from edgecnn.report.markup import Markup, element, join

WIDTH, HEIGHT = 450, 400
FRAME = Frame(left=54, top=32, right=WIDTH - 16, bottom=HEIGHT - 50)
COLOURS = 6  # of page.css

STYLE = """
.ranked { fill: none; stroke: var(--colour); stroke-width: 1.75; stroke-linejoin: round; }
.ranked.neutral { stroke-width: 3; }
.swatch { fill: none; stroke: var(--colour); stroke-width: 3; }
"""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class RankedClass:
    """One class, or all pooled, and its curves: (recall, precision) and (false positive rate, recall), fractions."""

    name: str
    pooled: bool
    average_precision: float
    roc_auc: float
    precision_recall: Points
    roc: Points


def draw_ranking(classes: Sequence[RankedClass], title: str) -> Markup:
    """Draw both plots, and say below which line is whose and how much area is under it."""
    words = ("Precision over recall", "Recall, %", "Precision, %"), ("ROC", "False positive rate, %", "Recall, %")
    lines = [each.precision_recall for each in classes], [each.roc for each in classes]
    chance = None, ((0.0, 0.0), (1.0, 1.0))
    plots = [
        _plot(f"{about[0]} of {title}", about[1:], classes, drawn, other)
        for about, drawn, other in zip(words, lines, chance, strict=True)
    ]
    return join(element("div", *plots, class_="side-by-side"), _key(classes))


def _plot(
    title: str,
    axis_titles: Sequence[str],
    classes: Sequence[RankedClass],
    lines: Sequence[Points],
    chance: Points | None,
) -> Markup:
    x = Scale(0.0, 1.0, FRAME.left, FRAME.right)
    y = Scale(0.0, 1.0, FRAME.bottom, FRAME.top)

    def in_percent(value: float) -> str:
        return tick_words(round(100 * value, 6))

    def path(points: Points) -> str:
        return "M" + " L".join(f"{x(across):.2f} {y(up):.2f}" for across, up in points)

    drawn = [
        element("g", element("title", each.name), element("path", d=path(points)), class_=f"ranked {_colour(at, each)}")
        for at, (each, points) in enumerate(zip(classes, lines, strict=True))
    ]
    return element(
        "svg",
        element("title", title),
        draw_axes(FRAME, x, y, x_title=axis_titles[0], y_title=axis_titles[1], word_x=in_percent, word_y=in_percent),
        element("path", d=path(chance), class_="frontier") if chance else None,
        *reversed(drawn),  # the pooled line, which comes first, lies on top
        class_="plot",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=title,
    )


def _colour(at: int, each: RankedClass) -> str:
    return "neutral" if each.pooled else f"colour-{(at - 1) % COLOURS + 1}"


def _key(classes: Sequence[RankedClass]) -> Markup:
    items = []
    for at, each in enumerate(classes):
        swatch = element("svg", element("path", d="M0 7 h14", class_="swatch"), viewBox="0 0 14 14", aria_hidden="true")
        figures = f"{wording.percent(each.average_precision)} / {wording.percent(each.roc_auc)}"
        items.append(element("li", swatch, f"{each.name}: {figures}", class_=_colour(at, each)))
    return element("ul", *items, class_="key")
