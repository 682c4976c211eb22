"""What a training cannot do is told before its pictures are loaded: exit code 2, one sentence and the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from driving import TRAIN, Outcome


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--precision", "fp16", "--device", "cpu"), "precision fp16 was asked for, and this training runs on the CPU"),
    ],
)
def test_it_is_told_and_nothing_is_left(
    cli: Callable[..., Outcome], tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    outcome = cli("train", "digits", "-o", tmp_path / "run", *TRAIN, *words)
    assert outcome.code == 2 and outcome.out == ""
    assert f"error: {told}" in outcome.err and "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()
