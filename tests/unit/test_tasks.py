"""What logits mean: answers, probabilities and losses of classes, of two classes in one logit, and of labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score

from edgecnn import tasks
from edgecnn.errors import UsageError
from edgecnn.measure.parity import compare_logits
from edgecnn.spec import Task
from edgecnn.train.config import TrainConfig
from edgecnn.train.losses import (
    class_logits,
    class_weights,
    distillation_loss,
    label_loss,
    loss_of_part,
    right,
    several_labels_loss,
)

finite = st.floats(-30, 30, width=32)
columns = arrays.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(1)), elements=finite)
tables = arrays.arrays(np.float32, st.tuples(st.integers(2, 12), st.integers(1, 5)), elements=finite)


def config(task: Task, **values: object) -> TrainConfig:
    return TrainConfig(epochs=1, task=task, **values)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=30)
@given(columns)
def test_one_logit_is_the_second_of_two_classes(logits: np.ndarray) -> None:
    odds = tasks.probabilities(Task.BINARY, logits)
    np.testing.assert_allclose(odds[:, 1], torch.sigmoid(torch.from_numpy(logits).double())[:, 0], rtol=1e-12)
    np.testing.assert_allclose(odds.sum(axis=1), 1)
    answers = tasks.answers(Task.BINARY, logits)
    np.testing.assert_array_equal(answers, (logits[:, 0] > 0).astype(int))  # at 0 the first label
    assert tasks.right(Task.BINARY, logits, answers).all()
    assert not tasks.right(Task.BINARY, logits, 1 - answers).any()


@settings(deadline=None, max_examples=30)
@given(columns, st.sampled_from([0.0, 0.1]), st.sampled_from(["ce", "bce"]))
def test_the_loss_of_one_logit_is_binary_cross_entropy(logits: np.ndarray, smoothing: float, loss: str) -> None:
    z = torch.from_numpy(logits)
    labels = torch.arange(len(z)) % 2
    target = labels.float() * (1 - smoothing) + smoothing / 2
    found = label_loss(class_logits(z, Task.BINARY), labels, config(Task.BINARY, loss=loss, label_smoothing=smoothing))
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(z[:, 0], target), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(tables)
def test_every_label_is_a_binary_task_of_its_own(logits: np.ndarray) -> None:
    z = torch.from_numpy(logits)
    target = torch.arange(z.numel()).view(z.shape) % 3 == 0
    for loss in ("ce", "bce", "focal"):
        settings = {"loss": loss, "label_smoothing": 0.1}
        whole = several_labels_loss(z, target.float(), config(Task.MULTI_LABEL, **settings))
        single = [
            label_loss(class_logits(z[:, k : k + 1], Task.BINARY), target[:, k].long(), config(Task.BINARY, **settings))
            for k in range(z.shape[1])
        ]
        if loss != "focal":  # the focal loss of classes smooths both of them, and is summed over both
            torch.testing.assert_close(whole, torch.stack(single).sum(), rtol=1e-4, atol=1e-5)
    odds = tasks.probabilities(Task.MULTI_LABEL, logits)
    np.testing.assert_allclose(odds, torch.sigmoid(z.double()), rtol=1e-12)
    np.testing.assert_array_equal(tasks.answers(Task.MULTI_LABEL, logits), logits > 0)


def test_focal_loss_of_labels_by_hand() -> None:
    z = torch.tensor([[np.log(3.0), -np.log(3.0)]])  # probabilities 3/4 and 1/4
    found = several_labels_loss(z, torch.tensor([[1.0, 1.0]]), config(Task.MULTI_LABEL, loss="focal"))
    assert found.item() == pytest.approx(-(0.25**2) * np.log(0.75) - (0.75**2) * np.log(0.25))


def test_balanced_labels_weigh_both_sides_alike() -> None:
    labels = torch.tensor([[1, 1], [0, 1], [0, 1], [0, 1]], dtype=torch.uint8)
    weights = class_weights(labels, 2)
    torch.testing.assert_close(weights, torch.tensor([[4 / 6, 0.0], [2.0, 0.5]]))
    loss = several_labels_loss(torch.zeros(4, 2), labels.float(), config(Task.MULTI_LABEL), weights)
    assert loss.item() == pytest.approx(np.log(2) * (1 + 0.5))  # of the label that all have there is one side only


@pytest.mark.parametrize("loss", ["ce", "bce", "focal"])
@pytest.mark.parametrize("task", list(Task))
def test_parts_of_a_batch_sum_up_to_it(task: Task, loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, classes = (1, 2) if task is Task.BINARY else (3, 3)
    logits = class_logits(torch.randn(10, outputs, generator=generator), task)
    teacher = class_logits(torch.randn(10, outputs, generator=generator), task)
    labels = torch.arange(10) % classes
    target = F.one_hot(labels, 3).float() if task is Task.MULTI_LABEL else labels
    weights = class_weights((target > 0).byte() if task is Task.MULTI_LABEL else labels, classes)
    c = config(task, loss=loss, label_smoothing=0.1)
    whole = loss_of_part(logits, target, slice(0, 10), c, weights, teacher)
    parts = [loss_of_part(logits[at], target, at, c, weights, teacher[at]) for at in (slice(0, 3), slice(3, 10))]
    torch.testing.assert_close(sum(parts), whole)


def test_labels_are_taught_one_by_one() -> None:
    student, teacher = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 3.0]])
    found = distillation_loss(student, teacher, 2.0, Task.MULTI_LABEL)
    p, q = torch.sigmoid(teacher / 2), torch.sigmoid(student / 2)
    wanted = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    torch.testing.assert_close(found, wanted)
    assert distillation_loss(student, student, 2.0, Task.MULTI_LABEL).item() == pytest.approx(0, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_average_precision_is_scikit_learns(pairs: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([pair[0] for pair in pairs]) / 4, np.array([pair[1] for pair in pairs])
    if not positive.any():
        return
    assert tasks.average_precision(scores, positive) == pytest.approx(average_precision_score(positive, scores))


def test_a_set_of_labels_is_right_as_a_whole() -> None:
    logits = np.array([[1, -1, 2], [1, 1, -1], [-1, -1, -1]], np.float32)
    labels = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0]], np.uint8)
    assert tasks.right(Task.MULTI_LABEL, logits, labels).tolist() == [True, False, True]
    assert right(torch.from_numpy(logits), torch.from_numpy(labels).float(), Task.MULTI_LABEL).tolist() == [1, 0, 1]
    assert tasks.score(Task.MULTI_LABEL, logits, labels) == pytest.approx(1.0)  # the second label is on none
    assert np.isnan(tasks.mean_average_precision(logits, np.zeros_like(labels)))
    other = logits.copy()
    other[1, 1] = -1
    assert tasks.agreement(Task.MULTI_LABEL, logits, other) == pytest.approx(8 / 9)
    assert tasks.equal_sets(logits, other) == pytest.approx(2 / 3)


def test_margins_are_what_separates_an_answer_from_anothers() -> None:
    mine, other = np.array([[3.0, 1.0, 2.5], [0.0, 1.0, 5.0]]), np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(tasks.margins(Task.MULTI_CLASS, mine, other), [0.5, 0.0])
    np.testing.assert_allclose(tasks.margins(Task.BINARY, mine[:, :1], -other[:, :1]), [3.0, 0.0])
    np.testing.assert_allclose(tasks.margins(Task.MULTI_LABEL, mine, -other), [[3.0, 1.0, 2.5], [0.0, 1.0, 5.0]])


def test_parity_of_one_logit_does_not_hang_on_its_sign() -> None:
    parent = np.linspace(-4, 4, 100, dtype=np.float32)[:, None]
    found = compare_logits(parent, parent + np.float32(0.05), Task.BINARY)
    assert found.agreement == pytest.approx(0.99) and found.cosine > 0.999 and found.equal_sets is None
    assert compare_logits(parent, -parent, Task.BINARY).cosine == pytest.approx(-1)
    assert compare_logits(parent, -parent, Task.BINARY).agreement == 0


def test_the_task_follows_from_the_pictures_or_fits_them() -> None:
    two, three = ("a", "b"), ("a", "b", "c")
    assert tasks.choose(None, two, False, "x") is Task.MULTI_CLASS
    assert tasks.choose(None, two, True, "x") is Task.MULTI_LABEL
    assert tasks.choose(Task.BINARY, two, False, "x") is Task.BINARY
    for task, labels, several, words in (
        (Task.BINARY, three, False, "has 3 classes"),
        (Task.BINARY, two, True, "several labels"),
        (Task.MULTI_CLASS, two, True, "several labels"),
        (Task.MULTI_LABEL, two, False, "one class"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            tasks.choose(task, labels, several, "x")
        assert caught.value.hint
    assert [tasks.outputs(task, 2) for task in Task] == [2, 1, 2]
