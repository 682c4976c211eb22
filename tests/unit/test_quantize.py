"""Which integers are decided, and that they are the ones the rules ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.observer import BINS, Observer
from edgecnn.compress.quantize import SIGMOID, UNIT, activation_qparams, quantize, quantize_layer
from edgecnn.compress.ranges import mse_range, percentile_range, range_of
from edgecnn.errors import DataError, ModelError, UsageError
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, Op, QParams
from edgecnn.spec import Preprocess

P = Preprocess(8, (127 / 255,) * 3, (128 / 255,) * 3)
PER_CHANNEL = Preprocess(8, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pictures(count: int = 32, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


class Body(nn.Module):
    """Convolution, then a function, then mean and a linear layer."""

    def __init__(self, function: Any, channels: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.function = function
        self.head = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.function(self.conv(x)).mean((2, 3)))
        return y


def quantized(function: Any, p: Preprocess = P, channels: int = 8, **options: Any) -> tuple[Graph, Graph]:
    graph = capture(Body(function, channels), 8, p)
    return graph, quantize(graph, calibrate(graph, [pictures()]), **options)


def sqnr(reference: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10((reference**2).sum() / ((reference - other) ** 2).sum()))


@pytest.mark.parametrize(
    ("function", "channels"),
    [
        (F.relu, 8),
        (F.relu6, 8),
        (F.hardswish, 8),
        (F.silu, 8),
        (torch.sigmoid, 8),
        (lambda x: F.hardsigmoid(F.relu(x)), 8),
        (lambda x: x * F.hardsigmoid(x.mean((2, 3), keepdim=True)), 8),
        (lambda x: x + F.relu(x), 8),
        (lambda x: F.max_pool2d(F.relu(x), 3, 2, 1), 8),
        (lambda x: F.avg_pool2d(x, 2), 8),
        (lambda x: F.pad(x, (1, 1, 1, 1)), 8),
        (lambda x: torch.cat([x, F.relu(x), torch.sigmoid(x)], 1), 24),
        (lambda x: 2 * x - 1, 8),
        (lambda x: x.clamp(-0.3, 0.2), 8),
    ],
)
@pytest.mark.parametrize("p", [P, PER_CHANNEL])
def test_every_operator_stays_close_to_float(function: Any, channels: int, p: Preprocess) -> None:
    real, integer = quantized(function, p, channels)
    kept = run(real, pictures(16, seed=1), keep=True), run(integer, pictures(16, seed=1), keep=True)
    for node in real.nodes[1:]:
        assert sqnr(kept[0][node.name], kept[1][node.name]) > 25, node.name


def test_every_tensor_and_layer_has_numbers_of_the_right_type() -> None:
    _, graph = quantized(F.hardswish)
    assert set(graph.qparams) == {node.name for node in graph.nodes}
    assert set(graph.weight_scales) == {"conv", "head"}
    assert graph.weights["conv.weight"].dtype == np.int8
    assert graph.weights["conv.bias"].dtype == np.int32
    assert graph.weight_scales["conv"].dtype == np.float32
    assert all(float(np.float32(q.scale)) == q.scale for q in graph.qparams.values())


def test_the_pixels_are_the_quantized_input() -> None:
    assert quantized(F.relu)[1].qparams["image"] == QParams(float(np.float32(1 / 128)), -1)
    assert quantized(F.relu, PER_CHANNEL)[1].qparams["image"] == QParams(float(np.float32(1 / 255)), -128)


def test_hard_swish_becomes_a_gate_and_a_product() -> None:
    _, graph = quantized(F.hardswish)
    assert [node.op for node in graph.nodes][1:4] == [Op.CONV, Op.AFFINE, Op.MUL]
    assert graph.qparams[graph.nodes[2].name] == UNIT
    _, native = quantized(F.hardswish, hard_swish="native")
    assert [node.op for node in native.nodes][1:3] == [Op.CONV, Op.HARD_SWISH]


def test_silu_becomes_a_sigmoid_and_a_product() -> None:
    _, graph = quantized(F.silu)
    assert [node.op for node in graph.nodes][1:4] == [Op.CONV, Op.SIGMOID, Op.MUL]
    assert graph.qparams[graph.nodes[2].name] == SIGMOID
    assert quantized(F.silu, silu="native")[1].nodes[2].op is Op.SILU


def test_ranges_end_where_clamps_and_hard_swish_end() -> None:
    graph = capture(Body(F.hardswish), 8, P)
    ranges = dict.fromkeys((node.name for node in graph.nodes), (-50.0, 9.0))
    numbers = quantize(graph, ranges).qparams["conv"]
    assert numbers.scale == pytest.approx(12 / 255)
    assert (-128 - numbers.zero_point) * numbers.scale == pytest.approx(-3, abs=numbers.scale / 2)
    graph = capture(Body(F.relu6), 8, P)
    numbers = quantize(graph, dict.fromkeys((node.name for node in graph.nodes), (0.0, 50.0))).qparams["conv"]
    assert numbers == QParams(float(np.float32(6 / 255)), -128)


def test_a_range_is_not_cut_where_someone_else_reads_the_tensor() -> None:
    graph = capture(Body(lambda x: x + F.hardswish(x)), 8, P)
    numbers = quantize(graph, dict.fromkeys((node.name for node in graph.nodes), (-50.0, 9.0))).qparams["conv"]
    assert numbers.scale == pytest.approx(59 / 255)


def test_operators_that_only_move_values_share_their_numbers() -> None:
    _, graph = quantized(lambda x: F.avg_pool2d(F.pad(F.max_pool2d(F.relu(x), 2), (1, 1, 1, 1)), 2))
    assert len({graph.qparams[name] for name in ("conv", *[n.name for n in graph.nodes if n.op in POOLS])}) == 1


POOLS = (Op.MAX_POOL, Op.AVG_POOL, Op.PAD)


def test_concatenated_tensors_share_their_numbers_unless_a_clamp_would_be_lost() -> None:
    _, graph = quantized(lambda x: torch.cat([x, 2 * x, F.relu(x)], 1), channels=24)
    concat = next(node for node in graph.nodes if node.op is Op.CONCAT)
    plain, doubled, relu = (graph.qparams[name] for name in concat.inputs)
    assert plain == doubled == graph.qparams[concat.name]
    assert relu.zero_point == -128 != plain.zero_point


def test_weights_are_symmetric_per_channel() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 4, 3, 3)).astype(np.float32)
    numbers = quantize_layer(weight, np.zeros(5, np.float32), QParams(0.1, 3), QParams(0.2, -7))
    assert np.abs(numbers.weight.reshape(5, -1)).max(1).tolist() == [127] * 5
    assert numbers.scale == pytest.approx(np.abs(weight).reshape(5, -1).max(1) / 127)
    assert (
        np.abs(numbers.weight * numbers.scale.reshape(-1, 1, 1, 1) - weight).max() <= numbers.scale.max() / 2 * 1.0001
    )


def test_a_channel_without_weights_still_gives_its_bias() -> None:
    weight, bias = np.zeros((2, 3), np.float32), np.array([0.7, -123.0], np.float32)
    source, target = QParams(0.05, -128), QParams(1.0, 0)
    numbers = quantize_layer(weight, bias, source, target)
    assert not numbers.weight.any()
    assert numbers.bias * numbers.scale.astype(np.float64) * source.scale == pytest.approx(bias, rel=1e-4)


def test_a_bias_too_large_for_int32_widens_the_weight_scale() -> None:
    weight, bias = np.full((1, 3), 1e-9, np.float32), np.array([50.0], np.float32)
    numbers = quantize_layer(weight, bias, QParams(0.01, 0), QParams(1e-6, 0))
    assert abs(int(numbers.bias[0])) <= 2**30
    assert numbers.bias * numbers.scale.astype(np.float64) * 0.01 == pytest.approx(bias, rel=1e-6)


def test_a_tensor_that_is_always_zero_gets_usable_numbers() -> None:
    assert activation_qparams(0.0, 0.0) == UNIT


def test_a_clamp_without_zero_is_refused() -> None:
    graph = capture(Body(lambda x: x.clamp(0.5, 1.0)), 8, P)
    with pytest.raises(ModelError, match="'conv' clamps"):
        quantize(graph, calibrate(graph, [pictures()]))


def test_quantizing_twice_and_missing_ranges_are_refused() -> None:
    graph, integer = quantized(F.relu)
    with pytest.raises(UsageError, match="already"):
        quantize(integer, {})
    with pytest.raises(UsageError, match="already"):
        calibrate(integer, [pictures()])
    with pytest.raises(UsageError, match="no range for 5 tensors, first 'image'"):
        quantize(graph, {})


def test_calibration_sees_what_the_graph_computes() -> None:
    graph = capture(Body(F.relu6), 8, P)
    kept = run(graph, pictures(), keep=True)
    ranges = calibrate(graph, [pictures()])
    for name, values in kept.items():
        assert ranges[name] == pytest.approx((float(values.min()), float(values.max())), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_calibration_does_not_depend_on_order_or_batches(method: Any) -> None:
    observers = [Observer(histogram=True) for _ in range(2)]
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 4000)
    for part in values[:, None].split(16):
        observers[0].update(part)
    for part in values.flip(0)[:, None].split(1000):
        observers[1].update(part)
    assert range_of(observers[0], method) == range_of(observers[1], method)
    assert observers[0].width == observers[1].width
    assert np.array_equal(observers[0].counts, observers[1].counts)  # type: ignore[arg-type]


def test_histogram_counts_every_value_in_its_bin() -> None:
    observer = Observer(histogram=True)
    values = torch.tensor([0.0, 0.001, -0.001, 5.0, -7.9, 3.25])
    for value in values:
        observer.update(value.reshape(1))
    assert observer.counts is not None
    assert observer.counts.sum() == len(values)
    for value in values.tolist():
        assert observer.counts[int(np.floor(value / observer.width)) + BINS // 2] > 0
    assert observer.width * BINS / 4 <= 7.9 < observer.width * BINS / 2


def test_percentile_cuts_a_lone_outlier_and_keeps_the_rest() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[BINS // 2 : BINS // 2 + 100] = 10_000
    counts[-1] = 1
    assert percentile_range(counts, 0.5) == (0.0, 50.0)


def test_mse_cuts_a_lone_outlier_but_not_a_uniform_distribution() -> None:
    outlier, uniform = Observer(histogram=True), Observer(histogram=True)
    values = torch.linspace(0, 1, 1_000_000)
    uniform.update(values)
    outlier.update(torch.cat([values, torch.tensor([1.5])]))
    assert mse_range(uniform)[1] == pytest.approx(1.0, abs=0.02)
    assert mse_range(outlier)[1] < 1.3


def test_bad_calibration_is_refused() -> None:
    graph = capture(Body(F.relu), 8, P)
    with pytest.raises(DataError, match="no calibration pictures"):
        calibrate(graph, [])
    with pytest.raises(UsageError, match="maximum"):
        calibrate(graph, [pictures()], "maximum")  # type: ignore[arg-type]
    graph.weights["conv.bias"][0] = np.nan
    with pytest.raises(DataError, match="'conv'"):
        calibrate(graph, [pictures()])


def test_input_that_shares_with_a_pool_keeps_its_own_numbers() -> None:
    model = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graph = capture(model, 8, P)
    integer = quantize(graph, calibrate(graph, [pictures()]))
    assert integer.qparams["0"] == integer.qparams["image"] == QParams(float(np.float32(1 / 128)), -1)
