"""Every row of ``catalog.RUNTIMES``: pictures in, the same logits out; and every way to break is a clear error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.catalog import RUNTIMES
from edgecnn.errors import EdgecnnError, MissingPackageError, RuntimeFailure
from edgecnn.runtimes.pack import write_worker
from edgecnn.runtimes.session import Launch, Session, open_session
from edgecnn.runtimes.timing import TimingPlan
from edgecnn.spec import Preprocess, Runtime

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
onnx = pytest.importorskip("onnx")

SIZE, CLASSES = 4, 5
RNG = np.random.default_rng(0)
WEIGHT = RNG.integers(-20, 21, size=(CLASSES, SIZE, SIZE, 3)).astype(np.int8)
PICTURES = RNG.integers(0, 256, size=(70, SIZE, SIZE, 3)).astype(np.uint8)
PREPROCESS = Preprocess(SIZE, (0.5, 0.25, 0.125), (0.5, 0.25, 1.0))
Pictures = NDArray[np.uint8]


def linear(images: NDArray[Any]) -> NDArray[np.float64]:
    """What every tiny network computes: a product of the picture (N, 4, 4, 3) with WEIGHT."""
    return np.asarray(
        images.reshape(len(images), -1).astype(np.float64) @ WEIGHT.reshape(CLASSES, -1).T.astype(np.float64)
    )


def normalized(images: Pictures) -> NDArray[np.float64]:
    return np.asarray((images / 255.0 - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std))


# --- tiny ONNX files ----------------------------------------------------------------------------------------------


def write_onnx(path: Path, element: int, shape: list[int | str], nodes: list[Any], weights: dict[str, Any]) -> Path:
    values = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info("image", element, shape)],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
        values,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def onnx_pixels(path: Path, element: int, batch: int | str) -> Path:
    """Integer NHWC input: cast, flatten, multiply."""
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["image"], ["real"], to=onnx.TensorProto.FLOAT),
        node("Flatten", ["real"], ["flat"]),
        node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    weight = WEIGHT.reshape(CLASSES, -1).T.astype(np.float32)
    return write_onnx(path, element, [batch, SIZE, SIZE, 3], nodes, {"weight": np.ascontiguousarray(weight)})


def onnx_uint8(path: Path) -> Path:
    return onnx_pixels(path, onnx.TensorProto.UINT8, "batch")


def onnx_uint8_batch4(path: Path) -> Path:
    return onnx_pixels(path, onnx.TensorProto.UINT8, 4)


def onnx_int8(path: Path) -> Path:
    return onnx_pixels(path, onnx.TensorProto.INT8, "batch")


def onnx_float_nchw(path: Path) -> Path:
    """Float NCHW input of batch 1 and an output of shape (1, K, 1, 1), as many zoo files have."""
    weight = np.ascontiguousarray(WEIGHT.transpose(0, 3, 1, 2).astype(np.float32))
    nodes = [onnx.helper.make_node("Conv", ["image", "weight"], ["logits"])]
    return write_onnx(path, onnx.TensorProto.FLOAT, [1, 3, SIZE, SIZE], nodes, {"weight": weight})


def onnx_float16_nhwc(path: Path) -> Path:
    return onnx_pixels(path, onnx.TensorProto.FLOAT16, "batch")


def onnx_saturating(path: Path) -> Path:
    """A quantized 4x4 convolution whose products leave 16 bits: fast kernels without VNNI get it wrong."""
    node, names = onnx.helper.make_node, ("scale", "zero")
    channels = 8  # the picture's three channels spread over eight, so that the dot products are long
    spread = np.zeros((channels, 3, 1, 1), np.float32)
    spread[np.arange(channels), np.arange(channels) % 3] = 1
    nodes = [
        node("Cast", ["image"], ["real"], to=onnx.TensorProto.FLOAT),
        node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "spread"], ["wide"]),
        node("QuantizeLinear", ["wide", *names], ["wide_q"]),
        node("DequantizeLinear", ["wide_q", *names], ["wide_dq"]),
        node("DequantizeLinear", ["weight", "scale", "weight_zero"], ["weight_dq"]),
        node("Conv", ["wide_dq", "weight_dq"], ["sum"]),
        node("QuantizeLinear", ["sum", "out_scale", "zero"], ["sum_q"]),
        node("DequantizeLinear", ["sum_q", "out_scale", "zero"], ["scores"]),
        node("Flatten", ["scores"], ["logits"]),
    ]
    weight = np.full((CLASSES, channels, SIZE, SIZE), 127, np.int8)
    values = {
        "spread": spread,
        "weight": weight,
        "scale": np.float32(1),
        "zero": np.uint8(0),
        "weight_zero": np.int8(0),
        "out_scale": np.float32(127 * channels * SIZE * SIZE),
    }
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return write_onnx(path, onnx.TensorProto.UINT8, ["batch", SIZE, SIZE, 3], nodes, arrays)


# --- tiny TFLite files: one FULLY_CONNECTED on the whole picture ---------------------------------------------------

FLOAT32, UINT8, INT8, INT32 = 0, 3, 9, 2
TFLITE_TYPES = {FLOAT32: np.float32, UINT8: np.uint8, INT8: np.int8, INT32: np.int32}


@dataclass(frozen=True)
class TinyTensor:
    name: str
    shape: tuple[int, ...]
    type: int
    scale: float = 0.0
    zero_point: int = 0
    data: NDArray[Any] | None = None


def write_tflite(path: Path, tensors: list[TinyTensor], operators: list[tuple[int, list[int], list[int]]]) -> Path:
    """``operators``: (builtin code, input indices, output indices). Input is tensor 0, output the last one."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, "tiny"
    model.buffers = [schema.BufferT()]
    graph.tensors = [_tensor(tensor, model.buffers) for tensor in tensors]
    graph.inputs, graph.outputs = [0], [len(tensors) - 1]
    model.operatorCodes, graph.operators = [], []
    for number, (code, inputs, outputs) in enumerate(operators):
        entry, operator = schema.OperatorCodeT(), schema.OperatorT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        entry.version = 4 if code == schema.BuiltinOperator.FULLY_CONNECTED else 1
        operator.opcodeIndex, operator.inputs, operator.outputs = number, inputs, outputs
        if code == schema.BuiltinOperator.FULLY_CONNECTED:
            operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            operator.builtinOptions = schema.FullyConnectedOptionsT()
        model.operatorCodes.append(entry)
        graph.operators.append(operator)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _tensor(tensor: TinyTensor, buffers: list[Any]) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = tensor.name, list(tensor.shape), tensor.type, 0
    if tensor.data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(tensor.data.astype(TFLITE_TYPES[tensor.type]).tobytes(), np.uint8)
        made.buffer = len(buffers)
        buffers.append(buffer)
    if tensor.scale:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [tensor.scale], [tensor.zero_point]
    return made


