"""Every operator, float and int8: the interpreter, ONNX Runtime and LiteRT compute the same tensors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from handmade import GRAPHS, Maker, pictures, quantized

from edgecnn import catalog
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.spec import Format

SIZES = ((9, 11), (8, 12))  # odd and even: SAME means something else for each
BATCH = 3
FLOAT_TOLERANCE = 1e-5  # of the largest value
MOST_STEPS = 2  # int8: a half that one runtime rounds the other way may be followed by another
MOST_STEPS_MIXED = 4  # where 16 bits are rounded to 8 it may have been rounded before
MIXED_TOLERANCE = 0.02
SHARE_OFF = 0.02  # int8: the share of numbers that may differ at all; a systematic fault moves more

CASES = [(name, size, precise) for name in GRAPHS for size in SIZES for precise in (True, False)]
IDS = [f"{name}-{size[0]}x{size[1]}-{'fp32' if precise else 'int8'}" for name, size, precise in CASES]


GREY = [
    (name, size, precise)
    for name in (*(name for name in GRAPHS if name.startswith("stem")), "squeeze_excite")
    for size in SIZES
    for precise in (True, False)
]
"""Stems read the picture itself: what writers do there depends on its channels."""


@pytest.mark.parametrize(("name", "size", "precise"), GREY)
def test_grey_pictures_are_computed_alike(name: str, size: tuple[int, int], precise: bool, tmp_path: Path) -> None:
    graph = GRAPHS[name](Maker(size, channels=1))
    assert pictures(graph, BATCH).shape[3] == 1
    compare_formats(graph if precise else quantized(graph), tmp_path)


@pytest.mark.parametrize(("name", "size", "precise"), CASES, ids=IDS)
def test_every_tensor_of_every_format_is_the_interpreters(
    name: str, size: tuple[int, int], precise: bool, tmp_path: Path
) -> None:
    graph = GRAPHS[name](Maker(size))
    compare_formats(graph if precise else quantized(graph), tmp_path)


def traceable_formats() -> dict[Format, catalog.FormatRow]:
    """Formats whose files can be looked into; the others have tests of their own."""
    return {format_: row for format_, row in catalog.FORMATS.items() if row.trace}


def compare_formats(graph: Graph, tmp_path: Path) -> None:
    """Every tensor of every format against the interpreter's, and the logits in batches."""
    images = pictures(graph, BATCH)
    wanted = {key: value.numpy() for key, value in run(graph, images, keep=True).items()}
    for format_, row in traceable_formats().items():
        path = tmp_path / f"model{row.extension}"
        catalog.load(row.target)(graph, path, meta={})
        found = catalog.load(row.trace)(path, images)
        assert set(found) == set(wanted)
        for key, values in wanted.items():
            assert_close(graph, key, found[key], values, str(format_))
        for batch in (1, BATCH):
            logits = infer(path, images, batch)
            assert_close(graph, graph.output, logits, wanted[graph.output], f"{format_} in batches of {batch}")


@pytest.mark.parametrize("name", ["squeeze_excite", "conv_stride2_torch_padding", "concat", "max_pool_padded"])
def test_litert_without_its_delegate_is_near_too(name: str, tmp_path: Path) -> None:
    """The built-in kernels round in fixed point: a few steps, but no other network; float is the same."""
    for precise in (True, False):
        graph = GRAPHS[name](Maker(SIZES[0]))
        graph = graph if precise else quantized(graph)
        images = pictures(graph, BATCH)
        wanted = run(graph, images).numpy()
        path = tmp_path / "model.tflite"
        catalog.load(catalog.FORMATS[Format.TFLITE].target)(graph, path, meta={})
        logits = infer(path, images, BATCH, resolver=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
        allowed = FLOAT_TOLERANCE * np.abs(wanted).max() if precise else 4.5 * graph.qparams[graph.output].scale
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=allowed)


@pytest.mark.parametrize("name", sorted(GRAPHS))
@pytest.mark.parametrize("level", ["ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_onnx_runtime_keeps_an_int8_file_in_integers(name: str, level: str, tmp_path: Path) -> None:
    graph = quantized(GRAPHS[name](Maker(SIZES[0])))
    path, optimized = tmp_path / "model.onnx", tmp_path / "optimized.onnx"
    catalog.load(catalog.FORMATS[Format.ONNX].target)(graph, path, meta={})
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(optimized)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    left = Counter(node.op_type for node in onnx.load(optimized).graph.node)
    assert left["DequantizeLinear"] == 1  # of the logits
    float_operators = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Add", "Mul", "AveragePool", "Sigmoid"}
    float_operators |= {"GlobalAveragePool", "QuantizeLinear", "HardSwish", "HardSigmoid", "Cast"}
    assert not float_operators & set(left), left


@pytest.mark.parametrize("name", sorted(set(GRAPHS) - {"max_pool_explicit_padding"}))
@pytest.mark.parametrize("precise", [True, False], ids=["fp32", "int8"])
def test_xnnpack_takes_every_operator_of_a_tflite_file(name: str, precise: bool, tmp_path: Path) -> None:
    """One operator left outside splits the network and copies tensors; int8 ones outside are slow besides."""
    graph = GRAPHS[name](Maker(SIZES[0]))
    path = tmp_path / "model.tflite"
    catalog.load(catalog.FORMATS[Format.TFLITE].target)(graph if precise else quantized(graph), path, meta={})
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    delegates = [entry for entry in interpreter._get_ops_details() if entry["op_name"] == "DELEGATE"]
    assert len(delegates) == 1
    assert interpreter.get_input_details()[0]["index"] in delegates[0]["inputs"]
    assert list(delegates[0]["outputs"]) == [interpreter.get_output_details()[0]["index"]]


def assert_close(graph: Graph, name: str, found: Any, wanted: Any, where: str) -> None:
    assert found.shape == wanted.shape, (where, name)
    error = np.abs(found.astype(np.float64) - wanted)
    if not graph.quantized:
        assert error.max() <= FLOAT_TOLERANCE * max(np.abs(wanted).max(), 1e-3), (where, name)
        return
    qparams = graph.qparams.get(name)
    if qparams is None or qparams.bits == 16:  # behind a number that was rounded the other way
        assert error.max() <= MIXED_TOLERANCE * max(np.abs(wanted).max(), 1e-3), (where, name, error.max())
        return
    steps = np.rint(error / qparams.scale)
    allowed = max(1, SHARE_OFF * steps.size)
    most = MOST_STEPS if all(node.bits == 8 for node in graph.nodes) else MOST_STEPS_MIXED
    assert steps.max() <= most and np.count_nonzero(steps) <= allowed, (where, name, Counter(steps.ravel()))


def infer(path: Path, images: Any, batch: int, resolver: Any = OpResolverType.AUTO) -> Any:
    """Logits, ``batch`` pictures at a time."""
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    if path.suffix == ".onnx":
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(["logits"], {"image": part})[0] for part in parts])
    interpreter = Interpreter(model_path=str(path), num_threads=1, experimental_op_resolver_type=resolver)
    source = interpreter.get_input_details()[0]
    assert source["name"] == "image" and source["dtype"] == np.uint8
    assert interpreter.get_output_details()[0]["name"] == "logits"
    if batch > 1:
        interpreter.resize_tensor_input(source["index"], parts[0].shape, strict=True)
    interpreter.allocate_tensors()
    logits = []
    for part in parts:
        interpreter.set_tensor(source["index"], part)
        interpreter.invoke()
        logits.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.concatenate(logits)
