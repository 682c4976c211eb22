"""Every row of ``catalog.RUNTIMES``: pictures in, the same logits out; and every way to break is a clear error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from handmade import GRAPHS, Maker, pictures, quantized
from numpy.typing import NDArray
from tiny_files import (
    CLASSES,
    LOADER,
    PICTURES,
    PREPROCESS,
    SIZE,
    Pictures,
    any_file,
    linear,
    normalized,
    onnx_float16_nhwc,
    onnx_float_nchw,
    onnx_int8,
    onnx_saturating,
    onnx_uint8,
    onnx_uint8_batch4,
    pte_uint8,
    tflite_float,
    tflite_int8,
    tflite_int8_normalized,
    tflite_uint8,
    torch_weights,
)

from edgecnn.catalog import RUNTIMES, engines
from edgecnn.errors import EdgecnnError, MissingPackageError, RuntimeFailure
from edgecnn.export.onnx import render
from edgecnn.graph.interpret import run
from edgecnn.runtimes.pack import write_worker
from edgecnn.runtimes.session import Launch, Session, open_session
from edgecnn.runtimes.timing import TimingPlan
from edgecnn.spec import Preprocess, Runtime


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


ORT, LITERT, OPENVINO, TFLM = Runtime.ONNXRUNTIME, Runtime.LITERT, Runtime.OPENVINO, Runtime.TFLM


def onnx_cases(runtime: Runtime) -> dict[str, Case]:
    """All that an engine of ONNX files must read."""
    return {
        "uint8": Case(runtime, "a.onnx", onnx_uint8, linear, 1e-2),
        "uint8_batch4": Case(runtime, "a.onnx", onnx_uint8_batch4, linear, 1e-2),
        "int8": Case(runtime, "a.onnx", onnx_int8, lambda images: linear(images.astype(int) - 128), 1e-2),
        "float_nchw": Case(runtime, "a.onnx", onnx_float_nchw, lambda i: linear(normalized(i)), 1e-2, PREPROCESS),
        "float16": Case(runtime, "a.onnx", onnx_float16_nhwc, lambda i: linear(normalized(i)), 0.5, PREPROCESS),
    }


CASES = {
    **{f"onnx_{name}": case for name, case in onnx_cases(ORT).items()},
    **{f"openvino_{name}": case for name, case in onnx_cases(OPENVINO).items()},
    "null": Case(Runtime.NULL, "any.onnx", any_file, lambda images: np.zeros((len(images), 1)), 0),
    "torch": Case(Runtime.TORCH, "weights.npy", torch_weights, linear, 1e-2),
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
    "tflm_float": Case(TFLM, "a.tflite", tflite_float, lambda i: linear(normalized(i)), 1e-2, PREPROCESS),
    "tflm_uint8": Case(TFLM, "a.tflite", tflite_uint8, linear, steps_of(500.0)),
    "tflite_uint8": Case(LITERT, "a.tflite", tflite_uint8, linear, steps_of(500.0)),
    "pte_uint8": Case(Runtime.EXECUTORCH, "a.pte", pte_uint8, linear, 1e-2),
}
ONE_EACH = ["null", "torch", "onnx_uint8", "openvino_uint8", "tflite_uint8", "tflm_uint8", "pte_uint8"]


def needs(runtime: Runtime) -> None:
    """Skip where the engine is not installed: some are optional."""
    if engines()[runtime] != "ready":
        pytest.skip(f"{runtime} is {engines()[runtime]}")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    needs(CASES[request.param].runtime)
    return CASES[request.param]


@pytest.fixture(params=ONE_EACH)
def one_each(request: pytest.FixtureRequest) -> Case:
    needs(CASES[request.param].runtime)
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
        ("openvino_uint8", "openvino", r"pip install 'edgecnn\[openvino\]'"),
        ("tflite_uint8", "ai_edge_litert", r"pip install 'edgecnn\[litert\]'"),
        ("tflm_uint8", "tflite_micro", r"pip install 'edgecnn\[tflm\]'"),
        ("pte_uint8", "executorch", r"pip install 'edgecnn\[executorch\]'"),
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
        start(replace(CASES[name], write=any_file))


def test_a_file_of_another_runtime_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"litert does not read a\.onnx\n.*onnxruntime"):
        open_session(Runtime.LITERT, onnx_uint8(tmp_path / "a.onnx"))


def test_a_float_file_without_normalization_is_not_guessed(start: Callable[[Case], Session]) -> None:
    session = start(Case(LITERT, "a.tflite", tflite_float, linear, 0))
    with pytest.raises(RuntimeFailure, match="mean and std"):
        session.infer(PICTURES)


@pytest.mark.parametrize("runtime", [ORT, OPENVINO])
def test_int8_products_are_exact_on_every_cpu(runtime: Runtime, start: Callable[[Case], Session]) -> None:
    needs(runtime)
    session = start(Case(runtime, "a.onnx", onnx_saturating, linear, 0))
    white = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
    np.testing.assert_array_equal(session.infer(white), np.full((1, CLASSES), 255 * 127 * 8 * SIZE * SIZE, np.float32))


@pytest.mark.parametrize(
    ("name", "option"), [("onnx_uint8", "exact_int8"), ("openvino_uint8", "exact_int8"), ("tflite_uint8", "xnnpack")]
)
def test_an_option_of_unknown_value_is_refused(name: str, option: str, tmp_path: Path) -> None:
    runtime, file = CASES[name].runtime, CASES[name].write(tmp_path / CASES[name].file)
    needs(runtime)
    with pytest.raises(RuntimeFailure, match=f"option {option} is 'maybe'"):
        open_session(runtime, file, options={option: "maybe"})


def test_openvino_rounds_residual_branches_when_it_is_asked_to(tmp_path: Path) -> None:
    """By itself it adds a branch that is not rounded to int8: nearer to the real sum, and another number."""
    needs(OPENVINO)
    graph = quantized(GRAPHS["add"](Maker((9, 11))))
    file, images = tmp_path / "model.onnx", pictures(graph, 24)
    render(graph, file, meta={})
    wanted = run(graph, images).numpy()
    with open_session(OPENVINO, file, options={"exact_int8": "on"}) as session:
        assert np.abs(session.infer(images) - wanted).max() < 1.1 * graph.qparams[graph.output].scale
        assert session.describe()["versions"]["exact_int8"] == "on"


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


@pytest.mark.parametrize("name", ["null", "onnx_uint8", "openvino_uint8", "tflite_uint8"])
def test_the_packed_worker_runs_without_edgecnn(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    needs(case.runtime)
    program = write_worker(tmp_path / "worker.pyz")
    launch = Launch(case.runtime, case.write(tmp_path / case.file), command=(sys.executable, "-I", str(program)))
    with Session(launch) as session:
        np.testing.assert_allclose(session.infer(PICTURES), case.expected(PICTURES), atol=case.tolerance)
