"""Parts of a network rounded: all of it is the integer network, none of it the float one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from handmade import GRAPHS, Maker, pictures, quantized
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.compress.quantize import decompose
from edgecnn.compress.simulate import Simulation
from edgecnn.errors import UsageError
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, Op
from edgecnn.graph.weights import real_weights

STEPS = 3  # of the output: roundings of half a step may go the other way in a few layers


def twins(name: str, seed: int = 0) -> tuple[Graph, Graph]:
    graph = GRAPHS[name](Maker(seed=seed))
    return decompose(graph), quantized(graph)


@pytest.mark.parametrize("name", GRAPHS)
def test_everything_rounded_is_the_integer_network(name: str) -> None:
    real, integer = twins(name)
    images = pictures(real, 4)
    apart = Simulation(real, integer).run(images) - run(integer, images)
    assert apart.abs().max() <= STEPS * integer.qparams[integer.output].scale


def test_nothing_rounded_is_the_float_network() -> None:
    real, integer = twins("squeeze_excite")
    images = pictures(real, 5)
    found = Simulation(real, integer).run(images, activations=False, weights=False, batch_size=2)
    assert torch.allclose(found, run(real, images), atol=1e-6)


def test_only_the_chosen_tensor_and_what_follows_changes() -> None:
    real, integer = twins("residual")
    images, seen = pictures(real, 3), [dict[str, Any](), dict[str, Any]()]
    convolutions = [node.name for node in real.nodes if node.op is Op.CONV]
    for chosen, kept in zip(({convolutions[1]}, ()), seen, strict=True):
        Simulation(real, integer).run(images, activations=chosen, weights=(), observe=kept.__setitem__)
    changed = [name for name in seen[0] if not torch.equal(seen[0][name], seen[1][name])]
    order = [node.name for node in real.nodes]
    assert changed[0] == convolutions[1]
    assert all(order.index(name) >= order.index(convolutions[1]) for name in changed)
    step = integer.qparams[convolutions[1]].scale
    assert (seen[0][convolutions[1]] / step - (seen[0][convolutions[1]] / step).round()).abs().max() < 1e-3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 5))
def test_batches_change_nothing(seed: int, size: int) -> None:
    real, integer = twins("conv_depthwise", seed)
    images = pictures(real, 5, seed=seed)
    simulation = Simulation(real, integer)
    assert torch.allclose(simulation.run(images, batch_size=size), simulation.run(images), atol=1e-5)


def test_weights_come_back_within_half_a_step() -> None:
    real, integer = twins("conv_relu")
    for name, scale in integer.weight_scales.items():
        weight = real_weights(integer)[f"{name}.weight"]
        apart = np.abs(weight - real.weights[f"{name}.weight"]).reshape(len(scale), -1).max(1)
        assert (apart <= scale * 0.501).all()


def test_other_graphs_are_refused() -> None:
    real, integer = twins("residual")
    with pytest.raises(UsageError, match="in this order"):
        Simulation(integer, real)
    with pytest.raises(UsageError, match="other nodes, from"):
        Simulation(twins("mean")[0], integer)
