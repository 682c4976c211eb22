"""Which ranges calibration finds, by each of its methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.compress.calibrate import calibrate, measured
from edgecnn.compress.choosing import choose
from edgecnn.compress.observer import BINS, Observer
from edgecnn.compress.quantize import quantize
from edgecnn.compress.ranges import CANDIDATES, METHODS, entropy_range, mse_range, percentile_range, range_of
from edgecnn.errors import DataError, UsageError
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.measure.parity import sqnr_db
from edgecnn.spec import Preprocess

P = Preprocess(8, (127 / 255,) * 3, (128 / 255,) * 3)


def pictures(count: int = 32, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def graph_of(function: Any) -> Graph:
    """Convolution, then the function, then mean and a linear layer."""

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(function(self.conv(x)).mean((2, 3)))
            return y

    return capture(Body(), 8, P)


def test_calibration_sees_what_the_graph_computes() -> None:
    graph = graph_of(F.relu6)
    kept = run(graph, pictures(), keep=True)
    ranges = calibrate(graph, [pictures()])
    for name, values in kept.items():
        assert ranges[name] == pytest.approx((float(values.min()), float(values.max())), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", CANDIDATES)
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


def test_entropy_cuts_a_lone_outlier_but_not_a_uniform_distribution() -> None:
    outlier, uniform = Observer(histogram=True), Observer(histogram=True)
    values = torch.linspace(0, 1, 1_000_000)
    uniform.update(values)
    outlier.update(torch.cat([values, torch.tensor([3.0])]))
    assert entropy_range(uniform)[1] == pytest.approx(1.0, abs=0.05)
    assert entropy_range(outlier)[1] < 1.6


def test_a_moving_average_forgets_and_the_others_do_not() -> None:
    one, other = Observer(average=True), Observer(average=True)
    values = torch.cat([torch.full((50, 4), 1.0), torch.full((50, 4), 3.0)])
    one.update(values)
    other.update(values.flip(0))
    assert range_of(one, "moving_average")[1] == pytest.approx(3 - 2 * 0.95**50)
    assert range_of(other, "moving_average")[1] == pytest.approx(1 + 2 * 0.95**50)
    assert (one.low, one.high) == (other.low, other.high) == (1.0, 3.0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_ranges_inside_what_was_seen(method: Any) -> None:
    graph = graph_of(F.relu6)
    seen, found = calibrate(graph, [pictures()]), calibrate(graph, [pictures()], method)
    for name, (low, high) in found.items():
        assert seen[name][0] <= low <= high <= seen[name][1]
    integer = quantize(graph, found)
    assert sqnr_db(run(graph, pictures(16, 1)).numpy(), run(integer, pictures(16, 1)).numpy()) > 20


def test_auto_takes_the_range_whose_readers_lose_least() -> None:
    graph = graph_of(F.relu)
    seen = calibrate(graph, [pictures()])
    candidates = {name: {"cut": (low / 5, high / 5), "whole": (low, high)} for name, (low, high) in seen.items()}
    assert choose(graph, candidates, pictures()) == seen


def test_it_is_told_how_many_pictures_were_enough() -> None:
    graph = graph_of(F.relu)
    alike = measured(graph, [pictures(16, 0)] * 16, "minmax")
    assert (alike.pictures, alike.enough) == (256, 16)
    growing = [(pictures(16, seed) // (16 - seed)).astype(np.uint8) for seed in range(16)]
    assert measured(graph, growing, "minmax").enough is None


def test_bad_calibration_is_refused() -> None:
    graph = graph_of(F.relu)
    with pytest.raises(DataError, match="no calibration pictures"):
        calibrate(graph, [])
    with pytest.raises(UsageError, match="maximum"):
        calibrate(graph, [pictures()], "maximum")  # type: ignore[arg-type]
    graph.weights["conv.bias"][0] = np.nan
    with pytest.raises(DataError, match="'conv'"):
        calibrate(graph, [pictures()])
