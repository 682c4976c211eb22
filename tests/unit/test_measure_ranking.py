from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from edgecnn.measure import ranking
from edgecnn.measure.ranking import TOLERANCE, Points, ranking_curves, thinned

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def random_set(n: int, classes: int, seed: int, digits: int = 9) -> tuple[Array, np.ndarray[Any, np.dtype[np.int64]]]:
    """Probabilities (n, classes), with ties where ``digits`` are few, and labels that they know something of."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes))
    labels = np.where(rng.random(n) < 0.5, logits.argmax(1), rng.integers(0, classes, n)).astype(np.int64)
    labels[:2] = 0, 1
    odds = np.exp(logits)
    return np.round(odds / odds.sum(1, keepdims=True), digits), labels


def furthest(points: Points, x: Array, y: Array) -> float:
    """How far the worst of the points x, y is from the line."""
    line = np.array(points)
    best = np.full(len(x), np.inf)
    for (x0, y0), (x1, y1) in pairwise(line):
        dx, dy = x1 - x0, y1 - y0
        length = dx * dx + dy * dy
        share = np.clip(((x - x0) * dx + (y - y0) * dy) / length, 0, 1) if length else 0.0
        best = np.minimum(best, np.hypot(x - x0 - share * dx, y - y0 - share * dy))
    return float(best.max())


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 120), st.integers(2, 5), st.integers(0, 10_000), st.sampled_from([1, 2, 9]))
def test_curves_are_those_of_scikit_learn(n: int, classes: int, seed: int, digits: int) -> None:
    odds, labels = random_set(n, classes, seed, digits)
    pooled, *each = ranking_curves(odds, labels)
    assert pooled.label is None and {one.label for one in each} == set(labels.tolist())
    truth = np.eye(classes, dtype=bool)[labels]
    for found in (pooled, *each):
        whole = found.label is None
        right, scores = (truth.ravel(), odds.ravel()) if whole else (truth[:, found.label], odds[:, found.label])
        assert found.positives == right.sum()
        assert found.average_precision == pytest.approx(average_precision_score(right, scores))
        assert found.roc_auc == pytest.approx(roc_auc_score(right, scores))
        precision, recall, _ = precision_recall_curve(right, scores)
        wrong, hit, _ = roc_curve(right, scores, drop_intermediate=False)
        # Its last point (recall 0, precision 1) is a convention, and no threshold's.
        assert furthest(found.precision_recall, recall[:-1], precision[:-1]) <= TOLERANCE + 1e-4
        assert furthest(found.roc, wrong, hit) <= TOLERANCE + 1e-4


def test_long_curves_stay_short_and_close() -> None:
    odds, labels = random_set(30_000, 3, 0)
    curves = ranking_curves(odds, labels)
    assert max(len(each.precision_recall) for each in curves) < 300
    assert max(len(each.roc) for each in curves) < 100
    truth = np.eye(3, dtype=bool)[labels]
    for each in curves[1:]:
        assert each.label is not None
        precision, recall, _ = precision_recall_curve(truth[:, each.label], odds[:, each.label])
        assert furthest(each.precision_recall, recall[:-1], precision[:-1]) <= 2 * TOLERANCE


def test_the_worst_classes_are_chosen() -> None:
    odds, labels = random_set(400, 9, 3)
    pooled, *worst = ranking_curves(odds, labels, most=4)
    every = ranking_curves(odds, labels, most=9)[1:]
    assert pooled.label is None and len(worst) == 4
    assert tuple(worst) == every[:4]
    assert [each.average_precision for each in every] == sorted(each.average_precision for each in every)


def test_one_class_has_no_curves() -> None:
    assert ranking_curves(np.full((3, 2), 0.5), np.zeros(3, np.int64)) == ()


def test_a_straight_line_is_two_points_and_a_corner_stays() -> None:
    ramp = np.linspace(0, 1, 101)
    assert thinned(ramp, ramp) == ((0.0, 0.0), (1.0, 1.0))
    assert thinned(ramp, np.minimum(2 * ramp, 1)) == ((0.0, 0.0), (0.5, 1.0), (1.0, 1.0))
    assert thinned(np.zeros(3), np.array([0.0, 1.0, 0.0])) == ((0.0, 0.0), (0.0, 1.0), (0.0, 0.0))


def test_a_perfect_ranking_reaches_the_corner() -> None:
    odds = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]])
    for each in ranking_curves(odds, np.array([0, 0, 1, 1])):
        assert each.average_precision == each.roc_auc == 1.0
        assert (0.0, 1.0) in each.roc and (1.0, 1.0) in each.precision_recall


def test_all_ties_are_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "RANKS", 2)
    pooled = ranking_curves(np.full((8, 2), 0.5), np.array([0, 1] * 4))[0]
    assert pooled.roc == ((0.0, 0.0), (1.0, 1.0)) and pooled.roc_auc == 0.5
    assert pooled.precision_recall == ((0.0, 0.5), (1.0, 0.5))
