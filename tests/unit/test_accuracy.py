"""Accuracy of logits made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.errors import UsageError
from edgecnn.measure.accuracy import accuracy, confusion, correct, evaluate_file
from edgecnn.spec import Runtime

LABELS = np.array([0, 1, 2, 2], np.int64)
LOGITS = np.array([[5, 1, 1], [0, 2, 1], [9, 0, 1], [0, 1, 3]], np.float32)


def test_top1_and_confusion() -> None:
    found = accuracy(LOGITS, LABELS)
    assert found.top1.value == 0.75 and found.top1.n == 4 and found.top5 is None
    assert found.top1.low < 0.75 < found.top1.high
    np.testing.assert_array_equal(confusion(LOGITS, LABELS), [[1, 0, 0], [0, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(correct(LOGITS, LABELS), [True, True, False, True])


def test_top5_counts_the_five_best() -> None:
    logits = np.tile(np.arange(10, dtype=np.float32), (10, 1))
    found = accuracy(logits, np.arange(10))
    assert found.top5 is not None and found.top5.value == 0.5 and found.top1.value == 0.1


def test_equal_logits_do_not_count_twice() -> None:
    found = accuracy(np.zeros((8, 8), np.float32), np.arange(8))
    assert found.top5 is not None and found.top5.value == 5 / 8 and found.top1.value == 1 / 8


@pytest.mark.parametrize(
    ("labels", "word"),
    [(np.array([0, 1]), "do not belong"), (np.array([0, 1, 2, 3]), "3 classes"), (-LABELS, "3 classes")],
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        accuracy(LOGITS, labels)


def test_a_file_is_scored_in_its_runtime(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from edgecnn.data.tensors import ImageTensors

    (tmp_path / "net.onnx").touch()
    images = ImageTensors(np.zeros((6, 4, 4, 3), np.uint8), np.zeros(6, np.int64), tuple("abcdef"))
    found = evaluate_file(Runtime.NULL, tmp_path / "net.onnx", images)
    assert found.accuracy.top1.value == 1.0 and found.logits.shape == (6, 1) and found.confusion.tolist() == [[6]]
