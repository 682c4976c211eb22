"""Graphs of which only a part is in 8-bit integers: every tensor of every format is the interpreter's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from handmade import GRAPHS, Maker, quantized
from test_formats import compare_formats

from edgecnn.graph.ir import Graph, Op

SIZE = (9, 12)


def islands(graph: Graph, seed: int, widths: tuple[int, ...]) -> dict[str, int]:
    """Bits drawn for every node."""
    random = np.random.default_rng(seed)
    return {node.name: int(random.choice(widths)) for node in graph.nodes if node.op is not Op.INPUT}


@pytest.mark.parametrize("name", GRAPHS)
def test_float_islands(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name](Maker(SIZE))
    compare_formats(quantized(graph, bits=islands(graph, list(GRAPHS).index(name), (8, 32))), tmp_path)


@pytest.mark.parametrize("name", list(GRAPHS)[::4])
def test_float_but_for_the_picture(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name](Maker(SIZE))
    compare_formats(quantized(graph, bits=islands(graph, 0, (32,))), tmp_path)


@pytest.mark.parametrize("name", GRAPHS)
def test_16_bit_activations(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name](Maker(SIZE))
    compare_formats(quantized(graph, bits=islands(graph, 0, (16,))), tmp_path)


@pytest.mark.parametrize("name", list(GRAPHS)[1::2])
def test_all_kinds_side_by_side(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name](Maker(SIZE))
    compare_formats(quantized(graph, bits=islands(graph, 2, (8, 16, 32))), tmp_path)
