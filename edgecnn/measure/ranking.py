"""Curves behind the ranking figures: precision over recall, and ROC, one class against the rest.

A curve has a point for every threshold that can be told apart, which are too many to draw or to write down: it is
thinned so that no point that is left out is further than ``TOLERANCE`` from the line through those that are kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.tasks import Labels

Floats = NDArray[np.float64]
Points = tuple[tuple[float, float], ...]

TOLERANCE = 0.002
WORST_CLASSES = 6  # of more classes those with the lowest average precision are drawn
RANKS = 4000  # thresholds of a long curve that are looked at: spaced evenly in the logarithm of the rank


@dataclass(frozen=True)
class RankingCurves:
    """Both curves of a class, or of all decisions pooled (``label`` None: "micro").

    Points are (recall, precision) and (false positive rate, recall), in [0, 1], from the highest threshold to the
    lowest. The two figures are scikit-learn's ``average_precision_score`` and ``roc_auc_score``.
    """

    label: int | None
    positives: int
    average_precision: float
    roc_auc: float
    precision_recall: Points
    roc: Points

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return asdict(self)


def ranking_curves(probabilities: Floats, labels: Labels, most: int = WORST_CLASSES) -> tuple[RankingCurves, ...]:
    """Curves of probabilities (N, K) against labels, (N,) or (N, K): all decisions pooled, then the worst classes.

    Not more than ``most`` classes, those with the lowest average precision; only those that some pictures have and some
    have not, nothing where there is none.
    """
    truth = labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(probabilities.shape[1])
    told_apart = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    if not len(told_apart):
        return ()
    classes = [_curves(probabilities[:, label], truth[:, label], int(label)) for label in told_apart]
    worst = sorted(classes, key=lambda each: (each.average_precision, each.label))[:most]
    return (_curves(probabilities.ravel(), truth.ravel(), None), *worst)


def _curves(scores: Floats, truth: NDArray[np.bool_], label: int | None) -> RankingCurves:
    """Both curves of scores (N,), higher where ``truth`` (N,) is more likely; it has both values."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # equal scores have one threshold
    right = np.cumsum(truth[order])[ends].astype(np.float64)
    named = ends + 1.0
    positives, negatives = right[-1], named[-1] - right[-1]
    recall, precision, wrong = right / positives, right / named, (named - right) / negatives
    kept = _spaced(named)
    return RankingCurves(
        label=label,
        positives=int(positives),
        average_precision=float(np.sum(np.diff(recall, prepend=0.0) * precision)),
        roc_auc=float(np.trapezoid(np.append(0.0, recall), np.append(0.0, wrong))),
        precision_recall=thinned(np.append(0.0, recall[kept]), np.append(precision[0], precision[kept])),
        roc=thinned(np.append(0.0, wrong[kept]), np.append(0.0, recall[kept])),
    )


def _spaced(named: Floats) -> NDArray[np.int64]:
    """Places of at most ``RANKS`` thresholds, the last one among them; ``named`` (N,) counts the pictures above each.

    From one to the next the number of pictures grows by a fraction of a percent, and so no figure moves further.
    """
    if len(named) <= RANKS:
        return np.arange(len(named))
    wanted = np.geomspace(named[0], named[-1], RANKS)
    return np.unique(np.append(np.searchsorted(named, wanted * (1 - 1e-12)).clip(max=len(named) - 1), len(named) - 1))


def thinned(x: Floats, y: Floats, tolerance: float = TOLERANCE) -> Points:
    """The line through (N,) and (N,) with as few of its points as keep the others within ``tolerance`` of it.

    Ramer, Computer Graphics and Image Processing 1, 1972; Douglas and Peucker, Cartographica 10, 1973.
    """
    keep = np.zeros(len(x), bool)
    keep[[0, -1]] = True
    waiting = [(0, len(x) - 1)]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        inside = slice(first + 1, last)
        far = _distances(x[inside], y[inside], (x[first], y[first]), (x[last], y[last]))
        at = int(far.argmax())
        if far[at] > tolerance:
            middle = first + 1 + at
            keep[middle] = True
            waiting += [(first, middle), (middle, last)]
    return tuple(zip(np.round(x[keep], 5).tolist(), np.round(y[keep], 5).tolist(), strict=True))


def _distances(x: Floats, y: Floats, start: tuple[float, float], end: tuple[float, float]) -> Floats:
    """How far points (N,), (N,) are from the segment between two others."""
    along = np.array([end[0] - start[0], end[1] - start[1]])
    from_start = np.stack([x - start[0], y - start[1]], 1)
    length = float(along @ along)
    share = np.clip(from_start @ along / length, 0.0, 1.0) if length else np.zeros(len(x))
    return np.asarray(np.hypot(*(from_start - share[:, None] * along).T))
