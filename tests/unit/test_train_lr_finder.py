"""The range test on problems whose largest rate is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import InconclusiveError
from edgecnn.spec import Preprocess
from edgecnn.train.config import TrainConfig
from edgecnn.train.lr_finder import HIGH, LOW, STEPS, RateCurve, find_lr, sweep

P = Preprocess(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CONFIG = TrainConfig(epochs=1, batch_size=16, precision="fp32", device="cpu", threads=1, ema=0.9)


def quadratic(curvature: float, seed: int = 0) -> Callable[[float], float]:
    """Gradient descent on ``curvature / 2 * mean (w - x)^2``, x random: stable for rates below 2 / curvature only."""
    random = np.random.default_rng(seed)
    weight = [10.0]

    def step(rate: float) -> float:
        errors = weight[0] - random.normal(size=32)
        weight[0] -= rate * curvature * errors.mean()
        return float(curvature / 2 * (errors**2).mean())

    return step


@pytest.mark.parametrize("curvature", [1, 10, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_the_suggestion_is_below_the_largest_stable_rate_but_not_far(curvature: float, seed: int) -> None:
    limit = 2 / curvature
    curve = sweep(quadratic(curvature, seed))
    assert curve.diverged and curve.rates[-1] < 10 * limit
    assert 0.1 * limit < curve.lowest < 1.5 * limit
    assert curve.suggested == pytest.approx(curve.lowest / 3)
    assert 0.03 * limit < curve.suggested < 0.5 * limit


def test_rates_rise_exponentially_and_the_lowest_loss_is_found() -> None:
    curve = sweep(lambda rate: 1 + math.log10(rate / 0.3) ** 2)
    assert curve.rates[0] == LOW and curve.rates[-1] == pytest.approx(HIGH) and len(curve.rates) == STEPS
    ratios = [after / before for before, after in zip(curve.rates, curve.rates[1:], strict=False)]
    assert min(ratios) == pytest.approx(max(ratios))
    assert curve.lowest == pytest.approx(0.3, rel=0.1)
    assert not curve.diverged
    assert curve.as_dict()["suggested"] == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("end", [math.nan, math.inf, 100.0])
def test_it_stops_where_the_loss_runs_away(end: float) -> None:
    curve = sweep(lambda rate: 2 / (1 + rate) if rate < 1 else end)
    assert curve.diverged and curve.rates[-1] < 1.5
    assert all(math.isfinite(loss) for loss in curve.losses)


@pytest.mark.parametrize("losses", [(1.0,) * 20, tuple(1.0 + 0.1 * step for step in range(20)), ()])
def test_a_loss_that_never_falls_gives_no_rate(losses: tuple[float, ...]) -> None:
    rates = tuple(LOW * 2**step for step in range(max(1, len(losses))))
    with pytest.raises(InconclusiveError, match="never falls"):
        _ = RateCurve(rates, losses, False).suggested


def test_the_network_is_not_changed_and_the_same_seed_finds_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    labels = np.arange(40, dtype=np.int64) % 2
    noise = np.random.default_rng(0).integers(0, 120, (40, 8, 8, 3))
    images = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
    train = ImageTensors(images, labels, tuple(map(str, range(40))))
    state = torch.get_rng_state()
    steps: list[tuple[int, int, int]] = []
    curve = find_lr(model, train, P, CONFIG, on_step=lambda *place: steps.append(place))
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert steps[0] == (1, 1, STEPS) and len(steps) >= len(curve.rates)
    assert 1e-4 < curve.suggested < HIGH
    assert find_lr(model, train, P, replace(CONFIG, lr=3.0, low_size=4, low_epochs=1)) == curve
