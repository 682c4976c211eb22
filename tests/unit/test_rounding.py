"""Second-order rounding: what it measures, what it minimizes, and that it never leaves the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.compress import rounding
from edgecnn.compress.calibrate import calibrate, watch
from edgecnn.compress.quantize import quantize, quantize_layer
from edgecnn.compress.rounding import InputMoments, round_weights, rounded
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, QParams
from edgecnn.spec import Preprocess

P = Preprocess(8, (127 / 255,) * 3, (128 / 255,) * 3)
SOURCE, TARGET = QParams(0.05, 0), QParams(0.1, 0)


def smooth_pictures(count: int = 64, seed: int = 0) -> np.ndarray[Any, Any]:
    """Neighbouring pixels are alike, as in photographs."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    fine = F.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=True)
    return (255 * fine).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


class Net(nn.Module):
    """A grouped convolution, a depthwise one with stride, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.grouped(F.relu(self.depthwise(F.relu(self.stem(x))))).mean((2, 3)))
        return y


def moments_of(graph: Graph, pictures: np.ndarray[Any, Any], batch: int = 64) -> dict[str, Tensor]:
    moments = InputMoments(graph)
    watch(graph, [pictures[at : at + batch] for at in range(0, len(pictures), batch)], moments.see)
    return moments.matrices()


def correlated(rows: int, size: int, seed: int) -> Tensor:
    """Vectors (rows, size) whose elements are alike, with a mean."""
    random = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, 1, generator=random, dtype=torch.float64)
    return 1 + base + 0.2 * torch.randn(rows, size, generator=random, dtype=torch.float64)


def error(weight: Tensor, bias: Tensor, x: Tensor, wanted: Tensor) -> float:
    return float(((x @ weight.T + bias - wanted) ** 2).mean())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 150), st.integers(1, 6))
def test_the_output_is_nearer_than_with_nearest_weights_and_on_the_grid(seed: int, size: int, outputs: int) -> None:
    random = np.random.default_rng(seed)
    weight, bias = (
        random.normal(size=(outputs, size)).astype(np.float32),
        random.normal(size=outputs).astype(np.float32),
    )
    x = correlated(400, size, seed)
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    nearest = quantize_layer(weight, bias, SOURCE, TARGET)
    better = round_weights(nearest, weight, bias, (ones.T @ ones / len(x)).float()[None], SOURCE.scale)
    assert better.weight.dtype == np.int8
    assert better.bias.dtype == np.int32
    assert np.abs(better.weight.astype(int)).max() <= 127
    assert np.array_equal(better.scale, nearest.scale)
    wanted = x @ torch.from_numpy(weight).double().T + torch.from_numpy(bias).double()
    step = torch.from_numpy(nearest.scale).double()
    errors = [
        error(
            torch.from_numpy(n.weight).double() * step[:, None],
            torch.from_numpy(n.bias) * step * SOURCE.scale,
            x,
            wanted,
        )
        for n in (better, nearest)
    ]
    assert errors[0] <= 1.05 * errors[1]  # in a small layer there may be nothing to gain


def test_it_gains_much_where_inputs_are_alike() -> None:
    graph = capture(Net(), 8, P)
    numbers = quantize(graph, calibrate(graph, [smooth_pictures()]))
    better = rounded(graph, numbers, moments_of(graph, smooth_pictures()))
    weights = {
        name: {
            key: (array * (g.weight_scales[key.rpartition(".")[0]].reshape(-1, *[1] * (array.ndim - 1)))).astype(
                np.float32
            )
            for key, array in g.weights.items()
            if key.endswith("weight")
        }
        for name, g in (("nearest", numbers), ("better", better))
    }
    x = smooth_pictures(seed=1)
    kept = run(graph, x, keep=True)
    stem = [
        F.conv2d(kept["image"], torch.from_numpy(w["stem.weight"] - graph.weights["stem.weight"]), padding=1)
        for w in weights.values()
    ]
    centred = [each - each.mean((0, 2, 3), keepdim=True) for each in stem]  # the mean is the bias's business
    assert float((centred[1] ** 2).mean()) < 0.5 * float((centred[0] ** 2).mean())


def test_moments_are_those_of_what_the_weights_meet() -> None:
    graph = capture(Net(), 8, P)
    x = smooth_pictures()
    found = moments_of(graph, x)
    assert {name: tuple(matrix.shape) for name, matrix in found.items()} == {
        "stem": (1, 28, 28),
        "depthwise": (8, 10, 10),
        "grouped": (2, 5, 5),
        "head": (1, 13, 13),
    }
    kept = run(graph, x, keep=True)
    features = torch.cat([kept[graph.node("head").inputs[0]], torch.ones(len(x), 1)], 1)
    assert torch.allclose(found["head"][0], features.T @ features / len(x), atol=1e-5)
    # 16 places of a map of 64, other ones in every picture: near the mean over all of it
    patches = F.unfold(kept["image"], 3, padding=1)
    assert torch.allclose(found["stem"][0, :-1, -1], patches.mean((0, 2)), atol=0.05)
    assert torch.all(found["stem"][:, -1, -1] == 1)


def test_batches_do_not_matter() -> None:
    graph = capture(Net(), 8, P)
    one, other = (moments_of(graph, smooth_pictures(), batch) for batch in (64, 5))
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in one)


def test_a_layer_too_large_for_its_matrix_keeps_nearest_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "LARGEST", 10)
    graph = capture(Net(), 8, P)
    found = moments_of(graph, smooth_pictures())
    assert set(found) == {"depthwise", "grouped"}
    numbers = quantize(graph, calibrate(graph, [smooth_pictures()]))
    better = rounded(graph, numbers, found)
    assert np.array_equal(better.weights["stem.weight"], numbers.weights["stem.weight"])


def test_inputs_that_are_never_there_do_no_harm() -> None:
    weight, bias = np.ones((2, 3), np.float32), np.zeros(2, np.float32)
    nearest = quantize_layer(weight, bias, SOURCE, TARGET)
    nothing = torch.zeros(1, 4, 4)
    nothing[0, 3, 3] = 1
    found = round_weights(nearest, weight, bias, nothing, SOURCE.scale)
    assert np.array_equal(found.weight, nearest.weight)
    assert np.array_equal(found.bias, nearest.bias)
