"""Which classes are taken for which: the matrix as SVG, and in words what a person should look at first."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.report import wording
from edgecnn.report.markup import Markup, element
from edgecnn.report.rows import Confusion

MOST_NUMBERED, MOST_DRAWN = 24, 120
_SIDE, _SMALLEST_LABELLED, _LABEL_LETTERS, _LETTER_WIDTH = 560.0, 9, 16, 6.6


@dataclass(frozen=True)
class Mistake:
    """How many pictures of the class ``truth`` were called ``answer``; ``share`` is of all pictures of ``truth``."""

    truth: str
    answer: str
    count: int
    share: float


def mistakes(confusion: Confusion, most: int = 5) -> list[Mistake]:
    """Return the most frequent confusions, by share of the true class, largest first."""
    found: list[Mistake] = []
    for index, (truth, row) in enumerate(zip(confusion.labels, confusion.counts, strict=True)):
        total = sum(row)
        wrong = [(column, number) for column, number in enumerate(row) if number and column != index]
        found.extend(Mistake(truth, confusion.labels[column], number, number / total) for column, number in wrong)
    return sorted(found, key=lambda mistake: (-mistake.share, -mistake.count))[:most]


def recalls(confusion: Confusion) -> list[tuple[str, float, int]]:
    """Return (label, share named right, number of pictures) per class that has pictures, worst first."""
    rows = enumerate(zip(confusion.labels, confusion.counts, strict=True))
    shares = [(label, row[index] / sum(row), sum(row)) for index, (label, row) in rows if sum(row)]
    return sorted(shares, key=lambda entry: entry[1])


def draw_confusion(confusion: Confusion) -> Markup | None:
    """Draw the matrix, rows true and columns answered; None when there are too many classes to read.

    Right answers are shaded by their share of the row, mistakes by their share relative to the largest mistake: the
    few that there are stay visible. Counts are written into the cells up to 24 classes.
    """
    classes = len(confusion.labels)
    if not 2 <= classes <= MOST_DRAWN:
        return None
    cell = min(44.0, _SIDE / classes)
    labelled = cell >= _SMALLEST_LABELLED
    longest = min(_LABEL_LETTERS, max(map(len, confusion.labels)))
    margin = 28 + _LETTER_WIDTH * longest if labelled else 28.0
    side = cell * classes
    largest = max((mistake.share for mistake in mistakes(confusion, most=1)), default=1.0)
    title = f"Confusion matrix of {confusion.name}: true class by row, answer by column"
    return element(
        "svg",
        element("title", title),
        element("text", "true class by row, answer by column", class_="axis-title", x=0.0, y=12.0),
        *(_row(confusion, index, margin, cell, largest) for index in range(classes)),
        *(_label_pair(label, index, margin, cell) for index, label in enumerate(confusion.labels) if labelled),
        element("rect", class_="frame", x=margin, y=margin, width=side, height=side),
        class_="plot matrix",
        viewBox=f"0 0 {margin + side + 2:.0f} {margin + side + 2:.0f}",
        style=f"max-width:{margin + side:.0f}px",
        role="img",
        aria_label=title,
    )


def _row(confusion: Confusion, index: int, margin: float, cell: float, largest: float) -> Markup:
    counts = confusion.counts[index]
    total = sum(counts) or 1
    cells: list[Markup] = []
    for column, number in enumerate(counts):
        right, share = column == index, number / total
        shade = share if right else share / largest
        if number:
            cells.append(_cell(confusion, (index, column), margin, cell, shade))
    return element("g", *cells)


def _cell(confusion: Confusion, place: tuple[int, int], margin: float, cell: float, shade: float) -> Markup:
    row, column = place
    number = confusion.counts[row][column]
    css = "right" if row == column else "wrong"
    x, y = margin + column * cell, margin + row * cell
    tip = f"{confusion.labels[row]} called {confusion.labels[column]}: {number}"
    opacity = 0.12 + 0.78 * shade
    drawn = [element("title", tip), element("rect", x=x, y=y, width=cell, height=cell, fill_opacity=opacity)]
    if len(confusion.labels) <= MOST_NUMBERED:
        ink = "on-dark" if shade > 0.55 else "on-light"
        middle_x, middle_y = x + cell / 2, y + cell / 2 + 4
        drawn.append(element("text", number, class_=f"count {ink}", x=middle_x, y=middle_y, text_anchor="middle"))
    return element("g", *drawn, class_=css)


def _label_pair(label: str, index: int, margin: float, cell: float) -> Markup:
    short = label if len(label) <= _LABEL_LETTERS else label[: _LABEL_LETTERS - 1] + "…"
    at = margin + (index + 0.5) * cell
    across = element("text", short, class_="tick", x=margin - 6, y=at + 4, text_anchor="end")
    turned = f"translate({at + 4:.2f} {margin - 6:.2f}) rotate(-90)"
    return element("g", across, element("text", short, class_="tick", transform=turned), element("title", label))


def confusion_words(confusion: Confusion) -> list[str]:
    """Say in sentences which classes are mistaken most and which are recognized worst."""
    total = sum(map(sum, confusion.counts))
    right = sum(row[index] for index, row in enumerate(confusion.counts))
    sentences = [f"{right:,} of {wording.count(total, 'picture')} named right."]
    for mistake in mistakes(confusion):
        times, share = wording.count(mistake.count, "time"), wording.percent(mistake.share)
        sentences.append(f"{mistake.truth} called {mistake.answer}: {times}, {share} of {mistake.truth}.")
    worst = recalls(confusion)[:3] if len(confusion.labels) > 3 else []
    if worst and worst[0][1] < 1:
        named = ", ".join(f"{label} {wording.percent(share)}" for label, share, _ in worst)
        sentences.append(f"Least often recognized: {named}.")
    return sentences
