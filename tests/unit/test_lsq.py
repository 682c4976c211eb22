"""Rounding onto a grid whose step is learned: the values and the gradients that the paper's equations give."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgecnn.compress.lsq import SMALLEST, LearnedStep

GRIDS = [(-128, 127), (0, 255), (-255, 0), (-127, 127), (-28, 227)]


def gradients(
    values: Tensor, start: float, low: int, high: int, upstream: Tensor, n: int = 1
) -> tuple[Tensor, Tensor, LearnedStep]:
    """Of values and ratio, for a loss whose gradient is ``upstream``."""
    step = LearnedStep(torch.tensor(start), low, high, n)
    values = values.clone().requires_grad_()
    step(values, step.size).backward(upstream)
    assert values.grad is not None and step.ratio.grad is not None
    return values.grad, step.ratio.grad, step


@pytest.mark.parametrize(("low", "high"), GRIDS)
def test_gradients_are_those_of_equations_3_and_5(low: int, high: int) -> None:
    torch.manual_seed(0)
    values, upstream, start, n = 40 * torch.randn(500), torch.randn(500), 0.1, 36
    to_values, to_ratio, _ = gradients(values, start, low, high, upstream, n)
    expected, slope = torch.zeros(500), 0.0
    for at, value in enumerate(values.tolist()):
        scaled = value / start
        if low < scaled < high:
            expected[at] = upstream[at]
            slope += float(upstream[at]) * (round(scaled) - scaled)
        else:
            slope += float(upstream[at]) * (low if scaled <= low else high)
    assert torch.equal(to_values, expected)
    scaled_slope = slope / math.sqrt(n * max(-low, high))  # section 2.2
    assert float(to_ratio) * start == pytest.approx(scaled_slope, rel=1e-3)


def test_gradient_descent_moves_the_step_itself_as_in_the_paper() -> None:
    torch.manual_seed(0)
    values, upstream, start, rate = torch.randn(50), torch.randn(50), 0.04, 1e-3
    _, to_ratio, step = gradients(values, start, -128, 127, upstream, n=50)
    with torch.no_grad():
        step.ratio -= rate * to_ratio
    of_step = (upstream * ((values / start).round().clamp(-128, 127) - values / start)).sum()
    assert float(values.abs().max()) < 127 * start  # nothing is clipped
    assert float(step.size.detach()) - start == pytest.approx(float(-rate * of_step / math.sqrt(50 * 128)), rel=1e-2)


def test_a_step_per_channel_learns_from_its_channel_alone() -> None:
    values = torch.tensor([[0.3, 0.7], [300.0, 2.0]])
    step = LearnedStep(torch.tensor([1.0, 2.0]), -127, 127, 2)
    step(values, step.size.view(-1, 1)).sum().backward()
    slopes = torch.tensor([(0 - 0.3) + (1 - 0.7), 127.0 + 0])  # of 300 / 2, clipped, and of 2 / 2
    assert step.ratio.grad is not None
    assert torch.allclose(step.ratio.grad * step.start, slopes / math.sqrt(2 * 127), atol=1e-6)


def test_a_fixed_step_has_no_gradient_and_a_wild_one_stays_positive() -> None:
    fixed, wild = (LearnedStep(torch.tensor(0.5), 0, 255, 1, fixed=each) for each in (True, False))
    values = torch.ones(3, requires_grad=True)
    fixed(values, fixed.size).sum().backward()
    assert fixed.ratio.grad is None
    with torch.no_grad():
        wild.ratio.fill_(-3)
    assert float(wild.size.detach()) == 0.5 * SMALLEST


@given(
    st.floats(-1e4, 1e4, width=32),
    st.floats(2.0**-16, 16.0, width=32),
    st.sampled_from(GRIDS),
    st.floats(0.25, 4.0, width=32),
)
def test_values_are_on_the_grid_and_as_near_as_it_has_one(
    value: float, start: float, grid: tuple[int, int], ratio: float
) -> None:
    step = LearnedStep(torch.tensor(start), *grid, 1)
    with torch.no_grad():
        step.ratio.fill_(ratio)
    size = float(step.size.detach())
    found = float(step(torch.tensor([value]), step.size).detach())
    assert found / size == pytest.approx(round(found / size), abs=1e-3)
    assert grid[0] <= round(found / size) <= grid[1]
    inside = min(grid[1] * size, max(grid[0] * size, value))
    assert abs(found - inside) <= size * 0.501 + 1e-6 * abs(value)
    assert float(step(torch.tensor([found]), step.size).detach()) == found
    assert float(step(torch.tensor([0.0]), step.size).detach()) == 0
