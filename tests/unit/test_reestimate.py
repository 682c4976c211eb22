"""Batch normalization estimated again brings each channel back to its mean and spread, and does no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.quantize import decompose, quantize
from edgecnn.compress.reestimate import reestimated
from edgecnn.errors import UsageError
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.measure.parity import sqnr_db
from tests.unit.test_equalize import graph_of, pictures


@pytest.fixture(scope="module")
def twins() -> tuple[Graph, Graph]:
    """A float graph and its int8 graph."""
    graph = graph_of()
    return decompose(graph), quantize(graph, calibrate(graph, [pictures(32)]))


def nearness(real: Graph, integer: Graph) -> float:
    """SQNR in dB of the int8 graph's logits, on other pictures."""
    images = pictures(64, seed=5)
    return sqnr_db(run(real, images).numpy(), run(integer, images).numpy())


def drifted(integer: Graph, factor: float, shift: int, layer: str = "depthwise") -> Graph:
    """The int8 graph with one layer's outputs scaled and shifted."""
    scales = {**integer.weight_scales, layer: (integer.weight_scales[layer] * factor).astype(np.float32)}
    weights: dict[str, Any] = {**integer.weights, f"{layer}.bias": integer.weights[f"{layer}.bias"] + np.int32(shift)}
    return replace(integer, weight_scales=scales, weights=weights)


def test_a_layer_that_drifted_is_brought_back(twins: tuple[Graph, Graph]) -> None:
    real, integer = twins
    wrong = drifted(integer, 0.8, 500)
    assert nearness(real, wrong) < nearness(real, integer) - 10
    mended = reestimated(real, wrong, pictures(32))
    assert nearness(real, mended) > nearness(real, integer) - 3
    assert all(np.array_equal(mended.weights[key], wrong.weights[key]) for key in wrong.weights if "weight" in key)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.6, 1.6), st.integers(-800, 800))
def test_any_line_is_undone(factor: float, shift: int) -> None:
    graph = graph_of(lambda x: x)
    integer = quantize(graph, calibrate(graph, [pictures(32)]))
    images = pictures(32)
    mended = reestimated(decompose(graph), drifted(integer, factor, shift, "project"), images)
    again = reestimated(decompose(graph), integer, images)
    assert np.allclose(mended.weight_scales["project"], again.weight_scales["project"], rtol=1e-3)


def test_other_graphs_are_refused(twins: tuple[Graph, Graph]) -> None:
    real, integer = twins
    with pytest.raises(UsageError, match="float graph and its int8 graph"):
        reestimated(integer, real, pictures())
