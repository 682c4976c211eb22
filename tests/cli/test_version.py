from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from platform import python_version

import pytest
from driving import Outcome

import edgecnn

Cli = Callable[..., Outcome]


def test_the_version_is_told_with_those_of_what_decides_results(cli: Cli) -> None:
    outcome = cli("--version")
    assert outcome.code == 0, outcome.err
    found = dict(line.split(" ", 1) for line in outcome.out.splitlines())
    assert list(found) == ["edgecnn", "python", "torch", "onnx", "onnxruntime", "litert"]
    assert found["edgecnn"] == edgecnn.__version__ and found["python"] == python_version()
    assert found["torch"] == metadata.version("torch") and found["onnx"] == metadata.version("onnx")


def test_what_is_missing_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(package: str) -> str:
        if package == "tflite-runtime":
            return "2.14.0"
        if package in ("ai-edge-litert", "onnxruntime"):
            raise metadata.PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(metadata, "version", version)
    out = cli("--version").out
    assert "onnxruntime not installed\n" in out and "litert 2.14.0\n" in out


def test_the_help_is_still_the_programs(cli: Cli) -> None:
    text = cli("--help").out
    assert "From a folder of pictures" in text and "--version" in text and "benchmark" in text
