"""Any part of a network in float or in 16 bits: what holds for every plan."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "contract"))
from handmade import GRAPHS, Maker, pictures, quantized

from edgecnn.compress.bits import bits_of, may_open, opened, tensor_bits, whole, with_bits
from edgecnn.compress.quantize import decompose
from edgecnn.compress.simulate import Simulation
from edgecnn.errors import UsageError
from edgecnn.graph import store
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, Op

NAMES = st.sampled_from(sorted(GRAPHS))
QUICK = settings(max_examples=30, deadline=None)


@st.composite
def planned(draw: st.DrawFn) -> tuple[Graph, dict[str, int]]:
    """A float graph and the bits of each of its nodes."""
    graph = GRAPHS[draw(NAMES)](Maker((8, 9)))
    widths = draw(st.lists(st.sampled_from([8, 16, 32]), min_size=len(graph.nodes), max_size=len(graph.nodes)))
    return graph, {node.name: width for node, width in zip(graph.nodes, widths, strict=True)}


@QUICK
@given(NAMES)
def test_every_node_in_8_bits_is_the_int8_network_bit_for_bit(name: str) -> None:
    graph = GRAPHS[name](Maker((8, 9)))
    images = pictures(graph, 3)
    assert torch.equal(run(quantized(graph, whole(graph, 8)), images), run(quantized(graph), images))


@QUICK
@given(NAMES)
def test_no_node_in_8_bits_is_the_float_network(name: str) -> None:
    graph = GRAPHS[name](Maker((8, 9)))
    images, mixed = pictures(graph, 3), quantized(graph, whole(graph, 32))
    assert set(mixed.qparams) <= {graph.input.name, *moved_from_input(graph)} and not mixed.weight_scales
    torch.testing.assert_close(run(mixed, images), run(graph, images), rtol=1e-4, atol=1e-5)


@QUICK
@given(planned())
def test_any_plan_is_what_rounding_the_float_network_says(case: tuple[Graph, dict[str, int]]) -> None:
    graph, bits = case
    images, mixed = pictures(graph, 3), quantized(graph, bits)
    twin = decompose(with_bits(graph, bits))
    found, wanted = run(mixed, images), Simulation(twin, mixed).run(images)
    assert (found - wanted).abs().max() <= 0.03 * max(1.0, float(wanted.abs().max()))


@QUICK
@given(planned())
def test_sums_may_stay_unrounded_under_any_plan(case: tuple[Graph, dict[str, int]]) -> None:
    graph, bits = case
    images, mixed = pictures(graph, 3), quantized(graph, bits)
    mixed = opened(mixed, {node.name for node in mixed.nodes if may_open(mixed, node)})
    assert all(mixed.is_integer(node) or mixed.is_open(node) for node in mixed.nodes if node.bits == 8)
    found, wanted = run(mixed, images), Simulation(decompose(with_bits(graph, bits)), mixed).run(images)
    assert (found - wanted).abs().max() <= 0.03 * max(1.0, float(wanted.abs().max()))


@QUICK
@given(planned())
def test_numbers_follow_from_who_computes_and_who_reads(case: tuple[Graph, dict[str, int]]) -> None:
    mixed = quantized(*case)
    assert {name: q.bits for name, q in mixed.qparams.items()} == tensor_bits(mixed)
    for node in mixed.nodes:
        assert mixed.is_integer(node) == (node.bits == 8)
        if node.op in (Op.CONV, Op.LINEAR):
            kinds = {8: ("int8", "int32"), 16: ("int8", "float32"), 32: ("float32", "float32")}
            found = tuple(mixed.weights[f"{node.name}.{key}"].dtype.name for key in ("weight", "bias"))
            assert found == kinds[node.bits]


def test_a_plan_survives_the_disk(tmp_path: Path) -> None:
    graph = GRAPHS["residual"](Maker())
    bits = {node.name: (8, 16, 32)[at % 3] for at, node in enumerate(graph.nodes) if node.op is not Op.INPUT}
    mixed = quantized(graph, bits)
    store.save(mixed, tmp_path)
    loaded = store.load(tmp_path)
    assert loaded.nodes == mixed.nodes and loaded.qparams == mixed.qparams
    assert bits_of(loaded) == {name: width for name, width in bits.items() if width != 8}
    images = pictures(graph, 2)
    assert torch.equal(run(loaded, images), run(mixed, images))


def test_16_bit_activations_are_nearer_than_8() -> None:
    graph = GRAPHS["squeeze_excite"](Maker())
    images = pictures(graph, 8)
    wanted = run(graph, images)
    wide, narrow = (
        float((run(each, images) - wanted).square().mean())
        for each in (quantized(graph, whole(graph, 16)), quantized(graph))
    )
    assert wide < narrow / 3


@pytest.mark.parametrize(("bits", "found"), [({"nobody": 32}, "no node 'nobody'"), ({"block.1.conv": 4}, "bits \\[4")])
def test_a_plan_for_another_graph_is_refused(bits: dict[str, int], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        quantized(GRAPHS["residual"](Maker()), bits)


def moved_from_input(graph: Graph) -> set[str]:
    """What only moves pixels: it keeps their numbers."""
    return {node.name for node in graph.nodes if node.inputs == (graph.input.name,) and node.op is not Op.CONV}
