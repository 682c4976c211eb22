"""A planted fault is found: exit code 3, the first layer that diverges by its name, and no such file is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driving import Outcome

from edgecnn import catalog
from edgecnn.bundle import open_bundle
from edgecnn.errors import GateError
from edgecnn.export.onnx import render
from edgecnn.graph.ir import Graph, Op
from edgecnn.pipeline import verifying
from edgecnn.pipeline.context import Context
from edgecnn.pipeline.loading import load_graph
from edgecnn.report.rows import ParityRow
from edgecnn.spec import Format, Runtime, Status

Cli = Callable[..., Outcome]


def third_conv(graph: Graph) -> str:
    return [node.name for node in graph.nodes if node.op is Op.CONV][2]


def with_permuted_channels(graph: Graph) -> Graph:
    """The graph with the output channels of its third convolution in another order."""
    name = f"{third_conv(graph)}.weight"
    return dataclasses.replace(graph, weights={**graph.weights, name: graph.weights[name][::-1].copy()})


def faulty(graph: Graph, path: Path, *, meta: dict[str, str]) -> None:
    render(with_permuted_channels(graph), path, meta=meta)


faulty_row = dataclasses.replace(catalog.FORMATS[Format.ONNX], target="test_parity_gate:faulty")


def test_a_faulty_renderer_is_caught_and_its_file_not_kept(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalog.FORMATS, Format.ONNX, faulty_row)
    bundle = open_bundle(run / "pruned-int8")
    layer = third_conv(load_graph(bundle))
    (bundle.exports / "model.onnx").unlink()
    outcome = cli("export", bundle.path, "--format", "onnx")
    assert outcome.code == 3
    assert f"first layer that diverges: {layer} (" in outcome.err
    assert "the file was not kept" in outcome.err
    assert sorted(each.name for each in bundle.exports.iterdir() if "onnx" in each.name) == ["model.onnx.json"]
    outcome = cli("export", bundle.path, "--format", "onnx", "--force")
    assert outcome.code == 0
    assert json.loads((bundle.exports / "model.onnx.json").read_text())["parity"]["status"] == "failed"
    assert (bundle.exports / "model.onnx").is_file()


def test_verify_names_the_layer_of_a_tampered_file(cli: Cli, run: Path) -> None:
    bundle = open_bundle(run / "pruned-int8")
    graph = load_graph(bundle)
    faulty(graph, bundle.exports / "model.onnx", meta={})
    outcome = cli("verify", bundle.path, "--json")
    assert outcome.code == 3
    rows = {row["stage"]: row for row in json.loads(outcome.out)}
    assert rows["onnx in onnxruntime"]["first_divergence"] == third_conv(graph)
    assert rows["tflite in litert"]["status"] == "ok"
    assert "export it again" in outcome.err
    again = cli("export", bundle.path)
    assert again.code == 0
    assert cli("verify", bundle.path).code == 0


def test_a_broken_file_is_a_failed_row(cli: Cli, run: Path) -> None:
    (run / "pruned-int8" / "exports" / "model.tflite").write_bytes(b"garbage")
    outcome = cli("verify", run / "pruned-int8")
    assert outcome.code == 3
    assert "tflite in litert" in outcome.err


def test_files_are_verified_in_every_runtime_and_missing_ones_are_skipped(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = catalog.engines()
    monkeypatch.setattr(catalog, "engines", lambda: {**here, "tflm": "not installed: pip install 'edgecnn[tflm]'"})
    outcome = cli("verify", run / "pruned-int8", "--runtime", "onnxruntime", "--runtime", "tflm", "--json")
    assert outcome.code == 0, outcome.err
    rows = {row["stage"]: row for row in json.loads(outcome.out) if row["parent"] == "graph"}
    assert list(rows) == ["onnx in onnxruntime", "tflite in tflm"]
    assert rows["onnx in onnxruntime"]["max_steps"] <= 5 and rows["onnx in onnxruntime"]["near_ties"] is not None
    skipped = rows["tflite in tflm"]
    assert (skipped["status"], skipped["agreement"]) == ("unavailable", None)
    assert skipped["note"] == "skipped: not installed: pip install 'edgecnn[tflm]'"
    stages = [row.stage for row in verifying.verify(Context(run), open_bundle(run / "pruned-int8"))]
    assert stages[2:] == ["onnx in onnxruntime", "onnx in openvino", "tflite in litert", "tflite in tflm"]


def test_a_file_that_cannot_be_compared_is_not_kept(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = catalog.engines()
    monkeypatch.setattr(catalog, "engines", lambda: {**here, "litert": "not installed: pip install 'edgecnn[litert]'"})
    bundle = open_bundle(run / "pruned-int8")
    file = bundle.exports / "model.tflite"
    file.unlink()
    outcome = cli("export", bundle.path, "--format", "tflite")
    assert outcome.code == 3 and "cannot be compared" in outcome.err and "pip install" in outcome.err
    assert not file.exists()
    assert cli("export", bundle.path, "--format", "tflite", "--no-verify").code == 0


def test_a_slow_runtime_is_given_fewer_pictures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(run / "pruned-int8")
    slow = dataclasses.replace(catalog.RUNTIMES[Runtime.LITERT], macs_per_s=bundle.manifest.figures["macs"] / 4)
    monkeypatch.setitem(catalog.RUNTIMES, Runtime.LITERT, slow)
    monkeypatch.setattr(verifying, "SLOW_SECONDS", 50.0)
    subject = verifying.subject_of(Context(run), bundle)
    row = verifying.export_row(subject, Format.TFLITE, bundle.exports / "model.tflite")
    assert (row.images, row.status) == (12, Status.OK)


def failed(stage: str) -> ParityRow:
    return ParityRow(stage, "float", "r/pruned", status=Status.FAILED, note="agreement 0.5")


def test_a_run_goes_on_when_only_a_network_trained_again_answers_otherwise(tmp_path: Path) -> None:
    told: list[str] = []
    context = Context(tmp_path, tell=told.append)
    verifying.gate_files(context, [failed(verifying.PRUNED), failed(verifying.LEARNED)])
    assert told == ["warning: r/pruned compared with float: agreement 0.5"] * 2
    verifying.gate_files(context, [failed("onnx in openvino")])
    assert told[2:] == ["warning: r/pruned, onnx in openvino, compared with float: agreement 0.5"]
    with pytest.raises(GateError):
        verifying.gate_files(context, [failed(verifying.PRUNED), failed("onnx in onnxruntime")])


@pytest.mark.parametrize(
    ("stage", "advice"),
    [
        (verifying.PRUNED, "prune less or recover longer"),
        (verifying.LEARNED, "higher distill_weight"),
        (verifying.SIMULATED["int8"], "calibrate with more images"),
        (verifying.GOLDEN, "compare the versions"),
        ("tflite in litert", "export it again"),
        ("tflite in tflm", "says what that costs"),
    ],
)
def test_the_advice_fits_the_stage(stage: str, advice: str) -> None:
    with pytest.raises(GateError) as caught:
        verifying.gate([failed(stage)])
    assert advice in caught.value.hint
    assert "agreement 0.5" in caught.value.message


def test_files_are_written_without_verification_when_the_pictures_are_gone(cli: Cli, run: Path) -> None:
    manifest = run / "pruned-int8" / "manifest.json"
    facts: dict[str, Any] = json.loads(manifest.read_text())
    facts["data"]["source"] = "/gone/away"
    manifest.write_text(json.dumps(facts))
    command = ("export", run / "pruned-int8", "--format", "onnx", "--force")
    assert "say where they are now" in cli(*command).err
    assert cli(*command, "--no-verify").code == 0


def test_a_file_of_integers_is_written_verified_and_replaced_by_one_for_pictures(cli: Cli, run: Path) -> None:
    bundle = run / "pruned-int8"
    facts = bundle / "exports" / "model.tflite.json"
    for io in ("int8", "picture"):
        outcome = cli("export", bundle, "--io", io, "--format", "tflite")
        assert outcome.code == 0, outcome.err
        assert json.loads(facts.read_text())["io"] == io
        assert json.loads(facts.read_text())["parity"]["status"] == "ok"


@pytest.mark.parametrize(("stage", "more"), [("float", ()), ("pruned-int8", ("--format", "onnx"))])
def test_integers_are_not_for_every_bundle_and_format(
    cli: Cli, finished_run: Path, stage: str, more: tuple[str, ...]
) -> None:
    outcome = cli("export", finished_run / stage, "--io", "int8", *more)
    assert outcome.code == 2
    assert "int8" in outcome.err