IMAGE, ROW, MATRIX = (1, SIZE, SIZE, 3), (1, CLASSES), WEIGHT.reshape(CLASSES, -1)


def tflite_float(path: Path) -> Path:
    tensors = [
        TinyTensor("image", IMAGE, FLOAT32),
        TinyTensor("weight", MATRIX.shape, FLOAT32, data=MATRIX),
        TinyTensor("bias", (CLASSES,), FLOAT32, data=np.zeros(CLASSES)),
        TinyTensor("logits", ROW, FLOAT32),
    ]
    return write_tflite(path, tensors, [(schema.BuiltinOperator.FULLY_CONNECTED, [0, 1, 2], [3])])


def int8_tensors(scale: float, zero_point: int, out_scale: float) -> list[TinyTensor]:
    return [
        TinyTensor("image", IMAGE, INT8, scale, zero_point),
        TinyTensor("weight", MATRIX.shape, INT8, 1.0, 0, MATRIX),
        TinyTensor("bias", (CLASSES,), INT32, scale, 0, np.zeros(CLASSES)),
        TinyTensor("logits", ROW, INT8, out_scale, 3),
    ]


def tflite_int8(path: Path) -> Path:
    """Pixels in, int8 logits out, each step of them being 500."""
    return write_tflite(
        path, int8_tensors(1.0, -128, 500.0), [(schema.BuiltinOperator.FULLY_CONNECTED, [0, 1, 2], [3])]
    )


