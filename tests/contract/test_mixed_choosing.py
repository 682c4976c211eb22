"""What int8 loses most by is found, and kept in float or at 16 bits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from handmade import GRAPHS, RELU, Maker, pictures, quantized

from edgecnn.compress.bits import whole
from edgecnn.compress.mixed import Cost, candidates, cost, loosened, plans, whole_cost
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, Op
from edgecnn.measure.parity import divergence

FACTOR = 500.0


def blown_up(graph: Graph, layer: str, factor: float = FACTOR) -> Graph:
    """The same function with channel 0 of a layer ``factor`` times as large, which its readers undo."""
    weights: dict[str, Any] = {key: array.copy() for key, array in graph.weights.items()}
    for part in ("weight", "bias"):
        weights[f"{layer}.{part}"][0] *= factor
    for reader in graph.consumers(layer):
        weights[f"{reader.name}.weight"][:, 0] /= factor
    return graph.with_nodes(graph.nodes, weights=weights)


def chain() -> tuple[Graph, list[str]]:
    """Five layers in a row, and their names."""
    m = Maker((8, 8))
    x = m.input
    for clamp in (RELU, None, RELU, None):
        x = m.conv(x, 8, (1, 1) if clamp is None else (3, 3), clamp=clamp, padding=(0, 0, 0, 0))
    graph = m.classify(m.mean(x))
    return graph, [node.name for node in graph.nodes if node.op in (Op.CONV, Op.LINEAR)]


def apart(wanted: Any, found: Any) -> float:
    return float(divergence(wanted, found).mean())


@pytest.mark.parametrize("width", [16, 32])
def test_a_blown_up_channel_is_found_and_loosened(width: int) -> None:
    sound, layers = chain()
    real = blown_up(sound, layers[1])
    images, integer = pictures(real, 8), quantized(real)
    found = candidates(real, integer, images, apart, width)
    best = max(found, key=lambda each: each.gain)
    assert best.layer == layers[1] and best.nodes == {layers[1], layers[2]}
    assert best.gain == max(each.gain for each in found if each.layer == layers[1])
    full = whole_cost(real)
    first = plans(real, found, Cost(3 * full.size_bytes, full.macs), width)[0]
    assert {layers[1], layers[2]} <= first
    wanted = run(real, images).numpy()
    before, after = (
        apart(wanted, run(each, images).numpy())
        for each in (integer, loosened(real, integer, dict.fromkeys(first, width)))
    )
    assert after < before / 10


def test_nothing_loosened_is_the_int8_network_and_all_of_it_the_float_one() -> None:
    for name in ("squeeze_excite", "residual", "hard_swish_into_add"):
        real = GRAPHS[name](Maker())
        images, integer = pictures(real, 3), quantized(real)
        assert torch.equal(run(loosened(real, integer, {}), images), run(integer, images))
        free = loosened(real, integer, whole(real, 32))
        torch.testing.assert_close(run(free, images), run(real, images), rtol=1e-4, atol=1e-5)
        assert {node.op for node in free.nodes} == {node.op for node in real.nodes}


def test_plans_grow_and_stay_within_the_budget() -> None:
    graph, _ = chain()
    found = candidates(graph, quantized(graph), pictures(graph, 4), lambda wanted, seen: apart(wanted, seen) + 1)
    full = whole_cost(graph)
    budget = Cost(full.size_bytes, full.macs // 2)
    grown = plans(graph, found, budget)
    assert grown and all(less < more for less, more in pairwise(grown))
    for nodes in grown:
        spent = cost(graph, nodes)
        assert spent.size_bytes <= budget.size_bytes and spent.macs <= budget.macs


def test_what_it_costs() -> None:
    graph, layers = chain()
    pointwise = graph.weights[f"{layers[1]}.weight"]
    height, width = graph.node(layers[1]).shape[1:]
    assert cost(graph, frozenset({layers[1]})) == Cost(3 * pointwise.size, pointwise.size * height * width)
    assert cost(graph, frozenset({layers[1]}), 16).size_bytes == 0
    weights = sum(int(np.prod(array.shape)) for key, array in graph.weights.items() if key.endswith("weight"))
    assert whole_cost(graph).size_bytes == weights
    assert plans(graph, [], Cost(0, 0)) == []
