"""Bootstrap over pictures: how far a figure would move with other test pictures of the same kind. Pure numpy.

A resample is written as weights: how often each picture was drawn. A figure of all resamples is then a few array
operations on weights (N, R): no picture is copied.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.spec import Interval

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]  # (N, R); whole numbers, which float32 adds exactly up to 16 million


def draw_weights(pictures: int, resamples: int, seed: int) -> Weights:
    """How often each of N pictures is in each of R resamples (N, R); every column adds up to N."""
    rng = np.random.default_rng(seed)
    columns = [np.bincount(rng.integers(pictures, size=pictures), minlength=pictures) for _ in range(resamples)]
    return np.stack(columns, axis=1).astype(np.float32)


def canonical_order(logits: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.int64]:
    """An order of the pictures (N,) that depends on their logits (N, K) and labels only, not on how they came.

    Seeded weights then fall on the same pictures whatever order they are read in.
    """
    rows = np.ascontiguousarray(np.concatenate([labels.reshape(len(labels), -1).astype(np.float32), logits], axis=1))
    return np.argsort(rows.view(f"V{rows.shape[1] * rows.itemsize}").ravel(), kind="stable")


def interval(value: float, resampled: Floats, n: int, *, ceiling: float = 1.0) -> Interval:
    """The central 95 % of ``resampled`` (R,) without their bias, stretched to hold ``value``, within [0, ``ceiling``].

    What chance adds to a figure, resampling adds once more: a calibration error of few pictures is too high, and those
    of its resamples are higher still. The distance between the two is therefore taken off twice (Efron and Tibshirani
    1993, chapter 10). Next to nothing changes for figures that chance moves up as often as down.
    Where no picture of the sample is wrong no resample has a wrong one either, and the interval has no width. Resamples
    in which the figure is not defined (nan) are left out; when it never is, nothing is known.
    """
    known = resampled[np.isfinite(resampled)]
    if known.size == 0 or not math.isfinite(value):
        return Interval(value, 0.0, ceiling, n)
    low, high = np.percentile(known, [2.5, 97.5]) - 2 * (float(known.mean()) - value)
    return Interval(value, max(0.0, min(value, float(low))), min(ceiling, max(value, float(high))), n)


def weighted_means(values: Floats, weights: Weights) -> Floats:
    """The mean of values (N,) in each resample (R,)."""
    return np.asarray(values @ weights / len(values))


def macro_figures(
    labels: NDArray[np.int64], answers: NDArray[np.int64], classes: int, weights: Weights
) -> tuple[Floats, Floats, Floats]:
    """Macro precision, recall and F1 of each resample (R,), over the classes that have pictures in that resample.

    ``labels`` and ``answers`` (N,) in [0, ``classes``). Counts are what is resampled: three per class suffice.
    """

    def counts(of: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Floats:
        columns = [np.bincount(of[chosen], weights=column[chosen], minlength=classes) for column in weights.T]
        return np.stack(columns).astype(np.float64)  # whole numbers where nothing was chosen

    every = np.ones(len(labels), np.bool_)
    hits, support, called = counts(labels, labels == answers), counts(labels, every), counts(answers, every)
    present = support > 0

    def mean(above: Floats, below: Floats) -> Floats:
        shares = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        return np.asarray((shares * present).sum(axis=1) / present.sum(axis=1))

    return mean(hits, called), mean(hits, support), mean(2 * hits, support + called)


def calibration_errors(bins: NDArray[np.int64], gaps: Floats, count: int, weights: Weights) -> Floats:
    """Expected calibration error of each resample (R,); ``bins`` (N,) in [0, count), ``gaps`` confidence - hit (N,)."""
    placed = np.zeros((count, len(gaps)), np.float64)
    placed[bins, np.arange(len(gaps))] = gaps
    return np.asarray(np.abs(placed @ weights).sum(axis=0) / len(gaps))


def ranking_figures(scores: Floats, positive: NDArray[np.bool_], weights: Weights) -> tuple[Floats, Floats]:
    """ROC AUC and average precision of one class in each resample (R,); nan where a resample has only one side.

    ``scores`` and ``positive`` (N,). Of equal scores, half count as ranked right (AUC), and all are at one threshold
    (average precision, without interpolation), as in scikit-learn.
    """
    order = np.argsort(scores, kind="stable")
    ranked, sorted_weights, is_positive = scores[order], weights[order], positive[order]
    every = _cumulated(sorted_weights)
    positives = _cumulated(np.where(is_positive[:, None], sorted_weights, np.float32(0)))
    own = sorted_weights[is_positive].astype(np.float64)  # (P, R)
    first = np.searchsorted(ranked, ranked[is_positive], side="left")
    last = np.searchsorted(ranked, ranked[is_positive], side="right")
    below = (every[first] - positives[first] + every[last] - positives[last]) / 2
    reached = every[-1] - every[first]
    found = positives[-1] - positives[first]
    precision = np.divide(found, reached, out=np.zeros(found.shape), where=reached > 0)
    total, rest = positives[-1].astype(np.float64), (every[-1] - positives[-1]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (own * below).sum(axis=0) / (total * rest)
        average = (own * precision).sum(axis=0) / total
    average[rest == 0] = np.nan
    return area, average


def _cumulated(weights: Weights) -> Weights:
    """Sums of the first 0, 1, ... N rows (N + 1, R)."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]), np.float32)
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums
