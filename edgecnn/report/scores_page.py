"""One self-contained HTML page about an evaluation: figures, confusion, calibration, classes, the worst pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecnn.report import wording
from edgecnn.report.confusion import confusion_words, draw_confusion
from edgecnn.report.markup import Markup, element, join
from edgecnn.report.page import line, pictures, section, table, whole_page
from edgecnn.report.ranking import STYLE as RANKING_STYLE
from edgecnn.report.ranking import RankedClass, draw_ranking
from edgecnn.report.reliability import ReliabilityBin, draw_reliability
from edgecnn.report.rows import Confusion, write_whole

_STYLE = """
.told { stroke: var(--wrong); stroke-width: 2.5; }
.worst img { width: 112px; height: 112px; object-fit: contain; image-rendering: pixelated; }
.narrow { max-width: 860px; }
"""


@dataclass(frozen=True)
class WorstPicture:
    """A picture with a high loss: its id, class and answer, its loss, a small image, and the probabilities of both.

    Sets of labels have no probability of their own.
    """

    id: str
    label: str
    answer: str
    loss: float
    image: bytes
    label_probability: float | None = None
    answer_probability: float | None = None


@dataclass(frozen=True)
class Decisions:
    """One label in how many pictures: rightly not given, wrongly given, missed, rightly given."""

    label: str
    right_without: int
    wrongly_given: int
    missed: int
    rightly_given: int


@dataclass(frozen=True)
class ClassRow:
    """One class and its figures, fractions in [0, 1]; None where a figure does not exist."""

    label: str
    pictures: int
    figures: tuple[float | None, ...]


@dataclass(frozen=True)
class ScoresPage:
    """All that the page shows.

    ``figures`` are (name, value, interval) in words; ``columns`` names the figures of ``classes``, worst class first.
    Classes that exclude each other have a ``confusion``, labels that do not ``decisions`` on each.
    ``ranked`` are the pooled curves and those of some classes; empty when one class has all pictures.
    """

    title: str
    subtitle: str
    figures: Sequence[tuple[str, str, str]]
    bins: Sequence[ReliabilityBin]
    columns: Sequence[str]
    classes: Sequence[ClassRow]
    worst: Sequence[WorstPicture]
    ranked: Sequence[RankedClass] = ()
    confusion: Confusion | None = None
    decisions: Sequence[Decisions] = ()


def write_scores_page(path: Path, page: ScoresPage) -> None:
    """Write the page to ``path``, whole or not at all. Raises ``OSError`` if it cannot be written."""
    write_whole(path, render(page))


def render(page: ScoresPage) -> str:
    """Return the page as text. Nothing in it refers to anything outside it."""
    subtitle = element("p", page.subtitle, class_="soft")
    return whole_page(
        page.title,
        join(element("h1", page.title), subtitle),
        section("figures", "Figures", _figures(page)),
        *([section("confusion", "Confusion", _confusion(page.confusion))] if page.confusion else []),
        *([section("decisions", "Decisions on each label", _decisions(page.decisions))] if page.decisions else []),
        section("calibration", "Calibration: can its probabilities be believed?", _calibration(page)),
        section("ranking", "Ranking: precision over recall, and ROC", _ranking(page)),
        section("classes", f"{_kind(page)}, the worst first", _classes(page)),
        section("worst", "Pictures with the highest loss", _worst(page.worst)),
        style=_STYLE + RANKING_STYLE,
    )


def _kind(page: ScoresPage) -> str:
    return "Labels" if page.decisions else "Classes"


def _decisions(decisions: Sequence[Decisions]) -> Markup:
    """Counts in the place of a confusion matrix: labels do not exclude each other, each is right or wrong by itself."""
    heads = ("Label", "Rightly given", "Missed", "Wrongly given", "Rightly not given")
    rows = [
        line(each.label, [f"{n:,}" for n in (each.rightly_given, each.missed, each.wrongly_given, each.right_without)])
        for each in decisions
    ]
    return table(heads, rows, "Decisions by label", "narrow")


def _figures(page: ScoresPage) -> Markup:
    rows = [line(name, (value, interval)) for name, value, interval in page.figures]
    return table(("Figure", "Value", "95 % interval"), rows, "Figures of the whole split", "narrow")


def _confusion(confusion: Confusion) -> Markup:
    sentences = element("ul", *(element("li", words) for words in confusion_words(confusion)), class_="sentences")
    matrix = draw_confusion(confusion)
    words = "Blue: right, by share of the row. Orange: mistakes, relative to the largest." if matrix else None
    reading = element("p", words, class_="soft") if words else None
    return element("div", matrix, element("div", sentences, reading), class_="side-by-side")


def _calibration(page: ScoresPage) -> Markup:
    several = "Decisions are sorted by the probability of the label into bins; the bar says how often it is there,"
    words = (
        "Pictures are sorted by the probability of the answer into bins; the bar says how often such answers are right,"
        if not page.decisions
        else several
    ) + " the orange line the mean probability. A line above its bar is overconfidence. Pale bars have few of them."
    drawn = draw_reliability(page.bins, page.title)
    return element("div", drawn, element("p", words, class_="soft"), class_="side-by-side")


def _ranking(page: ScoresPage) -> Markup:
    if not page.ranked:
        return element("p", "All pictures are of one class: there is nothing to rank.", class_="soft")
    classes = sum(not each.pooled for each in page.ranked)
    which = f"the {classes} classes" if classes == len(page.classes) else f"the {classes} worst classes"
    words = (
        f"For a class, pictures are sorted by its probability, and a threshold is moved down. Grey: all decisions"
        f" pooled. Colours: {which}, lowest average precision first. Dashed: chance."
        " Below the plots: average precision / area under ROC; the intervals of their means stand above."
    )
    return join(element("p", words, class_="soft"), draw_ranking(page.ranked, page.title))


def _classes(page: ScoresPage) -> Markup:
    rows = [
        line(each.label, (f"{each.pictures:,}", *(wording.percent(figure, unit=False) for figure in each.figures)))
        for each in page.classes
    ]
    heads = ("Class", "Pictures", *(f"{name}, %" for name in page.columns))
    return table(heads, rows, "Figures by class", "narrow")


def _worst(worst: Sequence[WorstPicture]) -> Markup:
    words = "Shown as the network sees them. A high loss is a wrong answer given with conviction, or a wrong label."
    return join(
        element("p", words, class_="soft"),
        pictures([(each.id, each.image, _below(each)) for each in worst], "worst"),
    )


def _below(each: WorstPicture) -> Markup:
    return join(
        element("strong", each.label),
        f"{_odds(each.label_probability)}, called ",
        element("strong", each.answer),
        f"{_odds(each.answer_probability)}; loss {each.loss:.2f}: {each.id}",
    )


def _odds(probability: float | None) -> str:
    return "" if probability is None else f" {wording.percent(probability)}"