def tflite_int8_normalized(path: Path) -> Path:
    """An int8 input that is not simply pixels: normalization is needed to fill it."""
    return write_tflite(
        path, int8_tensors(1 / 60, -64, 10.0), [(schema.BuiltinOperator.FULLY_CONNECTED, [0, 1, 2], [3])]
    )


def tflite_uint8(path: Path) -> Path:
    """uint8 pixels in and uint8 scores out, as edgecnn's own and Google's published files have."""
    inner = int8_tensors(1.0, -128, 500.0)
    tensors = [
        TinyTensor("pixels", IMAGE, UINT8, 1.0, 0),
        *inner,
        TinyTensor("scores", ROW, UINT8, 500.0, 131),
    ]
    quantize, dense = schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.FULLY_CONNECTED
    return write_tflite(path, tensors, [(quantize, [0], [1]), (dense, [1, 2, 3], [4]), (quantize, [4], [5])])


# --- the torch runtime reads what its loader reads ----------------------------------------------------------------

LOADER = """
import numpy as np
import torch


def load(path):
    print("this goes to stdout and must not break the frames")
    weight = torch.from_numpy(np.load(path).astype(np.float32))
    return lambda images: (torch.from_numpy(np.array(images)).flatten(1).float() @ weight.T).numpy()
"""


def torch_weights(path: Path) -> Path:
    np.save(path, MATRIX)
    (path.parent / "tiny_loader.py").write_text(LOADER)
    return path


def any_file(path: Path) -> Path:
    path.write_bytes(b"never read")
    return path


@dataclass(frozen=True)
class Case:
    runtime: Runtime
    file: str
    write: Callable[[Path], Path]
    expected: Callable[[Pictures], NDArray[np.float64]]
    tolerance: float
    preprocess: Preprocess | None = None


def steps_of(step: float) -> float:
    """Half a step of the quantized output, and a little for float32 scales and halves rounded the other way."""
    return step * 0.51


