"""The TFLite writer: interface, padding words, declared scales, alignment, metadata."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st
from test_export_onnx import classifier, integers

from edgecnn.errors import UsageError
from edgecnn.export.meta import labels_of, meta_of, preprocess_of, read_meta
from edgecnn.export.tflite import build, render, trace
from edgecnn.export.tflite_builder import unpack
from edgecnn.export.tflite_padding import padding_word
from edgecnn.graph.ir import Graph, Node, Op, QParams
from edgecnn.spec import Preprocess

OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


def operators(content: bytes) -> Counter[str]:
    model = unpack(content)
    codes = [OPERATORS[code.builtinCode] for code in model.operatorCodes]
    return Counter(codes[operator.opcodeIndex] for operator in model.subgraphs[0].operators)


def tensors(content: bytes) -> dict[str, Any]:
    return {tensor.name.decode(): tensor for tensor in unpack(content).subgraphs[0].tensors}


def with_hard_swish() -> Graph:
    """``integers`` with a hard-swish (gate and product) after the convolution."""
    graph = integers(-1, 1)
    source, conv, pool, *rest = graph.nodes
    gate = Node("gate", Op.AFFINE, ("features.0",), conv.shape, {"factor": 1 / 6, "offset": 0.5, "clamp": [0.0, 1.0]})
    product = Node("swish", Op.MUL, ("features.0", "gate"), conv.shape)
    pool = Node("pool", Op.MEAN, ("swish",), pool.shape)
    qparams = graph.qparams | {"gate": QParams(1 / 255, -128), "swish": QParams(0.004, -100)}
    return graph.with_nodes((source, conv, gate, product, pool, *rest), qparams=qparams)


@pytest.mark.parametrize("graph", [classifier(), integers(-1, 1)], ids=["fp32", "int8"])
def test_input_is_uint8_pictures_and_output_float_logits_of_any_batch(graph: Graph) -> None:
    content = build(graph, meta={})
    runner = Interpreter(model_content=content).get_signature_runner("serving_default")
    source, target = runner.get_input_details()["image"], runner.get_output_details()["logits"]
    assert source["dtype"] == np.uint8 and source["shape_signature"].tolist() == [-1, 4, 4, 3]
    assert target["dtype"] == np.float32 and target["shape_signature"].tolist() == [-1, 2]
    interpreter = Interpreter(model_content=content)
    interpreter.resize_tensor_input(source["index"], [5, 4, 4, 3], strict=True)
    interpreter.allocate_tensors()
    assert interpreter.get_output_details()[0]["shape"].tolist() == [5, 2]


def test_tensors_have_the_names_of_the_graph() -> None:
    assert {"image", "input", "features.0", "pool", "flat", "logits"} <= set(tensors(build(classifier(), meta={})))
    assert {"input", "features.0", "pool", "flat", "head"} <= set(tensors(build(integers(-1, 1), meta={})))


def test_int8_numbers_are_the_graphs() -> None:
    found = tensors(build(integers(-1, 1), meta={}))
    assert found["features.0"].quantization.scale[0] == np.float32(2 / 255)
    assert found["features.0"].quantization.zeroPoint.tolist() == [0]
    assert found["features.0.weight"].quantization.scale.shape == (2,)
    assert found["features.0.bias"].type == schema.TensorType.INT32


def test_constants_start_on_16_byte_boundaries() -> None:
    content = build(classifier(), meta={"odd": "x" * 7})
    model = schema.Model.GetRootAs(content, 0)
    start = np.frombuffer(content, np.uint8).ctypes.data
    offsets = [model.Buffers(i).DataAsNumpy().ctypes.data - start for i in range(1, model.BuffersLength())]
    assert offsets and all(offset % 16 == 0 for offset in offsets)


def test_hard_swish_takes_two_operators_and_its_factor_moves_into_the_next_scales() -> None:
    content = build(with_hard_swish(), meta={})
    found = tensors(content)
    assert operators(content)["ADD"] == 1 and operators(content)["MUL"] == 1
    assert found["gate"].quantization.scale[0] == pytest.approx(6 / 255)
    assert found["swish"].quantization.scale[0] == pytest.approx(6 * 0.004)
    assert found["head.weight"].quantization.scale[0] == pytest.approx(1 / 127 / 6)
    assert found["head"].quantization.scale[0] == np.float32(2 / 255)


def test_trace_gives_back_the_graphs_scales(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    render(with_hard_swish(), path, meta={})
    values = trace(path, np.full((2, 4, 4, 3), 200, np.uint8))
    assert values["swish"].shape == (2, 2, 4, 4)
    x = values["features.0"]
    np.testing.assert_allclose(values["swish"], x * np.clip(x / 6 + 0.5, 0, 1), atol=0.004)
    np.testing.assert_allclose(values["pool"][..., 0, 0], values["swish"].mean((2, 3)), atol=0.008)


def test_a_clamp_is_fused_and_left_out_where_the_integer_range_implies_it() -> None:
    relu6 = unpack(build(classifier([0.0, 6.0]), meta={})).subgraphs[0].operators[1]
    assert relu6.builtinOptions.fusedActivationFunction == schema.ActivationFunctionType.RELU6
    implied = unpack(build(integers(0, 1, clamp=[0.0, 6.0]), meta={}))
    fused = [
        getattr(operator.builtinOptions, "fusedActivationFunction", 0) for operator in implied.subgraphs[0].operators
    ]
    assert not any(fused)
    bites = operators(build(integers(-1, 1, clamp=[-0.25, 0.5]), meta={}))
    assert bites["MAXIMUM"] == 1 and bites["MINIMUM"] == 1


@given(
    size=st.integers(1, 20),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    before=st.integers(0, 4),
    after=st.integers(0, 4),
)
def test_padding_words_mean_the_same_windows(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> None:
    """Against TensorFlow's definition: where each word puts the first window, and how many windows there are."""
    reach = (kernel - 1) * dilation + 1
    if size + before + after < reach:
        return
    output = (size + before + after - reach) // stride + 1
    word = padding_word(
        (size,) * 2, (output,) * 2, [kernel] * 2, [stride] * 2, [dilation] * 2, [before, before, after, after]
    )
    same_output = -(-size // stride)
    same_before = max((same_output - 1) * stride + reach - size, 0) // 2
    valid_output = -(-(size - reach + 1) // stride)
    if word == "VALID":
        assert (before, output) == (0, valid_output)
    elif word == "SAME":
        assert (before, output) == (same_before, same_output)
    else:
        assert (before, output) != (0, valid_output) and (before, output) != (same_before, same_output)


def test_metadata_goes_in_and_comes_out(tmp_path: Path) -> None:
    preprocess = Preprocess(4, (127 / 255,) * 3, (0.5,) * 3)
    path = tmp_path / "model.tflite"
    render(integers(-1, 1), path, meta=meta_of(["a", "b"], preprocess, model="tiny"))
    meta = read_meta(path)
    assert labels_of(meta) == ("a", "b") and preprocess_of(meta) == preprocess and meta["model"] == "tiny"


def test_foreign_and_broken_files(tmp_path: Path) -> None:
    foreign, broken = tmp_path / "foreign.tflite", tmp_path / "broken.tflite"
    content = build(classifier(), meta={})
    foreign.write_bytes(content.replace(b"edgecnn", b"another"))
    broken.write_bytes(b"\x08\x00\x00\x00TFL3" + b"\xff" * 40)
    assert read_meta(foreign) == {}
    with pytest.raises(UsageError, match="not written by edgecnn"):
        trace(foreign, np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match="not a TFLite file"):
        read_meta(broken)
