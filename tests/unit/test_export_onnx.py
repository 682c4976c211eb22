"""The ONNX writer: interface, metadata, what is and is not written, and what it refuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgecnn.errors import ModelError, UsageError
from edgecnn.export.meta import labels_of, meta_of, preprocess_of, read_meta
from edgecnn.export.onnx import IR_VERSION, OPSET, build, render
from edgecnn.graph.ir import Graph, Node, Op, QParams
from edgecnn.spec import Preprocess


def classifier(clamp: list[float | None] | None = None, mean: float = 127 / 255) -> Graph:
    """A pointwise convolution, the mean and a linear layer, float."""
    attrs = {"kernel": [1, 1], "stride": [1, 1], "padding": [0] * 4, "dilation": [1, 1], "groups": 1, "clamp": clamp}
    nodes = (
        Node("input", Op.INPUT, (), (3, 4, 4), {"mean": [mean] * 3, "std": [0.5] * 3}),
        Node("features.0", Op.CONV, ("input",), (2, 4, 4), attrs),
        Node("pool", Op.MEAN, ("features.0",), (2, 1, 1)),
        Node("flat", Op.FLATTEN, ("pool",), (2,)),
        Node("head", Op.LINEAR, ("flat",), (2,), {"clamp": None}),
    )
    weights: dict[str, Any] = {
        "features.0.weight": np.array([[1, 0, 0], [0, 0.5, -0.5]], np.float32).reshape(2, 3, 1, 1),
        "features.0.bias": np.array([0.25, 0], np.float32),
        "head.weight": np.eye(2, dtype=np.float32),
        "head.bias": np.zeros(2, np.float32),
    }
    return Graph(nodes, "head", weights)


def integers(low: float, high: float, clamp: list[float | None] | None = None) -> Graph:
    """The int8 form of ``classifier``, with the convolution's output read as [low, high]."""
    graph = classifier(clamp)
    scale = (high - low) / 255
    output = QParams(scale, round(-128 - low / scale))
    qparams = {"input": QParams(1 / 127.5, -1), "features.0": output, "pool": output, "flat": output, "head": output}
    weights: dict[str, Any] = {
        "features.0.weight": np.array([[127, 0, 0], [0, 127, -127]], np.int8).reshape(2, 3, 1, 1),
        "features.0.bias": np.array([4048, 0], np.int32),
        "head.weight": (127 * np.eye(2)).astype(np.int8),
        "head.bias": np.zeros(2, np.int32),
    }
    scales: dict[str, Any] = {
        "features.0": np.array([1 / 127, 0.5 / 127], np.float32),
        "head": np.full(2, 1 / 127, np.float32),
    }
    return Graph(graph.nodes, "head", weights, qparams, scales)


def operators(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in build(graph, meta={}).graph.node)


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    return {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}


@pytest.mark.parametrize("graph", [classifier(), integers(-1, 1)], ids=["fp32", "int8"])
def test_input_is_uint8_pictures_and_output_float_logits_of_any_batch(graph: Graph) -> None:
    model = build(graph, meta={})
    (source,), (target,) = model.graph.input, model.graph.output
    assert (source.name, source.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert (target.name, target.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    dims = [[d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim] for port in (source, target)]
    assert dims == [["batch", 4, 4, 3], ["batch", 2]]
    assert model.opset_import[0].version == OPSET and model.ir_version == IR_VERSION
    onnx.checker.check_model(model, full_check=True)


def test_tensors_have_the_names_of_the_graph() -> None:
    for graph in (classifier(), integers(-1, 1)):
        tensors = {output for node in build(graph, meta={}).graph.node for output in node.output}
        assert {"input", "features.0", "pool", "flat", "head"} <= tensors


def test_int8_weights_are_per_channel_and_biases_int32() -> None:
    found = constants(build(integers(-1, 1), meta={}))
    assert found["features.0.weight"].dtype == np.int8 and found["features.0.weight/scale"].shape == (2,)
    assert found["features.0.bias"].dtype == np.int32
    np.testing.assert_allclose(found["features.0.bias/scale"], np.array([1, 0.5]) / 127 / 127.5, rtol=1e-6)
    assert found["features.0/scale"] == np.float32(2 / 255) and found["features.0/zero_point"] == 128


def test_a_clamp_that_the_integer_range_implies_is_not_written() -> None:
    assert operators(integers(0, 1, clamp=[0.0, 6.0]))["Clip"] == 0
    assert operators(integers(0, 1, clamp=[0.0, None]))["Clip"] == 0


def test_a_clamp_that_the_integer_range_does_not_imply_is_an_integer_clip() -> None:
    model = build(integers(-1, 1, clamp=[0.0, 0.5]), meta={})
    assert Counter(node.op_type for node in model.graph.node)["Clip"] == 1
    found = constants(model)
    assert found["features.0/low"] == 128 and found["features.0/low"].dtype == np.uint8
    assert found["features.0/high"] == 128 + round(0.5 * 255 / 2)


def test_float_clamps_are_relu_or_clip() -> None:
    assert operators(classifier([0.0, None]))["Relu"] == 1
    assert operators(classifier([0.0, 6.0]))["Clip"] == 1


def test_normalization_is_one_operator_when_it_folds_and_exact_when_not() -> None:
    assert operators(classifier())["Cast"] == 0
    assert operators(classifier(mean=0.4567))["Cast"] == 1


def test_an_int8_input_with_other_numbers_than_the_pixels_is_refused() -> None:
    graph = integers(-1, 1)
    wrong = Graph(
        graph.nodes, graph.output, graph.weights, graph.qparams | {"input": QParams(0.01, -1)}, graph.weight_scales
    )
    with pytest.raises(ModelError, match="quantized input has scale"):
        build(wrong, meta={})


def test_metadata_goes_in_and_comes_out(tmp_path: Path) -> None:
    preprocess = Preprocess(4, (127 / 255,) * 3, (0.5,) * 3, crop_fraction=0.875)
    path = tmp_path / "folder" / "model.onnx"
    render(classifier(), path, meta=meta_of(["cat", "dög"], preprocess, model="tiny"))
    meta = read_meta(path)
    assert labels_of(meta) == ("cat", "dög") and preprocess_of(meta) == preprocess and meta["model"] == "tiny"
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]  # nothing temporary is left


def test_metadata_of_foreign_and_broken_files(tmp_path: Path) -> None:
    model = build(classifier(), meta={})
    del model.metadata_props[:]
    foreign, broken = tmp_path / "foreign.onnx", tmp_path / "broken.onnx"
    onnx.save(model, foreign)
    broken.write_bytes(b"\xff" * 64)
    assert read_meta(foreign) == {} and labels_of({}) is None and preprocess_of({}) is None
    for path, words in ((broken, "not an ONNX file"), (tmp_path / "none.onnx", "no file"), (tmp_path, "no file")):
        with pytest.raises(UsageError, match=words):
            read_meta(path)
