"""The verb ``find-lr``: the flags of a training, and nothing of a run touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import TRAIN, Outcome, digest


def test_it_suggests_a_rate_and_leaves_the_run_alone(
    cli: Callable[..., Outcome], finished_run: Path, tmp_path: Path
) -> None:
    before = {path: digest(path) for path in finished_run.rglob("*") if path.is_file()}
    out = tmp_path / "rates"
    outcome = cli("find-lr", "digits", "-o", out, *TRAIN, "--teacher", finished_run / "float", "--set", "cutout=2")
    assert outcome.code == 0, outcome.err
    found = json.loads((out / "lr.json").read_text())
    assert found["suggested"] == pytest.approx(found["lowest"] / 3)
    assert f"highest learning rate: {found['suggested']:.2g} (a third of" in outcome.out
    assert 0.001 < found["suggested"] < 3
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"])
    assert (out / "lr.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in out.iterdir()} == {"lr.json", "lr.png"}
    assert {path: digest(path) for path in finished_run.rglob("*") if path.is_file()} == before
