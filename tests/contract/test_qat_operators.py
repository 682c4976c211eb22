"""The fake-quantized module against the integer graph: one network in two arithmetics, for every operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import GRAPHS, Maker, pictures, quantized

from edgecnn.compress.qat import FakeQuantized, to_numbers
from edgecnn.compress.quantize import decompose
from edgecnn.graph import real
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph

TIES = ("avg_pool",)
"""Means of few cells often lie halfway between two steps, where float32 rounds either way."""


def module_of(name: str) -> tuple[FakeQuantized, Graph]:
    graph = GRAPHS[name](Maker())
    integer = quantized(graph)
    return FakeQuantized(decompose(graph), integer), integer


def assert_same(name: str, module: FakeQuantized, integer: Graph, count: int = 16) -> None:
    """That the logits of the two are the same on most pictures, and within a few of their steps on all."""
    images = torch.from_numpy(pictures(integer, count))
    with torch.no_grad():
        logits = module(real.read_pixels(integer.input, images))
    apart = (logits - run(integer, images)).abs() / integer.qparams[integer.output].scale
    assert apart.max() < 3.01
    assert name in TIES or apart.amax(1).median() < 0.01


@pytest.mark.parametrize("name", GRAPHS)
def test_it_starts_as_the_integer_graph(name: str) -> None:
    module, integer = module_of(name)
    assert_same(name, module, integer)
    again = to_numbers(module)
    assert again.qparams == integer.qparams
    assert all(np.array_equal(again.weights[key], integer.weights[key]) for key in integer.weights)
    assert all(np.array_equal(again.weight_scales[key], integer.weight_scales[key]) for key in integer.weight_scales)


@pytest.mark.parametrize("name", GRAPHS)
def test_what_it_has_learned_is_what_the_integers_compute(name: str) -> None:
    module, _ = module_of(name)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
    assert_same(name, module, to_numbers(module))
