from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgecnn.train.schedule import WeightAverage, lr_factor


def test_warm_up_rises_in_equal_steps_to_the_highest_rate() -> None:
    factors = [lr_factor(step, 100, 4) for step in range(5)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_rate_falls_along_half_a_cosine() -> None:
    falling = [lr_factor(step, 104, 4) for step in range(4, 104)]
    assert falling == sorted(falling, reverse=True)
    assert falling[50] == pytest.approx(0.5)
    assert 0 < falling[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 5), (2, 2), (3, 100)])
def test_short_runs_never_divide_by_zero_and_never_stand_still(total: int, warmup: int) -> None:
    assert all(0 < lr_factor(step, total, warmup) <= 1 for step in range(total))


def test_average_equals_the_recurrence_written_out() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = WeightAverage(model, 0.5)
    expected = 0.0
    for step, value in enumerate([1.0, 5.0, -2.0, 7.0, 7.0, 1.0]):
        nn.init.constant_(model.weight, value)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert float(average.model.weight) == pytest.approx(expected)  # type: ignore[arg-type]


def test_average_follows_batch_norm_statistics_and_counts() -> None:
    model = nn.BatchNorm2d(3)
    average = WeightAverage(model, 0.9)
    model(torch.randn(8, 3, 4, 4) * 5 + 2)
    average.update(model, 0)
    buffers, current = dict(average.model.named_buffers()), dict(model.named_buffers())
    assert torch.allclose(buffers["running_mean"], 0.9 * current["running_mean"])
    assert int(buffers["num_batches_tracked"]) == int(current["num_batches_tracked"]) == 1
    assert not average.model.training and model.training
