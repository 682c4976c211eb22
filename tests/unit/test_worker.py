"""The worker's verbs, spoken to directly in this process with the engine that computes nothing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from edgecnn.runtimes.framing import Frame, read_frame, write_frame
from edgecnn.runtimes.worker import Worker, cpu_model, peak_memory_bytes, serve, status_bytes

PICTURES = np.zeros((3, 4, 4, 3), np.uint8)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    (tmp_path / "net.onnx").touch()
    made = Worker("null", 1, {})
    loaded = made.answer(Frame({"verb": "load", "path": str(tmp_path / "net.onnx")}))
    assert loaded.header["input"]["layout"] == "NHWC" and loaded.header["load_ms"] >= 0
    return made


def test_infer_and_describe(worker: Worker) -> None:
    assert worker.answer(Frame({"verb": "infer"}, {"images": PICTURES})).arrays["logits"].shape == (3, 1)
    assert worker.answer(Frame({"verb": "describe"})).header["runtime"] == "null"


def test_timing_with_fewer_pictures_than_the_batch(worker: Worker) -> None:
    request = Frame({"verb": "time", "batch": 8, "plan": {"seconds": 0.001}}, {"images": PICTURES})
    answer = worker.answer(request)
    assert answer.header["batch"] == 8 and answer.arrays["samples"].size >= 13


@pytest.mark.parametrize(
    ("request_", "kind", "word"),
    [
        (Frame({"verb": "load", "path": "/no/such/net.onnx"}), "RuntimeFailure", "no such file"),
        (Frame({"verb": "infer"}), "RuntimeFailure", "images"),
        (Frame({"verb": "sing"}), "RuntimeFailure", "sing"),
    ],
)
def test_errors_are_answers(worker: Worker, request_: Frame, kind: str, word: str) -> None:
    error = worker.answer(request_).header["error"]
    assert error["kind"] == kind and word in error["message"]


def test_an_unknown_runtime_and_a_verb_too_early() -> None:
    error = Worker("nul", 1, {}).answer(Frame({"verb": "describe"})).header["error"]
    assert error["kind"] == "UsageError" and "did you mean 'null'" in error["hint"]
    early = Worker("null", 1, {}).answer(Frame({"verb": "infer"}, {"images": PICTURES})).header["error"]
    assert early["message"] == "no file is loaded"


def test_serving_ends_with_the_stream(worker: Worker) -> None:
    requests, answers = io.BytesIO(), io.BytesIO()
    for _ in range(2):
        write_frame(requests, Frame({"verb": "memory"}))
    requests.seek(0)
    serve(worker, requests, answers)
    answers.seek(0)
    first, second, end = read_frame(answers), read_frame(answers), read_frame(answers)
    assert first is not None and second is not None and end is None
    assert second.header["peak_bytes"] >= first.header["current_bytes"] > 0


def test_the_system_is_read() -> None:
    assert peak_memory_bytes() >= status_bytes("VmRSS") > 2**20
    assert status_bytes("NoSuchField") == 0
    assert cpu_model()
