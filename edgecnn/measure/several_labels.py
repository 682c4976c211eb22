"""How well logits name several labels per picture: mAP, F1, exact match, and every label by itself.

Decisions:

* A label is given where its probability is above 1/2, its logit above 0.
* mAP is the mean of the labels' average precision (scikit-learn's definition), over labels that any picture has; it
  needs no threshold. Macro F1 is a mean over the same labels, micro F1 counts all decisions together.
* Pictures are what is drawn at random, not decisions: intervals of shares of pictures (exact match, the accuracy of one
  label) are Wilson's, all others come from a bootstrap over pictures, as in ``classification``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn import tasks
from edgecnn.errors import UsageError
from edgecnn.measure import resampling
from edgecnn.measure.accuracy import check_several
from edgecnn.measure.classification import (
    BINS,
    RESAMPLES,
    Bin,
    Floats,
    check_finite,
    reliability,
    resampled_ranking,
)
from edgecnn.measure.stats import wilson
from edgecnn.spec import Interval, Task
from edgecnn.tasks import Labels


@dataclass(frozen=True)
class LabelFigures:
    """One label: ``accuracy`` is the share of right decisions, ``pictures`` how many have it. ``counts`` are
    (right without it, wrongly given, missed, rightly given). Figures that do not exist are None: recall, F1 and average
    precision without a picture that has it, ROC AUC also when all have it. A label that is never given has precision 0.
    """

    accuracy: Interval
    pictures: int
    precision: float
    recall: float | None
    f1: float | None
    roc_auc: float | None
    average_precision: float | None
    counts: tuple[int, int, int, int]


@dataclass(frozen=True)
class SeveralLabels:
    """All figures of one set of logits, with 95 % intervals.

    ``label_accuracy`` is the share of right decisions over all labels. ``bins`` sort all decisions by the probability
    of the label. ``losses`` (N,) are sums of binary cross-entropies, ``probabilities`` (N, K), in the order given.
    """

    exact_match: Interval
    label_accuracy: Interval
    mean_average_precision: Interval
    f1_micro: Interval
    f1_macro: Interval
    roc_auc: Interval | None
    calibration_error: Interval
    loss: Interval
    labels: tuple[LabelFigures, ...]
    bins: tuple[Bin, ...]
    losses: Floats
    probabilities: Floats

    def headline(self) -> dict[str, Interval]:
        """The figures of the whole set by name, those that exist."""
        found = {
            "exact match": self.exact_match,
            "mAP": self.mean_average_precision,
            "F1, micro": self.f1_micro,
            "F1, macro": self.f1_macro,
            "label accuracy": self.label_accuracy,
            "ROC AUC, macro": self.roc_auc,
            "calibration error": self.calibration_error,
            "log loss": self.loss,
        }
        return {name: figure for name, figure in found.items() if figure is not None}

    def as_dict(self) -> dict[str, Any]:
        """All figures but those of single pictures, as plain JSON values."""
        names = ("exact_match", "mean_average_precision", "f1_micro", "f1_macro", "label_accuracy", "roc_auc")
        figures: dict[str, Interval | None] = {
            name: getattr(self, name) for name in (*names, "calibration_error", "loss")
        }
        counted = ("right_without", "wrongly_given", "missed", "rightly_given")
        return {
            **{name: figure and asdict(figure) for name, figure in figures.items()},
            "classes": [
                {**asdict(each), "counts": dict(zip(counted, each.counts, strict=True))} for each in self.labels
            ],
            "bins": [asdict(each) for each in self.bins],
        }


def measure_labels(
    logits: NDArray[np.float32], labels: Labels, *, resamples: int = RESAMPLES, seed: int = 0
) -> SeveralLabels:
    """All figures of logits (N, K) against labels (N, K) of 0 and 1.

    Raises ``UsageError`` when they do not fit together, when there are no pictures or none has a label, and when a
    logit is not finite.
    """
    check_several(logits, labels)
    check_finite(logits)
    if not labels.any():
        raise UsageError("no picture has any label", hint="choose a split whose pictures have some with --split")
    order = resampling.canonical_order(logits, labels)
    weights = resampling.draw_weights(len(order), resamples, seed)
    found = _in_order(logits[order], labels[order] > 0, weights)
    probabilities = tasks.probabilities(Task.MULTI_LABEL, logits)
    return SeveralLabels(**found, losses=_losses(logits, labels), probabilities=probabilities)


def _losses(logits: NDArray[np.float32], labels: Labels) -> Floats:
    """Binary cross-entropies summed over the labels of each picture (N,), in double precision."""
    z = logits.astype(np.float64)
    return np.asarray((np.maximum(z, 0) - z * labels + np.log1p(np.exp(-np.abs(z)))).sum(axis=1))


def _in_order(logits: NDArray[np.float32], truth: NDArray[np.bool_], weights: resampling.Weights) -> dict[str, Any]:
    """The fields that do not belong to single pictures."""
    n, given = len(truth), logits > 0
    present = np.flatnonzero(truth.any(axis=0))
    # The figures rank by logits: float32 probabilities near 0 and 1 have ties that the logits do not have.
    ranking = resampled_ranking(logits[:, present].astype(np.float64), truth[:, present], weights)
    per_label = tuple(_label(logits[:, k], truth[:, k]) for k in range(truth.shape[1]))
    known = [per_label[k] for k in present]
    areas = [each.roc_auc for each in known if each.roc_auc is not None]
    micro, macro = _resampled_f1(given, truth, weights)
    same = (given == truth).mean(axis=1)
    losses = _losses(logits, truth)
    bins, error = _calibration(tasks.probabilities(Task.MULTI_LABEL, logits), truth, weights)
    value = tasks.mean_average_precision(logits, truth)
    hits = 2 * int((given & truth).sum())
    return {
        "exact_match": wilson(int((given == truth).all(axis=1).sum()), n),
        "label_accuracy": resampling.interval(float(same.mean()), resampling.weighted_means(same, weights), n),
        "mean_average_precision": resampling.interval(value, ranking[1], n),
        "f1_micro": resampling.interval(hits / int(given.sum() + truth.sum()), micro, n),
        "f1_macro": resampling.interval(float(np.mean([each.f1 or 0.0 for each in known])), macro, n),
        "roc_auc": resampling.interval(float(np.mean(areas)), ranking[0], n) if areas else None,
        "calibration_error": error,
        "loss": resampling.interval(
            float(losses.mean()), resampling.weighted_means(losses, weights), n, ceiling=math.inf
        ),
        "labels": per_label,
        "bins": bins,
    }


def _calibration(
    odds: Floats, truth: NDArray[np.bool_], weights: resampling.Weights
) -> tuple[tuple[Bin, ...], Interval]:
    """Bins of all decisions (N, K) by the label's probability, and the mean gap, weighted by decisions."""
    n, labels = truth.shape
    places, bins = reliability(odds.ravel(), truth.ravel())
    gaps = np.zeros((n, BINS))  # of each picture, whose decisions are drawn together
    np.add.at(gaps, (np.repeat(np.arange(n), labels), places), (odds - truth).ravel())
    error = float(np.abs(gaps.sum(axis=0)).sum() / truth.size)
    resampled = np.abs(gaps.T @ weights).sum(axis=0) / truth.size
    return bins, resampling.interval(error, resampled, n)


