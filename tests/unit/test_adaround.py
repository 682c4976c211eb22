"""Learned rounding: what it gains, and that it moves no weight by more than a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.compress import adaround
from edgecnn.compress.adaround import reconstructed
from edgecnn.compress.calibrate import measured
from edgecnn.compress.grid import Grid
from edgecnn.compress.quantize import quantize
from edgecnn.compress.rounding import InputMoments, rounded
from edgecnn.errors import UsageError
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.spec import Preprocess

P = Preprocess(8, (127 / 255,) * 3, (128 / 255,) * 3)


def smooth_pictures(count: int = 96, seed: int = 0) -> np.ndarray[Any, Any]:
    """Neighbouring pixels are alike, as in photographs."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    fine = F.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=True)
    return (255 * fine).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


class Net(nn.Module):
    """A convolution, a depthwise one with stride, a grouped one and a linear layer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.grouped(F.relu(self.depthwise(F.relu6(self.stem(x))))).mean((2, 3)))
        return y


def numbers(graph: Graph, grid: Grid, second_order: bool) -> Graph:
    """The integers, rounded to nearest or by second order."""
    moments = InputMoments(graph)
    ranges = measured(graph, [smooth_pictures()], "minmax", moments.see).ranges
    nearest = quantize(graph, ranges, grid=grid)
    return rounded(graph, nearest, moments.matrices(), grid.largest) if second_order else nearest


def lost(graph: Graph, quantized: Graph) -> float:
    """Mean squared error of the answers on other pictures."""
    pictures = smooth_pictures(seed=1)
    return float((run(graph, pictures) - run(quantized, pictures)).square().mean())


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 4, 8]), st.booleans())
def test_no_weight_leaves_the_grid_or_moves_by_more_than_a_step(seed: int, bits: int, second_order: bool) -> None:
    graph, grid = capture(Net(seed), 8, P), Grid(bits)
    start = numbers(graph, grid, second_order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaround, "STEPS", 40)
        found = reconstructed(graph, start, smooth_pictures(), largest=grid.largest, seed=seed)
    assert found.qparams == start.qparams
    for name, scale in start.weight_scales.items():
        before, after = (each.weights[f"{name}.weight"].astype(int) for each in (start, found))
        real = graph.weights[f"{name}.weight"] / scale.reshape(-1, *[1] * (before.ndim - 1))
        assert after.dtype == before.dtype and np.abs(after).max() <= grid.largest
        assert np.abs(after - before).max() <= 1
        neighbour = np.abs(before - real) <= 1
        assert (np.abs(after - real)[neighbour] <= 1 + 1e-4).all()  # the two beside it, or the end of the grid
        assert (np.abs(after - real) <= np.maximum(np.abs(before - real), 1) + 1e-4).all()  # nothing goes further away
        assert found.weights[f"{name}.bias"].dtype == np.int32


def test_it_gains_much_over_nearest_weights_and_something_over_second_order() -> None:
    graph, grid = capture(Net(), 8, P), Grid(4)
    nearest, better = (numbers(graph, grid, second_order) for second_order in (False, True))
    learned = [reconstructed(graph, each, smooth_pictures(), largest=grid.largest) for each in (nearest, better)]
    assert any((learned[0].weights[key] != nearest.weights[key]).any() for key in nearest.weights)
    assert lost(graph, learned[0]) < 0.3 * lost(graph, nearest)
    assert lost(graph, learned[1]) < lost(graph, better)


def test_a_layer_makes_good_what_the_one_before_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stem is too dark by a quarter and is not learned; its reader knows only what it reads."""
    monkeypatch.setattr(adaround, "LARGEST", 10)  # the stem's weights meet 27 values
    graph = capture(Net(), 8, P)
    start = numbers(graph, Grid(), second_order=False)
    step = start.weight_scales["stem"] * start.qparams["image"].scale
    dark = start.weights["stem.bias"] - np.rint(0.25 / step).astype(np.int32)
    spoilt = replace(start, weights=start.weights | {"stem.bias": dark})
    found = reconstructed(graph, spoilt, smooth_pictures())
    assert np.array_equal(found.weights["stem.bias"], dark)
    assert lost(graph, found) < 0.3 * lost(graph, spoilt)


def test_same_pictures_same_integers() -> None:
    graph = capture(Net(), 8, P)
    start = numbers(graph, Grid(4), second_order=False)
    one, other = (reconstructed(graph, start, smooth_pictures(), largest=7) for _ in range(2))
    assert all(np.array_equal(one.weights[key], other.weights[key]) for key in one.weights)


def test_layers_of_too_many_inputs_or_too_few_samples_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaround, "LARGEST", 10)  # the stem's weights meet 27 values
    graph = capture(Net(), 8, P)
    start = numbers(graph, Grid(4), second_order=False)
    found = reconstructed(graph, start, smooth_pictures()[:24], largest=7)  # the head answers once for each
    same = {
        name: np.array_equal(start.weights[f"{name}.weight"], found.weights[f"{name}.weight"])
        for name in start.weight_scales
    }
    assert same["stem"] and not same["depthwise"]
    assert np.array_equal(start.weights["stem.bias"], found.weights["stem.bias"])


def test_large_pictures_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    read_pixels = adaround.integers.read_pixels

    def counted(pictures: Tensor) -> Tensor:
        looked.append(len(pictures))
        return read_pixels(pictures)

    graph = capture(Net(), 8, P)
    start = numbers(graph, Grid(), second_order=False)
    monkeypatch.setattr(adaround.integers, "read_pixels", counted)
    monkeypatch.setattr(adaround, "HELD_BYTES", 40 * 8 * 8 * (3 + 8))  # the picture and the stem's output
    reconstructed(graph, start, smooth_pictures())
    assert sum(looked) == 40


def test_a_layer_that_is_not_of_integers_is_refused() -> None:
    graph = capture(Net(), 8, P)
    ranges = measured(graph, [smooth_pictures()], "minmax").ranges
    mixed = quantize(graph, ranges, bits={"depthwise": 32})
    with pytest.raises(UsageError, match="does not compute in integers"):
        reconstructed(graph, mixed, smooth_pictures())
