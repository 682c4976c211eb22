"""Transfer learning from a local file of weights, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from driving import TRAIN, Outcome

from edgecnn.bundle import open_bundle

Cli = Callable[..., Outcome]


@pytest.fixture
def weights(finished_run: Path) -> Path:
    return finished_run / "float" / "weights.safetensors"


def test_features_then_two_stages(cli: Cli, weights: Path, tmp_path: Path) -> None:
    outcome = cli("train", "digits", "-o", tmp_path, *TRAIN, "--pretrained", weights, "--transfer", "features")
    assert outcome.code == 0, outcome.err
    assert "logistic classifier on 64 features" in outcome.out + outcome.err
    made = open_bundle(tmp_path / "float").manifest
    assert made.figures["epochs"] == 0 and made.figures["test_top1"] > 0.9
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / ".features").iterdir()}
    assert len(kept) == 2  # train and val: --no-flip
    exported = cli("export", tmp_path / "float")
    assert exported.code == 0, exported.err

    more = ("--transfer", "two_stage", "--set", "train_last=1", "--set", "output=tuned", "--set", "lr=0.01")
    outcome = cli("train", "digits", "-o", tmp_path, *TRAIN, "--pretrained", weights, *more)
    assert outcome.code == 0, outcome.err
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / ".features").iterdir()} == kept
    tuned = open_bundle(tmp_path / "tuned").manifest
    assert tuned.figures["epochs"] == 3 and tuned.figures["test_top1"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--transfer", "features"), "must have learned something before"),
        (("--set", "train_last=2"), "must have learned something before"),
        (("--pretrained", "WEIGHTS", "--transfer", "features", "--set", "train_last=2"), "classifier alone"),
        (("--pretrained", "WEIGHTS", "--set", "train_last=99"), "before the classifier"),
        (("--transfer", "half"), "steps.0.transfer"),
    ],
)
def test_what_cannot_be_is_told(cli: Cli, weights: Path, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    words = [str(weights) if word == "WEIGHTS" else word for word in arguments]
    outcome = cli("train", "digits", "-o", tmp_path / "out", *TRAIN, *words)
    assert outcome.code == 2
    assert told in outcome.err
