"""Figures of logits: small cases by hand, scikit-learn as the judge, and what must hold for any logits."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from edgecnn.errors import UsageError
from edgecnn.measure import resampling
from edgecnn.measure.classification import BINS, Classification, classify, log_softmax

LABELS = np.array([0, 0, 1, 1, 2], np.int64)
SHARES = np.array([[0.82, 0.09, 0.09], [0.3, 0.61, 0.09], [0.09, 0.82, 0.09], [0.2, 0.7, 0.1], [0.5, 0.2, 0.3]])
LOGITS = np.log(SHARES).astype(np.float32)  # answers 0, 1, 1, 1, 0


def logits_like(labels: NDArray[np.int64], classes: int, strength: float, seed: int = 0) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(size=(len(labels), classes))
    return (noise + strength * np.eye(classes)[labels]).astype(np.float32)


def test_golden_shares() -> None:
    found = classify(LOGITS, LABELS)
    assert found.top1.value == 3 / 5
    assert (found.k, found.top_k and found.top_k.value) == (2, 1.0)
    np.testing.assert_array_equal(found.confusion, [[1, 1, 0], [0, 2, 0], [1, 0, 0]])
    assert [each.pictures for each in found.classes] == [2, 2, 1]
    assert [each.precision for each in found.classes] == pytest.approx([1 / 2, 2 / 3, 0])
    assert [each.recall for each in found.classes] == pytest.approx([1 / 2, 1, 0])
    assert [each.f1 for each in found.classes] == pytest.approx([1 / 2, 4 / 5, 0])
    assert found.f1.value == pytest.approx((1 / 2 + 4 / 5) / 3)


def test_golden_ranking() -> None:
    found = classify(LOGITS, LABELS)
    # Class 0: pictures of it score 0.82 and 0.3, the others 0.09, 0.2, 0.5: five of six pairs are in order.
    # Class 1: 0.82 and 0.7 are above all others. Class 2: 0.3 is above all others.
    assert [each.roc_auc for each in found.classes] == pytest.approx([5 / 6, 1, 1])
    assert [each.average_precision for each in found.classes] == pytest.approx([(1 + 2 / 3) / 2, 1, 1])
    assert found.roc_auc is not None and found.roc_auc.value == pytest.approx((5 / 6 + 2) / 3)


def test_golden_calibration_and_loss() -> None:
    found = classify(LOGITS, LABELS)
    assert found.loss.value == pytest.approx(-np.log([0.82, 0.3, 0.82, 0.7, 0.3]).mean(), rel=1e-6)
    assert found.losses == pytest.approx(-np.log([0.82, 0.3, 0.82, 0.7, 0.3]), rel=1e-6)
    filled = {round(each.low * BINS): each for each in found.bins if each.pictures}
    assert sorted(filled) == [7, 9, 10, 12]  # 0.5, 0.61, 0.7, and 0.82 twice
    assert (filled[12].pictures, filled[12].accuracy) == (2, 1.0)
    assert filled[12].confidence == pytest.approx(0.82)
    assert found.calibration_error.value == pytest.approx((0.5 + 0.61 + 0.3 + 2 * 0.18) / 5, rel=1e-5)


def test_two_classes_have_no_top_k_and_six_have_top_5() -> None:
    assert classify(LOGITS[:4, :2], LABELS[:4]).top_k is None
    six = classify(np.tile(np.arange(6, dtype=np.float32), (6, 1)), np.arange(6))
    assert six.k == 5 and six.top_k is not None and six.top_k.value == 5 / 6


def test_a_class_without_pictures_is_left_out_of_the_means() -> None:
    labels = np.array([0, 1, 0, 1])
    found = classify(logits_like(labels, 3, 9.0), labels)
    assert (found.f1.value, found.recall.value, found.roc_auc and found.roc_auc.value) == (1, 1, 1)
    assert found.classes[2].pictures == 0 and found.classes[2].roc_auc is None


def test_one_class_alone_has_no_ranking() -> None:
    found = classify(LOGITS[:2], LABELS[:2])
    assert found.roc_auc is None and found.average_precision is None and found.top1.value == 0.5
    assert "ROC AUC, macro" not in found.headline()


def test_many_pictures_against_scikit_learn() -> None:
    labels = np.random.default_rng(1).integers(0, 4, 300)
    logits = logits_like(labels, 4, 1.5)
    found, shares = classify(logits, labels), np.exp(log_softmax(logits))
    assert found.roc_auc is not None and found.average_precision is not None
    assert found.roc_auc.value == pytest.approx(roc_auc_score(labels, shares, multi_class="ovr"))
    assert found.average_precision.value == pytest.approx(average_precision_score(np.eye(4)[labels], shares))
    assert found.f1.value == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    for figure in found.headline().values():
        assert figure.low < figure.value < figure.high and figure.n == 300


def test_resampled_figures_are_those_of_the_drawn_pictures() -> None:
    """Weights must mean what copying pictures would: each resample is drawn out and given to scikit-learn."""
    labels = np.random.default_rng(2).integers(0, 3, 60)
    scores = np.round(logits_like(labels, 3, 1.0).astype(np.float64), 1)  # rounded: there are equal scores
    answers = scores.argmax(axis=1)
    weights = resampling.draw_weights(60, 5, seed=3)
    area, average = resampling.ranking_figures(scores[:, 1], labels == 1, weights)
    _, _, f1 = resampling.macro_figures(labels, answers, 3, weights)
    for column, drawn in enumerate(weights.T):
        copies = np.repeat(np.arange(60), drawn.astype(int))
        assert len(copies) == 60
        assert area[column] == pytest.approx(roc_auc_score(labels[copies] == 1, scores[copies, 1]))
        assert average[column] == pytest.approx(average_precision_score(labels[copies] == 1, scores[copies, 1]))
        assert f1[column] == pytest.approx(f1_score(labels[copies], answers[copies], average="macro"))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    many = np.random.default_rng(9).integers(0, 3, 40_000)
    truth = classify(logits_like(many, 3, 1.2, seed=10), many, resamples=2).headline()
    inside = dict.fromkeys(truth, 0)
    for trial in range(60):
        labels = np.random.default_rng(trial).integers(0, 3, 250)
        for name, figure in classify(logits_like(labels, 3, 1.2, seed=100 + trial), labels).headline().items():
            inside[name] += figure.low <= truth[name].value <= figure.high
    assert inside.pop("calibration error") >= 43  # biased by chance with few pictures, however it is resampled
    assert all(count >= 50 for count in inside.values()), inside


def test_it_is_fast() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 5000)
    logits, start = logits_like(labels, 10, 3.0), time.process_time()
    classify(logits, labels)
    assert time.process_time() - start < 5


def test_the_json_is_plain_and_finite() -> None:
    facts = json.loads(json.dumps(classify(LOGITS, LABELS).as_dict(), allow_nan=False))
    assert facts["f1"]["n"] == 5 and facts["confusion"][0] == [1, 1, 0] and len(facts["bins"]) == BINS
    assert facts["classes"][1]["roc_auc"] == 1.0


@pytest.mark.parametrize(
    ("logits", "labels", "word"),
    [
        (LOGITS, LABELS[:4], "do not belong"),
        (LOGITS[:, :2], LABELS, "2 classes"),
        (LOGITS[:0], LABELS[:0], "no pictures"),
        (np.where(np.isclose(LOGITS, LOGITS.max()), np.float32(np.nan), LOGITS), LABELS, "not finite for 2 of 5"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits: NDArray[np.float32], labels: NDArray[np.int64], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        classify(logits, labels)


@st.composite
def scored(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (N, K) with many equal ones, and labels."""
    classes, pictures = draw(st.integers(2, 7)), draw(st.integers(1, 25))
    rows = st.lists(st.integers(-3, 3), min_size=classes, max_size=classes)
    logits = draw(st.lists(rows, min_size=pictures, max_size=pictures))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=pictures, max_size=pictures))
    return np.array(logits, np.float32), np.array(labels, np.int64)


