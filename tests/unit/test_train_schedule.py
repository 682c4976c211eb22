from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgecnn.train.schedule import WeightAverage, lr_factor, plateau_factor


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


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "one_cycle", "constant", "plateau"])
def test_every_schedule_stays_between_zero_and_one(schedule: str) -> None:
    factors = [lr_factor(step, 60, 5, schedule) for step in range(60)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == pytest.approx(1, abs=0.01)


def test_one_cycle_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1001, cycle_momentum=False)
    for step in range(1000):
        optimizer.step()
        theirs.step()
        assert lr_factor(step, 1000, 0, "one_cycle") == pytest.approx(theirs.get_last_lr()[0], abs=0.01)


def test_steps_fall_at_half_and_three_quarters() -> None:
    factors = [lr_factor(step, 100, 0, "step") for step in range(100)]
    assert factors == pytest.approx([1.0] * 50 + [0.1] * 25 + [0.01] * 25)


def test_a_plateau_is_torchs() -> None:
    losses = [1.0, 0.8, *[0.8] * 7, 0.7, *[0.75] * 12]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.2, patience=4, threshold=1e-3)
    for epoch, loss in enumerate(losses, 1):
        theirs.step(loss)
        assert plateau_factor(losses[:epoch]) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert plateau_factor(losses) < 0.1


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
