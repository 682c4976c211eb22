"""int8 that misses its gate, from the command line: it ends as mixed, or stays in integers where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from driving import Outcome
from test_mixed_command import READER, WRITER, blow_up

from edgecnn.bundle import open_bundle
from edgecnn.compress import adaround, ptq
from edgecnn.pipeline.loading import load_graph

Cli = Callable[..., Outcome]
QUICK = ("--calibration-images", 64, "--max-drop", 1, "--set", "steps.0.threads=1")
BUDGET = ("--set", "steps.0.max_growth=3", "--set", "steps.0.max_float=1")


@pytest.fixture
def broken(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose network int8 breaks, in a way that equalizing channels would mend."""
    blow_up(run / "float")
    monkeypatch.setattr(ptq, "equalize", lambda graph, ranges: {})
    monkeypatch.setattr(adaround, "STEPS", 3)
    return run


def test_int8_that_misses_its_gate_becomes_mixed(cli: Cli, broken: Path) -> None:
    outcome = cli("compress", broken / "float", "--quantize", "int8", *QUICK, *BUDGET)
    assert outcome.code == 0, outcome.err
    assert "left int8: the scheme is mixed now (--integer-only forbids that)" in outcome.err
    bundle = open_bundle(broken / "int8")
    assert bundle.manifest.precision == "mixed"
    assert {f"{WRITER}.conv", f"{READER}.conv"} & set(bundle.manifest.figures["kept"])
    refused = cli("export", broken / "int8", "--format", "pte")
    assert refused.code == 2 and "is mixed, which pte cannot have" in refused.err and "--integer-only" in refused.err
    exported = cli("export", broken / "int8")
    assert exported.code == 0, exported.err
    assert "mixed simulation" in cli("verify", broken / "int8").out
    assert "already: skipped" in cli("compress", broken / "float", "--quantize", "int8", *QUICK, *BUDGET).err


def test_integer_only_stays_int8_and_says_what_to_do(cli: Cli, broken: Path) -> None:
    outcome = cli("compress", broken / "float", "--quantize", "int8", "--integer-only", *QUICK)
    assert outcome.code == 0, outcome.err
    bundle = open_bundle(broken / "int8")
    assert bundle.manifest.precision == "int8"
    assert all(node.bits == 8 for node in load_graph(bundle).nodes)
    rungs = [rung["rung"] for rung in bundle.manifest.figures["ladder"]]
    assert rungs == ["plain", "repaired", "re-estimated", "reconstructed"]
    assert "next: train the numbers too (--qat) or keep some layers in float (without --integer-only)" in outcome.err
    assert "int8-diagnosis.html" in outcome.err
    assert cli("compress", broken / "float", "--scheme", "mixed", "--integer-only").code == 2