def comparable(found: Classification) -> str:
    return repr(replace(found, losses=np.zeros(0), probabilities=np.zeros(0)))


@settings(max_examples=40, deadline=None)
@given(scored(), st.randoms(use_true_random=False))
def test_the_order_of_the_pictures_changes_nothing(pair, random) -> None:  # type: ignore[no-untyped-def]
    logits, labels = pair
    order = list(range(len(labels)))
    random.shuffle(order)
    found, moved = classify(logits, labels, resamples=20), classify(logits[order], labels[order], resamples=20)
    assert comparable(found) == comparable(moved)
    np.testing.assert_array_equal(found.losses[order], moved.losses)


@settings(max_examples=40, deadline=None)
@given(scored())
def test_figures_lie_in_their_intervals_and_these_where_figures_can_be(pair) -> None:  # type: ignore[no-untyped-def]
    logits, labels = pair
    found = classify(logits, labels, resamples=20)
    for name, figure in found.headline().items():
        assert 0 <= figure.low <= figure.value <= figure.high <= (math.inf if name == "log loss" else 1)
    assert sum(each.pictures for each in found.bins) == found.confusion.sum() == len(labels)
    assert sum(each.pictures for each in found.classes) == len(labels)


@settings(max_examples=40, deadline=None)
@given(scored())
def test_a_level_added_to_all_logits_of_a_picture_changes_nothing(pair) -> None:  # type: ignore[no-untyped-def]
    logits, labels = pair
    found, moved = classify(logits, labels, resamples=5), classify(logits + np.float32(64), labels, resamples=5)
    for name, figure in found.headline().items():
        assert moved.headline()[name].value == pytest.approx(figure.value)
    assert [each.pictures for each in found.bins] == [each.pictures for each in moved.bins]
    assert found.classes == moved.classes


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=40))
def test_perfect_logits_are_perfect(labels: list[int]) -> None:
    found = classify(60 * np.eye(6, dtype=np.float32)[labels], np.array(labels))
    values = {name: figure.value for name, figure in found.headline().items()}
    assert values.pop("calibration error") == pytest.approx(0, abs=1e-12)
    assert values.pop("log loss") == pytest.approx(0, abs=1e-12)
    assert set(values.values()) == {1.0}
    assert found.f1.low == 1.0 and found.top1.low < 1.0  # Wilson knows that there are few pictures


def test_a_network_that_is_never_sure_is_calibrated_on_average() -> None:
    labels = np.arange(400) % 4
    found = classify(np.zeros((400, 4), np.float32), labels)
    assert found.calibration_error.value == 0 and found.loss.value == pytest.approx(math.log(4))
    assert found.roc_auc is not None and found.roc_auc.value == 0.5
