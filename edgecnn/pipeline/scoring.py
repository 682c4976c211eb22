"""All figures of one evaluation, as text, as JSON and as a page; ``inference.evaluate`` made its logits."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgecnn.data.items import SEPARATOR
from edgecnn.data.preprocess import to_picture
from edgecnn.measure.classification import ClassFigures, Classification, classify
from edgecnn.measure.ranking import RankingCurves, ranking_curves
from edgecnn.measure.several_labels import LabelFigures, SeveralLabels, measure_labels
from edgecnn.pipeline.inference import Evaluation
from edgecnn.report.ranking import RankedClass
from edgecnn.report.reliability import ReliabilityBin
from edgecnn.report.rows import Confusion
from edgecnn.report.scores_page import ClassRow, Decisions, ScoresPage, WorstPicture, write_scores_page
from edgecnn.spec import Interval, Task
from edgecnn.tasks import answers, class_logits

LISTED_CLASSES = 20  # on the terminal, the worst first
SHOWN_PICTURES = 24  # on the page
THUMBNAIL = 112  # pixels of the side
LOSSLESS = 64  # pixels up to which a picture is kept as it is
IN_PERCENT = ("precision", "recall", "f1", "roc_auc", "average_precision")
COLUMNS = ("precision", "recall", "F1", "ROC AUC", "average precision")
LABEL_COLUMNS = ("accuracy", *COLUMNS)


class _Common(ABC):
    """What the scores of classes and of labels share."""

    evaluation: Evaluation
    names: tuple[str, ...]
    figures: Classification | SeveralLabels

    def worst(self, most: int) -> list[int]:
        """Positions of the pictures with the highest loss, highest first; equal ones by id."""
        return _worst(self.evaluation, self.figures.losses, most)

    @cached_property
    def curves(self) -> tuple[RankingCurves, ...]:
        """Precision over recall and ROC: all decisions pooled, then the worst classes."""
        return ranking_curves(self.figures.probabilities, self.evaluation.pictures.labels)

    def curve_name(self, curves: RankingCurves) -> str | None:
        """The class of the curves; None: all pooled."""
        return None if curves.label is None else self.names[curves.label]

    @abstractmethod
    def picture(self, at: int) -> dict[str, Any]:
        """One picture as JSON values."""

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        facts = self.figures.as_dict()
        classes = [{"label": name, **each} for name, each in zip(self.names, facts["classes"], strict=True)]
        curves = [{**each.as_dict(), "label": self.curve_name(each)} for each in self.curves]
        worst = [self.picture(at) for at in self.worst(SHOWN_PICTURES)]
        return {**facts, "classes": classes, "labels": list(self.names), "curves": curves, "worst": worst}


@dataclass(frozen=True)
class Scores(_Common):
    """An evaluation and its figures; ``names`` has one class name per output of the network."""

    evaluation: Evaluation
    names: tuple[str, ...]
    figures: Classification

    def by_class(self) -> list[tuple[str, ClassFigures]]:
        """Names and figures of the classes that have pictures, lowest F1 first."""
        found = [pair for pair in zip(self.names, self.figures.classes, strict=True) if pair[1].pictures]
        return sorted(found, key=lambda pair: pair[1].f1)

    def lines(self) -> list[str]:
        """The figures as text for a terminal: the whole set, then the classes."""
        rows = [(name, each.pictures, [getattr(each, key) for key in IN_PERCENT]) for name, each in self.by_class()]
        return [*_figure_lines(self.figures), "", *_class_lines("class", COLUMNS, rows)]

    def picture(self, at: int) -> dict[str, Any]:
        """One picture as JSON: id, class, answer, both probabilities, loss."""
        pictures, odds = self.evaluation.pictures, self.figures.probabilities[at]
        label = int(pictures.labels[at])
        answer = int(answers(self.evaluation.task, self.evaluation.logits[at][None])[0])
        return {
            "id": pictures.ids[at],
            "label": self.names[label],
            "answer": self.names[answer],
            "label_probability": float(odds[label]),
            "answer_probability": float(odds[answer]),
            "loss": float(self.figures.losses[at]),
        }


@dataclass(frozen=True)
class LabelScores(_Common):
    """An evaluation of several labels per picture and its figures; ``names`` has one label per output."""

    evaluation: Evaluation
    names: tuple[str, ...]
    figures: SeveralLabels

    def by_label(self) -> list[tuple[str, LabelFigures]]:
        """Names and figures of all labels, lowest average precision first, those that no picture has last."""
        found = zip(self.names, self.figures.labels, strict=True)
        return sorted(found, key=lambda pair: (pair[1].average_precision is None, pair[1].average_precision or 0.0))

    def lines(self) -> list[str]:
        """The figures as text for a terminal: the whole set, then the labels."""
        rows = [(name, each.pictures, _label_cells(each)) for name, each in self.by_label()]
        return [*_figure_lines(self.figures), "", *_class_lines("label", LABEL_COLUMNS, rows)]

    def picture(self, at: int) -> dict[str, Any]:
        """One picture as JSON: id, labels, answer, the probabilities of all labels, loss."""
        truth, given = self.evaluation.pictures.labels[at], self.evaluation.logits[at] > 0
        return {
            "id": self.evaluation.pictures.ids[at],
            "label": self._names(truth),
            "answer": self._names(given),
            "probabilities": dict(zip(self.names, self.figures.probabilities[at].tolist(), strict=True)),
            "loss": float(self.figures.losses[at]),
        }

    def _names(self, chosen: NDArray[Any]) -> str:
        return SEPARATOR.join(name for name, there in zip(self.names, chosen, strict=True) if there) or "no label"


def score(evaluation: Evaluation, *, seed: int = 0) -> Scores | LabelScores:
    """All figures of an evaluation; ``seed`` is that of the intervals. Raises ``UsageError`` for logits that are not
    finite.

    A binary network's are those of its two classes; ROC AUC and average precision of the second label are its own.
    """
    if evaluation.task is Task.MULTI_LABEL:
        return LabelScores(
            evaluation, evaluation.labels, measure_labels(evaluation.logits, evaluation.pictures.labels, seed=seed)
        )
    logits = class_logits(evaluation.task, evaluation.logits)
    outputs = logits.shape[1]
    names = (*evaluation.labels, *(f"output {index}" for index in range(len(evaluation.labels), outputs)))[:outputs]
    return Scores(evaluation, names, classify(logits, evaluation.pictures.labels, seed=seed))


def _label_cells(each: LabelFigures) -> tuple[float | None, ...]:
    return (each.accuracy.value, *(getattr(each, key) for key in IN_PERCENT))


def _worst(evaluation: Evaluation, losses: NDArray[np.float64], most: int) -> list[int]:
    ids = evaluation.pictures.ids
    return sorted(range(len(ids)), key=lambda at: (-losses[at], ids[at]))[:most]


def _figure_lines(figures: Classification | SeveralLabels) -> list[str]:
    width = max(map(len, figures.headline()))
    return [f"  {name:<{width}}  {value:>8}  ({interval})" for name, value, interval in figure_words(figures)]


def _class_lines(
    what: str, columns: Sequence[str], rows: Sequence[tuple[str, int, Sequence[float | None]]]
) -> list[str]:
    """A table of (name, pictures, shares), the first of them."""
    shown = rows[:LISTED_CLASSES]
    width = max(len(what), *(len(_printable(name)) for name, _, _ in shown))
    sizes = [max(6, len(title)) for title in columns]
    titles = [f"{title:>{size}}" for title, size in zip(columns, sizes, strict=True)]
    told = [f"  {what:<{width}}  pictures  " + "  ".join(titles)]
    for name, pictures, shares in shown:
        cells = [_cell(share, size) for share, size in zip(shares, sizes, strict=True)]
        told.append(f"  {_printable(name):<{width}}  {pictures:>8}  " + "  ".join(cells))
    if (more := len(rows) - len(shown)) > 0:
        told.append(f"  ... and {more} better {'classes' if what == 'class' else 'labels'}; --json and --html have all")
    return told


def figure_words(figures: Classification | SeveralLabels) -> list[tuple[str, str, str]]:
    """(name, value, interval) of every figure of the whole set, in words; shares in percent, the loss in nats."""

    def word(name: str, value: float) -> str:
        return f"{value:.4f}" if name == "log loss" else f"{100 * value:.2f}"

    def words(name: str, figure: Interval) -> tuple[str, str, str]:
        unit = "" if name == "log loss" else " %"
        return name, word(name, figure.value) + unit, f"{word(name, figure.low)} to {word(name, figure.high)}"

    return [words(name, figure) for name, figure in figures.headline().items()]


def write_page(scores: Scores | LabelScores, path: Path) -> None:
    """Write figures, matrix, diagram, classes and the worst pictures as one HTML page. Raises ``OSError``."""
    evaluation, figures = scores.evaluation, scores.figures
    name = evaluation.path.name if evaluation.path.is_file() else "/".join(evaluation.path.resolve().parts[-2:])
    images = evaluation.pictures.images
    page = ScoresPage(
        title=f"Evaluation: {name}",
        subtitle=f"In {evaluation.runtime}, on {len(images):,} {evaluation.split} pictures.",
        figures=figure_words(figures),
        bins=[ReliabilityBin(**asdict(each)) for each in figures.bins],
        ranked=[_ranked(each, scores.curve_name(each)) for each in scores.curves],
        worst=[_worst_picture(scores, at, thumbnail(images[at])) for at in scores.worst(SHOWN_PICTURES)],
        **_by_class(scores, name),
    )
    write_scores_page(path, page)


def _by_class(scores: Scores | LabelScores, name: str) -> dict[str, Any]:
    """What a page shows of single classes and of pairs of them; of single labels, the counts of their decisions."""
    if isinstance(scores, LabelScores):
        found = [(label, each, _label_cells(each)) for label, each in scores.by_label()]
        return {
            "columns": LABEL_COLUMNS,
            "classes": [ClassRow(label, each.pictures, cells) for label, each, cells in found],
            "decisions": [Decisions(label, *each.counts) for label, each, _ in found],
        }
    classes = [
        ClassRow(label, each.pictures, tuple(getattr(each, key) for key in IN_PERCENT))
        for label, each in scores.by_class()
    ]
    matrix = Confusion(name, scores.names, scores.figures.confusion.tolist())
    return {"columns": COLUMNS, "classes": classes, "confusion": matrix}


def _worst_picture(scores: Scores | LabelScores, at: int, image: bytes) -> WorstPicture:
    known = {field.name for field in fields(WorstPicture)}
    return WorstPicture(**{key: value for key, value in scores.picture(at).items() if key in known}, image=image)


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, C) as a small PNG, unchanged, or, if it is large, as a smaller JPEG."""
    picture, content = to_picture(pixels), io.BytesIO()
    if max(picture.size) <= LOSSLESS:
        picture.save(content, "PNG")
    else:
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        picture.save(content, "JPEG", quality=85)
    return content.getvalue()


def _ranked(curves: RankingCurves, name: str | None) -> RankedClass:
    figures = curves.average_precision, curves.roc_auc, curves.precision_recall, curves.roc
    return RankedClass(name or "all classes, pooled", name is None, *figures)


def _cell(share: float | None, width: int) -> str:
    return f"{'-' if share is None else f'{100 * share:.2f}':>{width}}"


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
