"""Nothing heavy is imported before it is needed: asked of fresh interpreters, since this one has imported it all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgecnn

HEAVY = {
    "PIL",
    "ai_edge_litert",
    "flatbuffers",
    "matplotlib",
    "numpy",
    "onnx",
    "onnxruntime",
    "pandas",
    "pydantic",
    "safetensors",
    "scipy",
    "sklearn",
    "tensorboard",
    "timm",
    "torch",
    "torch_pruning",
    "torchvision",
}
REPORT = "\nimport json, sys\nsys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"


def imported_by(statements: str) -> tuple[set[str], str]:
    """Run statements in a fresh interpreter; return the top-level packages it then has, and what it printed."""
    environment = os.environ | {"PYTHONPATH": str(Path(edgecnn.__file__).parents[1])}
    command = [sys.executable, "-c", statements + REPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    modules = json.loads(done.stderr.splitlines()[-1])
    return {name.partition(".")[0] for name in modules}, done.stdout


def run_cli(*arguments: str) -> tuple[set[str], str]:
    call = f"import sys; sys.argv = {['edgecnn', *arguments]!r}\nfrom edgecnn.cli import app\n"
    return imported_by(call + "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code, end.code")


def test_the_probe_sees_what_is_imported() -> None:
    assert "numpy" in imported_by("import edgecnn.runtimes.ports")[0]


def test_help_imports_nothing_heavy_and_names_the_verbs() -> None:
    packages, text = run_cli("--help")
    assert packages & HEAVY == set()
    assert all(verb in text for verb in ("train", "compress", "export", "verify", "benchmark", "report", "predict"))


@pytest.mark.parametrize("module", ["edgecnn", "edgecnn.spec", "edgecnn.errors", "edgecnn.catalog", "edgecnn.cli"])
def test_the_light_modules_stay_light(module: str) -> None:
    packages, _ = imported_by(f"import {module}")
    assert "edgecnn" in packages
    assert packages & HEAVY == set()


@pytest.mark.parametrize("module", ["edgecnn.recipe", "edgecnn.bundle"])
def test_recipes_and_bundles_are_checked_before_the_frameworks_are_imported(module: str) -> None:
    packages, _ = imported_by(f"import {module}")
    assert packages & (HEAVY - {"pydantic"}) == set()


def test_the_page_is_written_without_any_framework() -> None:
    packages, _ = imported_by("import edgecnn.report.html")
    assert packages & HEAVY == set()
