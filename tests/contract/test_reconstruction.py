"""Learned rounding walks through every operator in integers."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import GRAPHS, Maker, pictures, quantized

from edgecnn.compress import adaround
from edgecnn.compress.quantize import decompose
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import WEIGHTED


@pytest.mark.parametrize("name", GRAPHS)
def test_every_operator(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaround, "STEPS", 3)
    graph = GRAPHS[name](Maker())
    start = quantized(graph)
    images = pictures(graph, 40)
    found = adaround.reconstructed(decompose(graph), start, images)
    for node in found.nodes:
        if node.op in WEIGHTED:
            before, after = (each.weights[f"{node.name}.weight"] for each in (start, found))
            assert after.dtype == np.int8 and after.shape == before.shape
            assert np.abs(after.astype(int) - before).max() <= 1
    wanted = run(graph, images)
    errors = [float((run(each, images) - wanted).square().mean()) for each in (start, found)]
    assert errors[1] <= 1.5 * errors[0] + 1e-9