def _label(logits: NDArray[np.float32], truth: NDArray[np.bool_]) -> LabelFigures:
    """The figures of one label, logits and truth (N,)."""
    given = logits > 0
    hits, called, there = int((given & truth).sum()), int(given.sum()), int(truth.sum())
    counts = len(truth) - called - there + hits, called - hits, there - hits, hits
    one = np.ones((len(truth), 1), np.float32)
    area = float(resampling.ranking_figures(logits.astype(np.float64), truth, one)[0][0])
    return LabelFigures(
        accuracy=wilson(counts[0] + counts[3], len(truth)),
        pictures=there,
        precision=hits / called if called else 0.0,
        recall=hits / there if there else None,
        f1=2 * hits / (called + there) if there else None,
        roc_auc=area if math.isfinite(area) else None,
        average_precision=tasks.average_precision(logits, truth) if there else None,
        counts=counts,
    )


def _resampled_f1(
    given: NDArray[np.bool_], truth: NDArray[np.bool_], weights: resampling.Weights
) -> tuple[Floats, Floats]:
    """Micro and macro F1 in each resample (R,); macro over the labels that a picture of the resample has."""
    hits, called, there = (
        (weights.T @ part.astype(np.float32)).astype(np.float64) for part in (given & truth, given, truth)
    )
    below = called + there
    each = np.divide(2 * hits, below, out=np.zeros_like(hits), where=below > 0)
    present = there > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * hits.sum(axis=1) / below.sum(axis=1), (each * present).sum(axis=1) / present.sum(axis=1)
