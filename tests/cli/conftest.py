"""A run that is made once for the whole test session."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import PRUNE, TRAIN, Outcome, edgecnn_cli


@pytest.fixture(scope="session")
def cli() -> Callable[..., Outcome]:
    return edgecnn_cli


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with float, pruned and pruned-int8, the last one exported. Never to be changed: take ``run`` for that."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    for arguments in (
        ("train", "digits", "-o", run, *TRAIN),
        ("compress", run, *PRUNE, "--quantize", "int8", "--calibration-images", "64"),
        ("export", run / "pruned-int8"),
    ):
        outcome = edgecnn_cli(*arguments)
        assert outcome.code == 0, outcome.err
    return run


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return shutil.copytree(finished_run, tmp_path / "tiny")
