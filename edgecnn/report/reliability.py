"""The reliability diagram: when the network says 80 %, is it right 80 times in 100?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecnn.report import wording
from edgecnn.report.axes import Frame, Scale, draw_axes, tick_words
from edgecnn.report.markup import Markup, element

WIDTH, HEIGHT = 450, 400
FRAME = Frame(left=54, top=32, right=WIDTH - 16, bottom=HEIGHT - 50)


@dataclass(frozen=True)
class ReliabilityBin:
    """Pictures whose confidence is in (``low``, ``high``], a fraction; the means are None when there are none."""

    low: float
    high: float
    pictures: int
    confidence: float | None
    accuracy: float | None


def draw_reliability(bins: Sequence[ReliabilityBin], name: str) -> Markup:
    """Draw accuracy over confidence: a bar per bin, more opaque the more pictures are in it, and a line at the mean
    confidence of the bin, which a calibrated network's bar reaches exactly."""
    x = Scale(0.0, 1.0, FRAME.left, FRAME.right)
    y = Scale(0.0, 1.0, FRAME.bottom, FRAME.top)
    words = f"Reliability diagram of {name}: accuracy over confidence"

    def in_percent(value: float) -> str:
        return tick_words(round(100 * value, 6))

    axes = draw_axes(FRAME, x, y, x_title="Confidence, %", y_title="Right, %", word_x=in_percent, word_y=in_percent)
    most = max((each.pictures for each in bins), default=0) or 1
    return element(
        "svg",
        element("title", words),
        axes,
        element("path", d=f"M{x(0):.2f} {y(0):.2f} L{x(1):.2f} {y(1):.2f}", class_="frontier"),
        *(_bar(each, most, x, y) for each in bins if each.pictures),
        class_="plot",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=words,
    )


def _bar(each: ReliabilityBin, most: int, x: Scale, y: Scale) -> Markup:
    confidence, accuracy = each.confidence or 0.0, each.accuracy or 0.0
    tip = (
        f"{wording.count(each.pictures, 'picture')} at {wording.percent(confidence)} confidence on average: "
        f"{wording.percent(accuracy)} right"
    )
    left, wide = x(each.low) + 1, x(each.high) - x(each.low) - 2
    opacity = 0.25 + 0.65 * each.pictures / most
    bar = element("rect", x=left, y=y(accuracy), width=wide, height=y(0.0) - y(accuracy), fill_opacity=opacity)
    told = element("line", x1=left, x2=left + wide, y1=y(confidence), y2=y(confidence), class_="told")
    return element("g", element("title", tip), bar, told, class_="right")
