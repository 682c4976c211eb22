"""From a figure to a place on paper: scales, round ticks, the grid and its words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgecnn.report.markup import Markup, element, join


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] onto [start, end] in drawing units, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a figure on paper, in drawing units."""
        low, high, value = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int = 6) -> list[float]:
        """Return round values inside the scale: 1-2-5 steps, or 1-2-5 per decade when logarithmic."""
        if not self.logarithmic:
            return linear_ticks(self.low, self.high, about)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        many = math.log10(self.high / self.low) > 3
        values = [digit * 10.0**power for power in decades for digit in ((1,) if many else (1, 2, 5))]
        return [value for value in values if self.low <= value * (1 + 1e-9) and value * (1 - 1e-9) <= self.high]


def tick_words(value: float) -> str:
    """Word a tick without trailing zeros: 0.5, 20, 97.5."""
    return f"{value:.6g}"


def linear_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten that lie in [low, high], roughly ``about`` of them."""
    raw = (high - low) / max(about - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def positive_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale for positive figures: from zero, or logarithmic where the largest is over 10 times the smallest.

    ``values`` must hold at least one figure, and only figures above 0.
    """
    low, high = min(values), max(values)
    if high / low > 10:
        return Scale(low / 1.3, high * 1.3, start, end, logarithmic=True)
    return Scale(0.0, high * 1.1, start, end)


def padded_scale(values: Sequence[float], start: float, end: float, *, floor: float, ceiling: float) -> Scale:
    """Return a linear scale a little wider than the figures, within [floor, ceiling] and at least half a % of it."""
    low, high = min(values), max(values)
    margin = max((high - low) * 0.08, (ceiling - floor) * 0.005)
    low, high = max(floor, low - margin), min(ceiling, high + margin)
    return Scale(low, high, start, end)


@dataclass(frozen=True)
class Frame:
    """The rectangle that a plot is drawn in, in drawing units; y grows downwards as in SVG."""

    left: float
    top: float
    right: float
    bottom: float


def draw_axes(
    frame: Frame,
    x: Scale,
    y: Scale,
    *,
    x_title: str,
    y_title: str,
    word_x: Callable[[float], str],
    word_y: Callable[[float], str],
) -> Markup:
    """Draw grid lines, tick words and axis titles."""
    middle = (frame.left + frame.right) / 2
    return join(
        *(_horizontal(frame, y(value), word_y(value)) for value in y.ticks()),
        *(_vertical(frame, x(value), word_x(value)) for value in x.ticks()),
        element("line", class_="axis", x1=frame.left, x2=frame.right, y1=frame.bottom, y2=frame.bottom),
        element("text", x_title, class_="axis-title", x=middle, y=frame.bottom + 38, text_anchor="middle"),
        element("text", y_title, class_="axis-title", x=frame.left, y=frame.top - 10, text_anchor="start"),
    )


def _horizontal(frame: Frame, at: float, words: str) -> Markup:
    line = element("line", class_="grid", x1=frame.left, x2=frame.right, y1=at, y2=at)
    return join(line, element("text", words, class_="tick", x=frame.left - 8, y=at + 4, text_anchor="end"))


def _vertical(frame: Frame, at: float, words: str) -> Markup:
    line = element("line", class_="grid", x1=at, x2=at, y1=frame.top, y2=frame.bottom)
    return join(line, element("text", words, class_="tick", x=at, y=frame.bottom + 18, text_anchor="middle"))
