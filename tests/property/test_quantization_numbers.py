"""Properties of the numbers that hold for any values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgecnn.compress.observer import Observer
from edgecnn.compress.quantize import activation_qparams, quantize_layer
from edgecnn.graph.integer import accumulator_bound, integer_bounds, kernels
from edgecnn.graph.ir import Graph, Node, Op, QParams

ends = st.floats(-1e4, 1e4, allow_nan=False, width=32)
scales = st.floats(2.0**-16, 16.0, width=32)
zero_points = st.integers(-128, 127)
seeds = st.integers(0, 2**31)


@given(ends, ends)
def test_any_range_holds_zero_exactly_and_its_ends_to_a_step(one: float, other: float) -> None:
    low, high = min(one, other, 0.0), max(one, other, 0.0)
    q = activation_qparams(low, high)
    assert -128 <= q.zero_point <= 127
    assert float(np.float32(q.scale)) == q.scale
    if high - low > 1e-30:
        assert (-128 - q.zero_point) * q.scale <= low + q.scale * 0.51
        assert (127 - q.zero_point) * q.scale >= high - q.scale * 0.51
        assert abs(q.scale * 255 - (high - low)) <= 1e-6 * (high - low)


@given(ends, ends, st.floats(0, 1))
def test_values_inside_the_range_are_off_by_half_a_step(one: float, other: float, where: float) -> None:
    low, high = min(one, other, 0.0), max(one, other, 0.0)
    q = activation_qparams(low, high)
    value = low + where * (high - low)
    integer = min(127, max(-128, round(value / q.scale) + q.zero_point))
    assert abs((integer - q.zero_point) * q.scale - value) <= q.scale * 1.01


@given(seeds, scales, zero_points, scales, st.integers(-12, 6), st.integers(-12, 6))
def test_layers_of_any_magnitude_keep_weights_and_biases(
    seed: int, scale: float, zero_point: int, out: float, weight_power: int, bias_power: int
) -> None:
    random = np.random.default_rng(seed)
    weight = (random.normal(size=(3, 5)) * 10.0**weight_power).astype(np.float32)
    bias = (random.normal(size=3) * 10.0**bias_power).astype(np.float32)
    source, target = QParams(scale, zero_point), QParams(out, 0)
    numbers = quantize_layer(weight, bias, source, target)
    steps = numbers.scale.astype(np.float64)
    assert np.abs(numbers.weight.astype(np.int64)).max() <= 127
    assert (np.abs(numbers.weight * steps[:, None] - weight) <= steps[:, None] * 0.501).all()
    assert (np.abs(numbers.bias * steps * scale - bias) <= steps * scale * 0.501 + 1e-6 * np.abs(bias)).all()
    multiplier = np.float32(scale) * numbers.scale / np.float32(out)
    assert (multiplier >= 2.0**-25).all()


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 9000), zero_points, scales, st.floats(2.0**-20, 2.0**-7, width=32))
def test_sums_are_exact(seed: int, inputs: int, zero_point: int, scale: float, weight_scale: float) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(-128, 128, (2, inputs))
    weight = random.integers(-127, 128, (2, inputs)).astype(np.int8)
    bias = random.integers(-(2**30), 2**30, 2).astype(np.int32)
    source, target = QParams(scale, zero_point), QParams(0.5, 3)
    graph = linear_graph(weight, bias, source, target, weight_scale)
    arguments = torch.from_numpy(weight), torch.from_numpy(bias)
    got = kernels(graph)["y"]([torch.from_numpy(x).float()], *arguments).numpy()
    total = (x - zero_point) @ weight.astype(np.int64).T + bias
    steps = total.astype(np.float32) * (np.float32(scale) * np.float32(weight_scale) / np.float32(0.5))
    assert np.array_equal(got, np.clip(np.rint(steps) + 3, -128, 127))


def linear_graph(weight: Any, bias: Any, source: QParams, target: QParams, weight_scale: float) -> Graph:
    nodes = Node("x", Op.INPUT, (), (weight.shape[1],)), Node("y", Op.LINEAR, ("x",), (2,), {"clamp": None})
    weights = {"y.weight": weight, "y.bias": bias}
    return Graph(nodes, "y", weights, {"x": source, "y": target}, {"y": np.full(2, weight_scale, np.float32)})


@given(seeds, zero_points)
def test_no_partial_sum_exceeds_the_bound(seed: int, zero_point: int) -> None:
    random = np.random.default_rng(seed)
    weight, bias = random.integers(-127, 128, (3, 20)), random.integers(-1000, 1000, 3)
    x = random.choice([-128, 127], 20) - zero_point
    sums = bias[:, None] + np.cumsum(weight * x, axis=1)
    assert np.abs(sums).max() <= accumulator_bound(weight, bias, zero_point)


@given(scales, zero_points, ends, ends)
def test_integer_bounds_are_ordered_and_inside_int8(scale: float, zero_point: int, one: float, other: float) -> None:
    low, high = integer_bounds(QParams(scale, zero_point), [min(one, other), max(one, other)])
    assert -128 <= low <= high <= 127


@given(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=50), st.integers(1, 7), seeds)
@example([0.0, 9.742706939421724e-38], 1, 0)
def test_observers_forget_the_order(values: list[float], batch: int, seed: int) -> None:
    one, other = Observer(histogram=True), Observer(histogram=True)
    for part in torch.tensor(values).split(batch):
        one.update(part)
    other.update(torch.tensor(np.random.default_rng(seed).permutation(np.array(values, np.float32))))
    assert (one.low, one.high, one.width) == (other.low, other.high, other.width)
    assert np.array_equal(one.counts, other.counts)  # type: ignore[arg-type]
