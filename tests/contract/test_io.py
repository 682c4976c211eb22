"""What a TFLite file takes and gives: with integers at both ends it is the same network in every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import pictures, quantized

from edgecnn import catalog
from edgecnn.errors import ModelError
from edgecnn.export.meta import meta_of
from edgecnn.export.tflite import build, render, trace
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.models.zoo import ModelSpec
from edgecnn.models.zoo import build as network
from edgecnn.runtimes.session import open_session
from edgecnn.spec import IO, Format, Preprocess, Runtime

P = Preprocess(16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
META = meta_of(["a", "b", "c"], P)
INTEGERS = (IO.UINT8, IO.INT8)


@pytest.fixture(scope="module")
def floating() -> Graph:
    torch.manual_seed(0)
    return capture(network(ModelSpec("resnet8", 3, 16)).eval(), 16, P)


def ends(path: Path) -> list[tuple[str, Any]]:
    """Names and types of what goes in and what comes out."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(path))
    details = (*interpreter.get_input_details(), *interpreter.get_output_details())
    return [(detail["name"], np.dtype(detail["dtype"]).name) for detail in details]


@pytest.mark.parametrize("io", INTEGERS)
@pytest.mark.parametrize("runtime", catalog.readers(Format.TFLITE))
def test_integers_at_both_ends_are_the_same_network(floating: Graph, runtime: Runtime, io: IO, tmp_path: Path) -> None:
    if (state := catalog.engines()[runtime]) != "ready":
        pytest.skip(f"{runtime} is {state}")
    graph = quantized(floating)
    images = pictures(graph, 5)
    logits = []
    for kind in (IO.PICTURE, io):
        path = tmp_path / f"{kind}.tflite"
        render(graph, path, meta=META, io=kind)
        with open_session(runtime, path, threads=1) as session:
            logits.append(session.infer(images))
    np.testing.assert_array_equal(*logits)
    assert ends(path) == [("image", io.value), ("logits", io.value)]


@pytest.mark.parametrize("io", INTEGERS)
def test_a_file_of_integers_can_be_looked_into(floating: Graph, io: IO, tmp_path: Path) -> None:
    graph = quantized(floating)
    images = pictures(graph, 2)
    render(graph, tmp_path / "a.tflite", meta=META, io=io)
    found, wanted = trace(tmp_path / "a.tflite", images), run(graph, images, keep=True)
    assert set(wanted) - set(found) <= {graph.input.name}
    np.testing.assert_allclose(found[graph.output], wanted[graph.output].numpy(), atol=1e-6)


def test_a_float_network_has_no_integers_to_give(floating: Graph) -> None:
    with pytest.raises(ModelError, match="does not end in 8-bit integers") as caught:
        build(floating, meta=META, io=IO.INT8)
    assert "quantize" in caught.value.hint
