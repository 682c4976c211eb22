"""All figures of one evaluation, as text, as JSON and as a page; ``inference.evaluate`` made its logits."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgecnn.measure.classification import ClassFigures, Classification, classify
from edgecnn.measure.ranking import RankingCurves, ranking_curves
from edgecnn.pipeline.inference import Evaluation
from edgecnn.report.ranking import RankedClass
from edgecnn.report.reliability import ReliabilityBin
from edgecnn.report.rows import Confusion
from edgecnn.report.scores_page import ClassRow, ScoresPage, WorstPicture, write_scores_page
from edgecnn.spec import Interval

LISTED_CLASSES = 20  # on the terminal, the worst first
SHOWN_PICTURES = 24  # on the page
THUMBNAIL = 112  # pixels of the side
LOSSLESS = 64  # pixels up to which a picture is kept as it is
IN_PERCENT = ("precision", "recall", "f1", "roc_auc", "average_precision")
COLUMNS = ("precision", "recall", "F1", "ROC AUC", "average precision")


@dataclass(frozen=True)
class Scores:
    """An evaluation and its figures; ``names`` has one class name per output of the network."""

    evaluation: Evaluation
    names: tuple[str, ...]
    figures: Classification

    def worst(self, most: int) -> list[int]:
        """Positions of the pictures with the highest loss, highest first; equal ones by id."""
        ids = self.evaluation.pictures.ids
        return sorted(range(len(ids)), key=lambda at: (-self.figures.losses[at], ids[at]))[:most]

    def by_class(self) -> list[tuple[str, ClassFigures]]:
        """Names and figures of the classes that have pictures, lowest F1 first."""
        found = [pair for pair in zip(self.names, self.figures.classes, strict=True) if pair[1].pictures]
        return sorted(found, key=lambda pair: pair[1].f1)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        facts = self.figures.as_dict()
        classes = [{"label": name, **each} for name, each in zip(self.names, facts["classes"], strict=True)]
        worst = [self.picture(at) for at in self.worst(SHOWN_PICTURES)]
        curves = [{**each.as_dict(), "label": self.curve_name(each)} for each in self.curves]
        return {**facts, "classes": classes, "labels": list(self.names), "curves": curves, "worst": worst}

    @cached_property
    def curves(self) -> tuple[RankingCurves, ...]:
        """Precision over recall and ROC: all decisions pooled, then the worst classes."""
        return ranking_curves(self.figures.probabilities, self.evaluation.pictures.labels)

    def curve_name(self, curves: RankingCurves) -> str | None:
        """The class of the curves; None: all pooled."""
        return None if curves.label is None else self.names[curves.label]

    def lines(self) -> list[str]:
        """The figures as text for a terminal: the whole set, then the classes."""
        width = max(map(len, self.figures.headline()))
        told = []
        for name, value, interval in figure_words(self.figures):
            told.append(f"  {name:<{width}}  {value:>8}  ({interval})")
        shown = self.by_class()[:LISTED_CLASSES]
        width = max(len("class"), *(len(_printable(name)) for name, _ in shown))
        sizes = [max(6, len(title)) for title in COLUMNS]
        titles = [f"{title:>{size}}" for title, size in zip(COLUMNS, sizes, strict=True)]
        told += ["", f"  {'class':<{width}}  pictures  " + "  ".join(titles)]
        for name, each in shown:
            cells = [_cell(getattr(each, key), size) for key, size in zip(IN_PERCENT, sizes, strict=True)]
            told.append(f"  {_printable(name):<{width}}  {each.pictures:>8}  " + "  ".join(cells))
        if (more := len(self.by_class()) - len(shown)) > 0:
            told.append(f"  ... and {more} better classes; --json and --html have all")
        return told

    def picture(self, at: int) -> dict[str, Any]:
        """One picture as JSON: id, class, answer, both probabilities, loss."""
        pictures, odds = self.evaluation.pictures, self.figures.probabilities[at]
        label, answer = int(pictures.labels[at]), int(self.evaluation.logits[at].argmax())
        return {
            "id": pictures.ids[at],
            "label": self.names[label],
            "answer": self.names[answer],
            "label_probability": float(odds[label]),
            "answer_probability": float(odds[answer]),
            "loss": float(self.figures.losses[at]),
        }


def score(evaluation: Evaluation, *, seed: int = 0) -> Scores:
    """All figures of an evaluation; ``seed`` is that of the intervals. Raises ``UsageError`` for logits that are not
    finite.
    """
    outputs = evaluation.logits.shape[1]
    names = (*evaluation.labels, *(f"output {index}" for index in range(len(evaluation.labels), outputs)))[:outputs]
    return Scores(evaluation, names, classify(evaluation.logits, evaluation.pictures.labels, seed=seed))


def figure_words(figures: Classification) -> list[tuple[str, str, str]]:
    """(name, value, interval) of every figure of the whole set, in words; shares in percent, the loss in nats."""

    def word(name: str, value: float) -> str:
        return f"{value:.4f}" if name == "log loss" else f"{100 * value:.2f}"

    def words(name: str, figure: Interval) -> tuple[str, str, str]:
        unit = "" if name == "log loss" else " %"
        return name, word(name, figure.value) + unit, f"{word(name, figure.low)} to {word(name, figure.high)}"

    return [words(name, figure) for name, figure in figures.headline().items()]


def write_page(scores: Scores, path: Path) -> None:
    """Write figures, matrix, diagram, classes and the worst pictures as one HTML page. Raises ``OSError``."""
    evaluation, figures = scores.evaluation, scores.figures
    name = evaluation.path.name if evaluation.path.is_file() else "/".join(evaluation.path.resolve().parts[-2:])
    images = evaluation.pictures.images
    page = ScoresPage(
        title=f"Evaluation: {name}",
        subtitle=f"In {evaluation.runtime}, on {len(images):,} {evaluation.split} pictures.",
        figures=figure_words(figures),
        confusion=Confusion(name, scores.names, figures.confusion.tolist()),
        bins=[ReliabilityBin(**asdict(each)) for each in figures.bins],
        columns=COLUMNS,
        classes=[
            ClassRow(label, each.pictures, tuple(getattr(each, key) for key in IN_PERCENT))
            for label, each in scores.by_class()
        ],
        ranked=[_ranked(each, scores.curve_name(each)) for each in scores.curves],
        worst=[WorstPicture(**scores.picture(at), image=thumbnail(images[at])) for at in scores.worst(SHOWN_PICTURES)],
    )
    write_scores_page(path, page)


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3) as a small PNG, unchanged, or, if it is large, as a smaller JPEG."""
    picture, content = Image.fromarray(pixels), io.BytesIO()
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
