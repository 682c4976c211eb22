"""The integer arithmetic against a slow and obvious reference, and the interpreter around it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.quantize import quantize
from edgecnn.errors import UsageError
from edgecnn.graph import store
from edgecnn.graph.capture import capture
from edgecnn.graph.integer import accumulator_bound, integer_bounds, kernels, lookup_table
from edgecnn.graph.interpret import GraphModule, run
from edgecnn.graph.ir import Graph, Node, Op, QParams
from edgecnn.spec import Preprocess

P = Preprocess(8, (127 / 255,) * 3, (0.5,) * 3)
SHAPE = (6, 5, 5)
A, B, OUT = QParams(0.031, -17), QParams(0.07, 40), QParams(0.043, -90)
Values = np.ndarray[Any, Any]


def int8(*shape: int, seed: int = 0) -> Values:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int64)


def half_even(steps: Values, low: int = -128, high: int = 127) -> Values:
    """Output integers for values in steps of ``OUT``."""
    return np.clip(np.rint(steps.astype(np.float32)).astype(np.int64) + OUT.zero_point, low, high)


def compute(node: Node, inputs: list[Values], weight: Values | None = None, bias: Values | None = None) -> Values:
    """One node through the kernels."""
    names = ["a", "b"][: len(inputs)]
    sources = [Node(name, Op.INPUT, (), tuple(x.shape[1:])) for name, x in zip(names, inputs, strict=True)]
    weights = {} if weight is None else {"y.weight": weight.astype(np.int8), "y.bias": np.asarray(bias, np.int32)}
    scales = {} if weight is None else {"y": np.linspace(0.001, 0.02, len(weight)).astype(np.float32)}
    graph = Graph((*sources, node), "y", weights, {"a": A, "b": B, "y": OUT}, scales)
    tensors = [torch.from_numpy(x).float() for x in inputs]
    numbers = [torch.from_numpy(array) for array in weights.values()] or [None, None]
    return kernels(graph)["y"](tensors, *numbers).numpy().astype(np.int64)


def multipliers(channels: int) -> Values:
    scales = np.linspace(0.001, 0.02, channels).astype(np.float32)
    return np.float32(A.scale) * scales / np.float32(OUT.scale)


def slow_conv(x: Values, weight: Values, padding: list[int], stride: int, groups: int) -> Values:
    """Integer convolution by its definition; x is centred, so padding is 0."""
    top, left, bottom, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    outputs, per_group, height, width = weight.shape
    rows, columns = (x.shape[2] - height) // stride + 1, (x.shape[3] - width) // stride + 1
    y = np.zeros((len(x), outputs, rows, columns), np.int64)
    for o in range(outputs):
        first = o // (outputs // groups) * per_group
        for r in range(rows):
            for c in range(columns):
                window = x[
                    :, first : first + per_group, r * stride : r * stride + height, c * stride : c * stride + width
                ]
                y[:, o, r, c] = (window * weight[o]).sum((1, 2, 3))
    return y


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("clamp", [None, [0.0, 4.0]])
def test_convolution(groups: int, clamp: list[float] | None) -> None:
    x, weight, bias = int8(2, *SHAPE), int8(6, 6 // groups, 3, 3, seed=1), int8(6, seed=2) * 1000
    padding = [0, 1, 1, 1]
    attrs = {
        "kernel": [3, 3],
        "stride": [2, 2],
        "padding": padding,
        "dilation": [1, 1],
        "groups": groups,
        "clamp": clamp,
    }
    wanted = slow_conv(x - A.zero_point, weight, padding, 2, groups) + bias.reshape(-1, 1, 1)
    bounds = (-128, 127) if clamp is None else (-90, -90 + round(4 / 0.043))
    got = compute(Node("y", Op.CONV, ("a",), wanted.shape[1:], attrs), [x], weight, bias)
    assert np.array_equal(got, half_even(wanted.astype(np.float32) * multipliers(6).reshape(-1, 1, 1), *bounds))


@pytest.mark.parametrize("inputs", [64, 3000, 9000])
@pytest.mark.parametrize("big_bias", [0, 2**29])
def test_linear_layers_are_exact_at_any_size(inputs: int, big_bias: int) -> None:
    """Small enough for float32, in two halves, in float64; and with biases that float32 cannot hold."""
    x, bias = int8(2, inputs), int8(4, seed=2) + big_bias
    x[0], weight = 127, int8(4, inputs, seed=1).clip(-127, 127)
    weight[0] = 127
    total = (x - A.zero_point) @ weight.T + bias
    got = compute(Node("y", Op.LINEAR, ("a",), (4,), {"clamp": None}), [x], weight, bias)
    assert np.array_equal(got, half_even(total.astype(np.float32) * multipliers(4)))


def test_the_three_sizes_above_are_three_paths() -> None:
    bounds = [accumulator_bound(np.full((1, size), 127), np.zeros(1), A.zero_point) for size in (64, 3000)]
    assert bounds[0] < 2**24 < bounds[1]
    assert 3000 * 8 * 255 < 2**24 < 9000 * 8 * 255


def test_addition() -> None:
    a, b = int8(2, *SHAPE), int8(2, *SHAPE, seed=1)
    ratios = [np.float32(q.scale) / np.float32(OUT.scale) for q in (A, B)]
    steps = (a - A.zero_point).astype(np.float32) * ratios[0] + (b - B.zero_point).astype(np.float32) * ratios[1]
    got = compute(Node("y", Op.ADD, ("a", "b"), SHAPE, {"clamp": [0.0, None]}), [a, b])
    assert np.array_equal(got, half_even(steps, -90))


@pytest.mark.parametrize("gate_shape", [SHAPE, (6, 1, 1)])
def test_product(gate_shape: tuple[int, ...]) -> None:
    a, b = int8(2, *SHAPE), int8(2, *gate_shape, seed=1)
    ratio = np.float32(A.scale) * np.float32(B.scale) / np.float32(OUT.scale)
    steps = ((a - A.zero_point) * (b - B.zero_point)).astype(np.float32) * ratio
    assert np.array_equal(compute(Node("y", Op.MUL, ("a", "b"), SHAPE), [a, b]), half_even(steps))


def test_mean() -> None:
    a = int8(2, *SHAPE)
    ratio = np.float32(A.scale) / (np.float32(OUT.scale) * np.float32(25))
    steps = (a - A.zero_point).sum((2, 3), keepdims=True).astype(np.float32) * ratio
    assert np.array_equal(compute(Node("y", Op.MEAN, ("a",), (6, 1, 1)), [a]), half_even(steps))


def test_affine() -> None:
    a = int8(2, *SHAPE)
    ratio = np.float32(A.scale) * np.float32(1 / 6) / np.float32(OUT.scale)
    steps = (a - A.zero_point).astype(np.float32) * ratio + np.float32(0.5) / np.float32(OUT.scale)
    attrs = {"factor": 1 / 6, "offset": 0.5, "clamp": None}
    assert np.array_equal(compute(Node("y", Op.AFFINE, ("a",), SHAPE, attrs), [a]), half_even(steps))


@pytest.mark.parametrize("op", [Op.SIGMOID, Op.SILU, Op.HARD_SIGMOID, Op.HARD_SWISH])
def test_lookups_are_the_function_to_half_a_step(op: Op) -> None:
    functions = {
        Op.SIGMOID: torch.sigmoid,
        Op.SILU: nn.functional.silu,
        Op.HARD_SIGMOID: nn.functional.hardsigmoid,
        Op.HARD_SWISH: nn.functional.hardswish,
    }
    q = np.arange(-128, 128)
    wanted = functions[op](torch.from_numpy((q - A.zero_point) * A.scale)).numpy()
    table = lookup_table(op, A, OUT)
    got = (table.astype(np.float64) - OUT.zero_point) * OUT.scale
    inside = (table > -128) & (table < 127)
    assert np.abs(got - wanted)[inside].max() <= OUT.scale / 2 + 1e-9
    through = compute(Node("y", op, ("a",), (256, 1, 1)), [q.reshape(1, 256, 1, 1)])
    assert np.array_equal(through.reshape(-1), table)


def test_values_are_moved_between_numbers() -> None:
    a, b = int8(2, *SHAPE), int8(2, *SHAPE, seed=1)
    got = compute(Node("y", Op.CONCAT, ("a", "b"), (12, 5, 5)), [a, b])
    parts = [
        half_even((x - q.zero_point).astype(np.float32) * (np.float32(q.scale) / np.float32(OUT.scale)))
        for x, q in ((a, A), (b, B))
    ]
    assert np.array_equal(got, np.concatenate(parts, 1))


def test_integer_bounds() -> None:
    assert integer_bounds(QParams(0.1, -100), None) == (-128, 127)
    assert integer_bounds(QParams(0.1, -100), [0.0, None]) == (-100, 127)
    assert integer_bounds(QParams(0.1, -100), [-1.0, 6.0]) == (-110, -40)
    assert integer_bounds(QParams(0.1, -100), [-99.0, 99.0]) == (-128, 127)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
    return nn.Sequential(
        body, nn.MaxPool2d(2), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


@pytest.fixture(scope="module")
def graphs() -> tuple[Graph, Graph]:
    graph = capture(small_model(), 8, P)
    return graph, quantize(graph, calibrate(graph, [pictures(64)]))


def pictures(count: int) -> Values:
    return np.random.default_rng(5).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def test_keep_gives_every_tensor(graphs: tuple[Graph, Graph]) -> None:
    for graph in graphs:
        kept = run(graph, pictures(5), keep=True, batch_size=2)
        assert set(kept) == {node.name for node in graph.nodes}
        assert all(tuple(kept[node.name].shape) == (5, *node.shape) for node in graph.nodes)
        torch.testing.assert_close(kept[graph.output], run(graph, pictures(5)))


def test_quantized_input_is_the_normalized_picture(graphs: tuple[Graph, Graph]) -> None:
    real, quantized = (run(graph, pictures(4), keep=True)["image"] for graph in graphs)
    torch.testing.assert_close(quantized, real, rtol=1e-6, atol=1e-6)


def test_quantized_logits_do_not_depend_on_the_batch(graphs: tuple[Graph, Graph]) -> None:
    images = pictures(9)
    whole = run(graphs[1], images)
    assert torch.equal(whole, run(graphs[1], images, batch_size=2))
    assert torch.equal(whole[3:4], run(graphs[1], images[3:4]))


def test_module_and_run_agree(graphs: tuple[Graph, Graph]) -> None:
    module = GraphModule(graphs[1])
    assert torch.equal(module(torch.from_numpy(pictures(3))), run(graphs[1], pictures(3)))
    assert module.state_dict()["0/0/weight"].dtype is torch.int8


def test_quantized_logits_are_the_same_bits_in_a_fresh_process(graphs: tuple[Graph, Graph], tmp_path: Path) -> None:
    store.save(graphs[1], tmp_path)
    np.save(tmp_path / "images.npy", pictures(6))
    code = (
        "import sys, numpy, pathlib, torch; from edgecnn.graph import interpret, store; torch.set_num_threads(2);"
        "f = pathlib.Path(sys.argv[1]);"
        "numpy.save(f / 'logits.npy', interpret.run(store.load(f), numpy.load(f / 'images.npy')).numpy())"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert np.array_equal(np.load(tmp_path / "logits.npy"), run(graphs[1], pictures(6)).numpy())


@pytest.mark.parametrize("images", [np.zeros((1, 9, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.float32)])
def test_wrong_pictures_are_refused(graphs: tuple[Graph, Graph], images: Values) -> None:
    with pytest.raises(UsageError, match=r"uint8 \(N, 8, 8, 3\)"):
        run(graphs[0], images)
