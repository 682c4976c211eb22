"""Losses, mixed pictures and a teacher's logits, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgecnn.spec import Preprocess
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher, renormalize
from edgecnn.train.losses import class_weights, distillation_loss, label_loss
from edgecnn.train.mixing import blend, mix, paste

P = Preprocess(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def config(**values: object) -> TrainConfig:
    return TrainConfig(epochs=1, **values)  # type: ignore[arg-type]


def batch(n: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, classes, generator=generator), torch.arange(n) % classes


def test_balanced_weights_are_scikit_learns() -> None:
    labels = torch.tensor([0, 0, 0, 1, 3, 3])
    # "balanced" of sklearn.utils.class_weight, with four classes: 6 / (4 * [3, 1, -, 2])
    torch.testing.assert_close(class_weights(labels, 4), torch.tensor([0.5, 1.5, 0.0, 0.75]))


@pytest.mark.parametrize("loss", ["ce", "focal", "bce"])
def test_soft_labels_of_one_class_are_hard_labels(loss: str) -> None:
    logits, labels = batch()
    soft = F.one_hot(labels, 4).float()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    c = config(loss=loss, label_smoothing=0.1)
    torch.testing.assert_close(label_loss(logits, labels, c), label_loss(logits, soft, c))
    if loss != "ce":  # torch divides soft labels' cross-entropy by the batch, not by the weights
        torch.testing.assert_close(label_loss(logits, labels, c, weights), label_loss(logits, soft, c, weights))


def test_focal_without_gamma_is_cross_entropy() -> None:
    logits, labels = batch()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    c = config(loss="focal", focal_gamma=0.0, label_smoothing=0.0)
    torch.testing.assert_close(label_loss(logits, labels, c, weights), F.cross_entropy(logits, labels, weights))


def test_focal_of_one_picture_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4 and 1/4
    c = config(loss="focal", focal_gamma=2.0, label_smoothing=0.0)
    assert label_loss(logits, torch.tensor([0]), c).item() == pytest.approx(-(0.25**2) * math.log(0.75))


def test_bce_sums_over_classes() -> None:
    c = config(loss="bce", label_smoothing=0.0)
    assert label_loss(torch.zeros(2, 5), torch.tensor([0, 1]), c).item() == pytest.approx(5 * math.log(2))


@given(st.floats(0.5, 8))
@settings(deadline=None, max_examples=20)
def test_distillation_is_zero_at_the_teacher_and_positive_elsewhere(temperature: float) -> None:
    logits, _ = batch()
    assert distillation_loss(logits, logits + 3.0, temperature).item() == pytest.approx(0, abs=1e-5)
    assert distillation_loss(logits, logits.flip(1), temperature).item() > 0


def test_distillation_of_one_picture_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    # At T = 2 the teacher says 3/4 and 1/4, the student 1/2 each.
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("how", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixed_labels_are_the_share_of_the_pixels(how: dict[str, float]) -> None:
    # Pictures of one colour each, the number of their class: then the mean colour must be the labels' mean class.
    labels = torch.arange(5)
    pictures = labels.float().view(5, 1, 1, 1).expand(5, 3, 16, 16).contiguous()
    for seed in range(20):
        mixed, soft = mix(pictures, labels, 5, config(**how), torch.Generator().manual_seed(seed))
        torch.testing.assert_close(soft.sum(1), torch.ones(5))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ labels.float(), atol=1e-4, rtol=1e-4)


def test_nothing_is_mixed_or_drawn_when_it_is_off() -> None:
    generator = torch.Generator().manual_seed(3)
    pictures, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    mixed, same = mix(pictures, labels, 4, config(), generator)
    assert mixed is pictures and same is labels
    assert torch.equal(torch.rand(2, generator=generator), torch.rand(2, generator=torch.Generator().manual_seed(3)))


def test_mixing_is_repeatable() -> None:
    pictures, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    one, two = (mix(pictures, labels, 4, config(cutmix=1.0), torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_blend_and_paste_keep_the_original_batch() -> None:
    pictures = torch.randn(4, 3, 8, 8)
    before, other = pictures.clone(), torch.tensor([1, 2, 3, 0])
    torch.testing.assert_close(blend(pictures, other, 0.25), 0.25 * pictures + 0.75 * pictures[other])
    paste(pictures, other, 0.5, np.random.default_rng(0))
    assert torch.equal(pictures, before)


class Mean(nn.Module):
    """Logits that are the mean of each channel; counts how often it is asked."""

    asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return x.mean((2, 3))


def test_a_teacher_sees_the_student_s_picture_its_own_way() -> None:
    pixels = torch.rand(2, 3, 8, 8)
    other = Preprocess(4, (0.2, 0.3, 0.4), (0.5, 0.6, 0.7))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (other.mean, other.std))
    batch = (pixels - 0.5) / 0.25
    torch.testing.assert_close(renormalize(batch, P, other), (pixels - mean) / std, atol=1e-5, rtol=1e-5)
    logits = Teacher(Mean(), other).logits(batch, P, "fp32", None)
    torch.testing.assert_close(logits, ((pixels - mean) / std).mean((2, 3)), atol=0.05, rtol=0.05)


def test_a_teacher_answers_a_batch_that_comes_again_from_memory() -> None:
    model = Mean()
    teacher = Teacher(model, P)
    first = teacher.logits(torch.randn(2, 3, 8, 8), P, "fp32", (0, 1))
    assert torch.equal(teacher.logits(torch.zeros(2, 3, 8, 8), P, "fp32", (0, 1)), first)
    assert model.asked == 1
    teacher.logits(torch.zeros(2, 3, 8, 8), P, "fp32", (1, 1))
    teacher.logits(torch.zeros(2, 3, 8, 8), P, "fp32", None)
    assert model.asked == 3
