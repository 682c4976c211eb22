"""What a training cannot do is told before its pictures are loaded: exit code 2, one sentence and the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from driving import TRAIN, Outcome
from safetensors.torch import load_file


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--precision", "fp16", "--device", "cpu"), "precision fp16 was asked for, and this training runs on the CPU"),
        (("--set", "hint_weight=1"), "hint_weight is set, and there is no teacher to give hints"),
        (("--set", "compile=true", "--set", "sync_bn=true"), "these training settings contradict each other"),
    ],
)
def test_it_is_told_and_nothing_is_left(
    cli: Callable[..., Outcome], tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    outcome = cli("train", "digits", "-o", tmp_path / "run", *TRAIN, *words)
    assert outcome.code == 2 and outcome.out == ""
    assert f"error: {told}" in outcome.err and "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()


def test_hints_that_fit_no_teacher_are_told_and_those_that_do_are_followed(
    cli: Callable[..., Outcome], finished_run: Path, tmp_path: Path
) -> None:
    words = (*TRAIN, "--epochs", "1", "--teacher", finished_run / "float", "--set", "hint_weight=1")
    outcome = cli("train", "digits", "-o", tmp_path / "run", *words, "--set", "hints=stem=blocks.3")
    assert outcome.code == 2 and "error: the maps of a pair must have one size: stem (" in outcome.err
    outcome = cli("train", "digits", "-o", tmp_path / "run", *words)
    assert outcome.code == 0, outcome.err
    weights = load_file(tmp_path / "run" / "float" / "weights.safetensors")
    assert weights.keys() == load_file(finished_run / "float" / "weights.safetensors").keys()