ORT, LITERT = Runtime.ONNXRUNTIME, Runtime.LITERT
CASES = {
    "null": Case(Runtime.NULL, "any.onnx", any_file, lambda images: np.zeros((len(images), 1)), 0),
    "torch": Case(Runtime.TORCH, "weights.npy", torch_weights, linear, 1e-2),
    "onnx_uint8": Case(ORT, "a.onnx", onnx_uint8, linear, 1e-2),
    "onnx_uint8_batch4": Case(ORT, "a.onnx", onnx_uint8_batch4, linear, 1e-2),
    "onnx_int8": Case(ORT, "a.onnx", onnx_int8, lambda images: linear(images.astype(int) - 128), 1e-2),
    "onnx_float_nchw": Case(ORT, "a.onnx", onnx_float_nchw, lambda i: linear(normalized(i)), 1e-2, PREPROCESS),
    "onnx_float16": Case(ORT, "a.onnx", onnx_float16_nhwc, lambda i: linear(normalized(i)), 0.5, PREPROCESS),
    "tflite_float": Case(LITERT, "a.tflite", tflite_float, lambda i: linear(normalized(i)), 1e-2, PREPROCESS),
    "tflite_int8": Case(LITERT, "a.tflite", tflite_int8, linear, steps_of(500.0)),
    "tflite_int8_normalized": Case(
        LITERT,
        "a.tflite",
        tflite_int8_normalized,
        lambda i: linear(np.round(normalized(i) * 60) / 60),
        steps_of(10.0) + 1,
        PREPROCESS,
    ),
    "tflite_uint8": Case(LITERT, "a.tflite", tflite_uint8, linear, steps_of(500.0)),
}
ONE_EACH = ["null", "torch", "onnx_uint8", "tflite_uint8"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=ONE_EACH)
def one_each(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Case], Session]]:
    """Opens sessions on tiny files and closes them."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    opened: list[Session] = []

    def open_case(case: Case) -> Session:
        file = case.write(tmp_path / case.file)
        options = {"loader": "tiny_loader:load"} if case.runtime == Runtime.TORCH else {}
        opened.append(open_session(case.runtime, file, preprocess=case.preprocess, options=options, timeout_s=240))
        return opened[-1]

    yield open_case
    for session in opened:
        session.close()


def test_every_runtime_has_a_case() -> None:
    assert {case.runtime for case in CASES.values()} == set(RUNTIMES) == {CASES[name].runtime for name in ONE_EACH}


def test_logits_are_those_of_the_reference(case: Case, start: Callable[[Case], Session]) -> None:
    session = start(case)
    for count in (1, 5, 70):
        logits = session.infer(PICTURES[:count])
        wanted = case.expected(PICTURES[:count])
        assert logits.dtype == np.float32 and logits.shape == wanted.shape
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=case.tolerance)


def test_times_and_memory_are_measured(one_each: Case, start: Callable[[Case], Session]) -> None:
    session = start(one_each)
    timing = session.time(PICTURES[:3], TimingPlan(min_runs=7, max_runs=9, seconds=0.01, warmup_seconds=0.05))
    assert 7 <= timing.samples.size <= 9 and (timing.samples > 0).all()
    assert timing.first_ms > 0 and timing.warmup_runs >= 1
    assert session.load_ms >= 0
    assert session.peak_memory_bytes >= session.base_memory_bytes > 2**20
    said = session.describe()
    assert said["runtime"] == one_each.runtime and "numpy" in said["versions"]


def test_an_error_is_an_error_and_the_worker_lives_on(one_each: Case, start: Callable[[Case], Session]) -> None:
    if one_each.runtime in (Runtime.NULL, Runtime.TORCH):
        pytest.skip("takes pictures of any size")
    session = start(one_each)
    with pytest.raises(RuntimeFailure, match="pictures are 9 x 9, the file takes 4 x 4"):
        session.infer(np.zeros((1, 9, 9, 3), np.uint8))
    with pytest.raises(RuntimeFailure, match=r"pictures are float64"):
        session.infer(np.zeros((1, SIZE, SIZE, 3)))  # type: ignore[arg-type]
    assert session.infer(PICTURES[:2]).shape == (2, CLASSES)


def rubbish(path: Path) -> Path:
    (path.parent / "tiny_loader.py").write_text(LOADER)
    path.write_bytes(b"this is no network")
    return path


def test_a_damaged_file_is_refused_by_name(one_each: Case, start: Callable[[Case], Session]) -> None:
    if one_each.runtime == Runtime.NULL:
        pytest.skip("reads nothing")
    damaged = Case(one_each.runtime, one_each.file, rubbish, linear, 0)
    with pytest.raises(RuntimeFailure):
        start(damaged)


def test_a_missing_file_is_refused(one_each: Case, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="no such file"):
        open_session(one_each.runtime, tmp_path / one_each.file, options={"loader": "tiny_loader:load"})


@pytest.mark.parametrize(
    ("name", "package", "line"),
    [
        ("onnx_uint8", "onnxruntime", r"pip install 'edgecnn\[onnxruntime\]'"),
        ("tflite_uint8", "ai_edge_litert", r"pip install 'edgecnn\[litert\]'"),
        ("torch", "torch", "pip install torch"),
    ],
)
def test_a_missing_engine_names_the_way_to_install_it(
    name: str, package: str, line: str, tmp_path: Path, start: Callable[[Case], Session]
) -> None:
    (tmp_path / package).mkdir()
    blocked = f"raise ModuleNotFoundError('hidden', name={package!r})\n"
    (tmp_path / package / "__init__.py").write_text(blocked)
    with pytest.raises(MissingPackageError, match=line):
        start(CASES[name])


def test_a_file_of_another_runtime_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"litert does not read a\.onnx\n.*onnxruntime"):
        open_session(Runtime.LITERT, onnx_uint8(tmp_path / "a.onnx"))


def test_a_float_file_without_normalization_is_not_guessed(start: Callable[[Case], Session]) -> None:
    session = start(Case(LITERT, "a.tflite", tflite_float, linear, 0))
    with pytest.raises(RuntimeFailure, match="mean and std"):
        session.infer(PICTURES)


def test_int8_products_are_exact_on_every_cpu(start: Callable[[Case], Session]) -> None:
    session = start(Case(ORT, "a.onnx", onnx_saturating, linear, 0))
    white = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
    np.testing.assert_array_equal(session.infer(white), np.full((1, CLASSES), 255 * 127 * 8 * SIZE * SIZE, np.float32))


@pytest.mark.parametrize(("runtime", "option"), [(ORT, "exact_int8"), (LITERT, "xnnpack")])
def test_an_option_of_unknown_value_is_refused(runtime: Runtime, option: str, tmp_path: Path) -> None:
    file = tmp_path / ("a.onnx" if runtime == ORT else "a.tflite")
    (onnx_uint8 if runtime == ORT else tflite_uint8)(file)
    with pytest.raises(RuntimeFailure, match=f"option {option} is 'maybe'"):
        open_session(runtime, file, options={option: "maybe"})


def test_litert_without_xnnpack_gives_the_same(tmp_path: Path) -> None:
    file = tflite_uint8(tmp_path / "a.tflite")
    with open_session(LITERT, file) as fast, open_session(LITERT, file, options={"xnnpack": "off"}) as plain:
        np.testing.assert_array_equal(fast.infer(PICTURES), plain.infer(PICTURES))
        assert plain.describe()["versions"]["xnnpack"] == "off"


# --- workers that break --------------------------------------------------------------------------------------------


def broken_worker(tmp_path: Path, program: str, timeout_s: float = 30.0) -> Session:
    command = (sys.executable, "-c", program)
    return Session(Launch(Runtime.NULL, any_file(tmp_path / "net.onnx"), command=command, timeout_s=timeout_s))


def test_a_killed_worker_is_reported(start: Callable[[Case], Session]) -> None:
    session = start(CASES["null"])
    session._process.kill()
    with pytest.raises(RuntimeFailure, match=r"null worker ended: killed by SIGKILL during 'infer' of any\.onnx"):
        session.infer(PICTURES)


def test_a_dying_worker_leaves_its_last_words(tmp_path: Path) -> None:
    program = "import sys; [print('line', n, file=sys.stderr) for n in range(40)]; sys.exit(7)"
    with pytest.raises(RuntimeFailure, match=r"ended: exit code 7") as caught:
        broken_worker(tmp_path, program)
    assert "line 39" in caught.value.hint and "line 20" not in caught.value.hint


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"did not answer within 0\.5 s"):
        broken_worker(tmp_path, "import time; time.sleep(60)", timeout_s=0.5)


def test_a_worker_that_writes_rubbish_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="something else is writing"):
        broken_worker(tmp_path, "print('Hello, I am not a frame', flush=True); input()")


def test_a_closed_session_says_so(start: Callable[[Case], Session]) -> None:
    session = start(CASES["null"])
    session.close()
    session.close()
    with pytest.raises(EdgecnnError, match="closed"):
        session.infer(PICTURES)


def test_a_worker_that_cannot_start_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="cannot be started"):
        Session(Launch(Runtime.NULL, tmp_path / "net.onnx", command=(str(tmp_path / "no_such_program"),)))


@pytest.mark.parametrize("name", ["null", "onnx_uint8", "tflite_uint8"])
def test_the_packed_worker_runs_without_edgecnn(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    program = write_worker(tmp_path / "worker.pyz")
    launch = Launch(case.runtime, case.write(tmp_path / case.file), command=(sys.executable, "-I", str(program)))
    with Session(launch) as session:
        np.testing.assert_allclose(session.infer(PICTURES), case.expected(PICTURES), atol=case.tolerance)
