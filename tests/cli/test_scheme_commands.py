"""Every scheme of precision from the command line: compress, export, verify, benchmark, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import Outcome

from edgecnn import schemes
from edgecnn.bundle import open_bundle
from edgecnn.spec import Format, Scheme

Cli = Callable[..., Outcome]
UNCALIBRATED = [scheme for scheme, row in schemes.SCHEMES.items() if not row.calibrated]


@pytest.fixture(scope="module")
def made(cli: Cli, finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the float bundle and one of each scheme, all in their files."""
    run = tmp_path_factory.mktemp("schemes") / "run"
    run.mkdir()
    (run / "float").symlink_to(finished_run / "float")
    for scheme in UNCALIBRATED:
        outcome = cli("compress", run, "--scheme", scheme, "--calibration-images", "64")
        assert outcome.code == 0, outcome.err
        outcome = cli("export", run / scheme)
        assert outcome.code == 0, outcome.err
    return run


@pytest.mark.parametrize("scheme", UNCALIBRATED)
def test_a_bundle_says_what_it_is_and_has_the_files_that_can_be(made: Path, scheme: Scheme) -> None:
    bundle = open_bundle(made / scheme)
    assert bundle.manifest.precision == scheme
    group = bundle.manifest.config["weight_group"]
    can = {f"model.{format}" for format in (Format.ONNX, Format.TFLITE) if not schemes.refusal(scheme, format, group)}
    assert {file.name for file in bundle.exports.glob("model.*") if file.suffix != ".json"} == can
    for name in can:
        facts = json.loads((bundle.exports / f"{name}.json").read_text())
        assert (facts["precision"], facts["parity"]["status"]) == (scheme, "ok")
    assert abs(bundle.manifest.figures["drop"]) < 3
    rungs = [rung["rung"] for rung in bundle.manifest.figures["ladder"]]
    assert rungs == (["plain"] if scheme is Scheme.FP16 else ["plain", "repaired"])


def test_verify_and_benchmark_have_a_row_for_each(cli: Cli, made: Path) -> None:
    outcome = cli("verify", made / "int4-weights", "--runtime", "onnxruntime", "--json")
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out)
    assert [row["stage"] for row in rows[:3]] == ["logits now", "int4-weights simulation", "onnx in onnxruntime"]
    outcome = cli("verify", made / "int8-dynamic", "--json")
    assert outcome.code == 0, outcome.err
    assert [row["status"] for row in json.loads(outcome.out) if row["stage"] == "tflite in tflm"] == ["unavailable"]
    words = ("--runtime", "onnxruntime,litert,tflm", "--restarts", "1", "--budget", "0.1", "--json")
    rows = json.loads(cli("benchmark", made / "int8-dynamic", *words).out)
    assert [(row["runtime"], row["precision"]) for row in rows] == [
        ("onnxruntime", "int8-dynamic"), ("litert", "int8-dynamic"), ("tflm", "int8-dynamic"),
    ]  # fmt: skip
    assert [row["top1"] is not None for row in rows] == [False, True, False]
    assert rows[0]["status"] == "unavailable" and "onnx cannot have int8-dynamic" in rows[0]["note"]
    assert "tflm cannot have int8-dynamic: it has no hybrid kernels" in rows[2]["note"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("export RUN/int8-dynamic --format onnx", "onnx cannot have: DynamicQuantizeLinear takes one range"),
        ("export RUN/int4-weights --format tflite", "--set steps.0.weight_group=0"),
        ("export RUN --format tflite", "int4-weights, which tflite cannot have"),
        ("compress RUN/float --scheme int8-dynamic --qat", "the scheme is int8-dynamic"),
        ("compress RUN/float --quantize fp16 --scheme int8-weights", "are two schemes"),
        ("compress RUN/float --scheme int3", "steps.0.scheme: Input should be 'int8', 'mixed'"),
        ("compress RUN/fp16 --quantize int8", "is fp16 already"),
        ("diagnose RUN/int8-weights", "it has no int8 numbers to explain"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(cli: Cli, made: Path, arguments: str, told: str) -> None:
    before = sorted(made.rglob("model.*"))
    outcome = cli(*arguments.replace("RUN", str(made)).split())
    assert outcome.code == 2, outcome
    assert told in outcome.err
    assert sorted(made.rglob("model.*")) == before
