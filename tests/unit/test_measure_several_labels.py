"""Figures of several labels per picture, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from edgecnn.errors import UsageError
from edgecnn.measure.accuracy import accuracy
from edgecnn.measure.several_labels import measure_labels
from edgecnn.spec import Task


def made(n: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four labels: a common, an uncertain and a rare one, and one that no picture has."""
    dice = np.random.default_rng(seed)
    labels = np.stack([dice.random(n) < share for share in (0.6, 0.3, 0.05, 0.0)], axis=1).astype(np.uint8)
    labels[0, 2] = 1
    logits = dice.normal(0, 1.5, (n, 4)) + 2.5 * labels - 1.2
    return logits.astype(np.float32), labels


def test_figures_are_scikit_learns() -> None:
    logits, labels = made()
    found, given, present = measure_labels(logits, labels), logits > 0, [0, 1, 2]
    assert found.f1_micro.value == pytest.approx(f1_score(labels, given, average="micro"))
    assert found.f1_macro.value == pytest.approx(f1_score(labels[:, :3], given[:, :3], average="macro"))
    ranked = [average_precision_score(labels[:, k], logits[:, k]) for k in present]
    assert found.mean_average_precision.value == pytest.approx(np.mean(ranked))
    areas = [roc_auc_score(labels[:, k], logits[:, k]) for k in present]
    assert found.roc_auc is not None and found.roc_auc.value == pytest.approx(np.mean(areas))
    assert found.exact_match.value == (given == labels).all(axis=1).mean()
    assert found.exact_match == accuracy(logits, labels, Task.MULTI_LABEL).top1
    assert found.label_accuracy.value == pytest.approx((given == labels).mean())
    for k, each in enumerate(found.labels):
        right, wrong, missed, hits = each.counts
        assert sum(each.counts) == len(labels) and hits + missed == each.pictures == labels[:, k].sum()
        assert each.accuracy.value == pytest.approx((right + hits) / len(labels)) and wrong == given[:, k].sum() - hits
    never = found.labels[3]
    assert (never.recall, never.f1, never.roc_auc, never.average_precision) == (None, None, None, None)


def test_intervals_hold_their_value_and_the_order_changes_nothing() -> None:
    logits, labels = made()
    found = measure_labels(logits, labels)
    order = np.random.default_rng(1).permutation(len(labels))
    again = measure_labels(logits[order], labels[order])
    assert found.headline() == again.headline()
    np.testing.assert_array_equal(found.losses[order], again.losses)
    for figure in found.headline().values():
        assert figure.low <= figure.value <= figure.high and figure.n == len(labels)
        assert figure.low < figure.high
    wider = measure_labels(*made(40))
    assert np.ptp([wider.f1_micro.low, wider.f1_micro.high]) > np.ptp([found.f1_micro.low, found.f1_micro.high])


def test_the_interval_of_map_holds_the_truth_about_as_often_as_it_says() -> None:
    truth = measure_labels(*made(40_000, 99), resamples=2).mean_average_precision.value
    held = 0
    for seed in range(40):
        figure = measure_labels(*made(300, seed), resamples=100).mean_average_precision
        held += figure.low <= truth <= figure.high
    assert held >= 32


def test_calibration_counts_decisions() -> None:
    logits = np.full((100, 1), np.log(4), np.float32)  # says 80 %
    labels = (np.arange(100) % 2).astype(np.uint8)[:, None]  # is there in 50 %
    found = measure_labels(logits, labels)
    assert found.calibration_error.value == pytest.approx(0.3, abs=1e-6)
    assert sum(each.pictures for each in found.bins) == 100
    assert found.as_dict()["classes"][0]["counts"] == {
        "right_without": 0, "wrongly_given": 50, "missed": 0, "rightly_given": 50,
    }  # fmt: skip


def test_what_cannot_be_scored_is_told() -> None:
    logits, labels = made()
    for wrong, words in (
        ((logits[:, :2], labels), "do not belong"),
        ((logits, labels * 2), "other than 0 and 1"),
        ((logits, np.zeros_like(labels)), "no picture has any label"),
        ((np.where(logits > 3, np.nan, logits), labels), "not finite"),
        ((logits[:0], labels[:0]), "no pictures"),
    ):
        with pytest.raises(UsageError, match=words):
            measure_labels(*wrong)
