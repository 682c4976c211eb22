"""The whole chain as a user drives it, on one small run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from driving import PRUNE, TRAIN, Outcome, digest
from PIL import Image
from sklearn.datasets import load_digits

from edgecnn import recipe as recipes
from edgecnn.bundle import find_bundles, open_bundle

Cli = Callable[..., Outcome]


def test_the_run_has_its_stages_and_the_net_learned(finished_run: Path) -> None:
    found = {bundle.name: bundle for bundle in find_bundles(finished_run)}
    assert list(found) == ["float", "pruned", "pruned-int8"]
    assert found["float"].manifest.figures["test_top1"] > 0.9
    assert found["pruned-int8"].manifest.figures["test_top1"] > 0.8
    assert found["pruned"].manifest.figures["macs"] < 0.9 * found["float"].manifest.figures["macs"]
    assert found["pruned-int8"].manifest.precision == "int8"
    assert [each.name for each in finished_run.glob(".*")] == []


def test_manifests_name_parents_and_hash_every_file(finished_run: Path) -> None:
    for bundle in find_bundles(finished_run):
        bundle.check_hashes()
        here = {path.relative_to(bundle.path).as_posix() for path in bundle.path.rglob("*") if path.is_file()}
        growing = {name for name in here if name.startswith(("exports/", "measurements/"))}
        assert here - growing == {*bundle.manifest.files, "manifest.json"}
    parent = open_bundle(finished_run / "pruned-int8").parent()
    assert parent is not None
    assert parent.name == "pruned"


def test_the_same_commands_again_do_nothing(cli: Cli, run: Path) -> None:
    before = {path: digest(path) for path in run.rglob("*") if path.is_file()}
    (run / ".float.work").mkdir()
    again = cli("train", "digits", "-o", run, *TRAIN)
    assert again.code == 0
    assert "tiny/float is there already: skipped" in again.err
    assert not (run / ".float.work").exists()
    again = cli("compress", run, *PRUNE, "--quantize", "int8", "--calibration-images", 64)
    assert again.err.count("is there already: skipped") == 2
    assert cli("export", run / "pruned-int8").code == 0
    assert {path: digest(path) for path in run.rglob("*") if path.is_file()} == before


def test_other_settings_never_overwrite_a_bundle(cli: Cli, run: Path) -> None:
    before = digest(run / "float" / "manifest.json")
    outcome = cli("train", "digits", "-o", run, *TRAIN, "--seed", 1)
    assert outcome.code == 2
    assert "already holds a train bundle made with other settings" in outcome.err
    assert digest(run / "float" / "manifest.json") == before


def test_a_dry_run_prints_a_recipe_that_means_the_same(cli: Cli, run: Path, tmp_path: Path) -> None:
    printed = cli("train", "digits", "-o", run, *TRAIN, "--dry-run")
    (tmp_path / "train.yaml").write_text(printed.out)
    assert "already: skipped" in cli("run", tmp_path / "train.yaml", "-o", run).err
    printed = cli("compress", run, *PRUNE, "--quantize", "int8", "--calibration-images", 64, "--dry-run")
    (tmp_path / "compress.yaml").write_text(printed.out)
    again = cli("run", tmp_path / "compress.yaml", "-o", run)
    assert again.code == 0
    assert again.err.count("already: skipped") == 2
    assert cli("run", tmp_path / "compress.yaml", "-o", run, "--dry-run").out == printed.out


def test_the_recipe_in_a_bundle_makes_it_again(finished_run: Path) -> None:
    for bundle in find_bundles(finished_run):
        made = recipes.load(bundle.path / "recipe.yaml")
        assert (made.name, made.data) == (bundle.name, "digits")
        assert made.steps[0].kind == bundle.manifest.step


def test_verify_passes_and_reports_every_stage(cli: Cli, run: Path) -> None:
    outcome = cli("verify", run / "pruned-int8", "--json")
    assert outcome.code == 0, outcome.err
    rows = {row["stage"]: row for row in json.loads(outcome.out)}
    optional = {"onnx in openvino", "tflite in tflm"}
    assert [stage for stage in rows if stage not in optional] == [
        "logits now", "int8 simulation", "onnx in onnxruntime", "tflite in litert",
    ]  # fmt: skip
    assert optional < rows.keys()
    for stage, row in rows.items():
        assert row["status"] == "ok" or (stage in optional and row["status"] == "unavailable"), stage
    assert rows["logits now"]["max_error"] == 0


def test_benchmark_report_and_the_page(cli: Cli, run: Path) -> None:
    assert cli("report", run).code == 2
    quick = ("--restarts", 1, "--budget", 2)
    outcome = cli("benchmark", run / "pruned-int8", "--runtime", "onnxruntime,litert,null", *quick, "--json")
    assert outcome.code in (0, 5), outcome.err
    rows = json.loads(outcome.out)
    assert [row["runtime"] for row in rows] == ["onnxruntime", "litert", "null"]
    assert {row["status"] for row in rows} <= {"ok", "inconclusive"}
    assert rows[0]["top1"] == pytest.approx(rows[1]["top1"], abs=0.02)
    assert rows[2]["top1"] is None
    assert rows[2]["latency_ms"] < rows[0]["latency_ms"]
    assert all(row["size_bytes"] for row in rows[:2])
    outcome = cli("report", run)
    assert outcome.code == 0, outcome.err
    assert "pruned-int8" in (run / "report.html").read_text()
    assert len(json.loads((run / "report.json").read_text())) == 3
    assert cli("report", run / "pruned-int8").code == 2


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite"])
def test_a_foreign_file_is_measured_and_evaluated(cli: Cli, finished_run: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    shutil.copy(finished_run / "pruned-int8" / "exports" / name, file)
    outcome = cli("benchmark", file, "--restarts", 1, "--budget", 2, "--json")
    assert outcome.code in (0, 5), outcome.err
    (row,) = json.loads(outcome.out)
    assert (row["precision"], row["top1"], row["bundle"]) == ("int8", None, "")
    outcome = cli("evaluate", file, "--data", "digits", "--json")
    known = open_bundle(finished_run / "pruned-int8").manifest.figures["test_top1"]
    assert json.loads(outcome.out)["top1"] == pytest.approx(known, abs=0.02)
    assert "name them with --data" in cli("evaluate", file).err


def test_evaluate_in_torch_gives_the_figure_of_the_manifest(cli: Cli, finished_run: Path) -> None:
    outcome = cli("evaluate", finished_run / "pruned-int8", "--json")
    assert json.loads(outcome.out)["top1"] == open_bundle(finished_run / "pruned-int8").manifest.figures["test_top1"]


def test_predict_reads_pictures(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    digits = load_digits()
    pictures = []
    for index in (0, 1):
        Image.fromarray((digits.images[index] * 255 / 16).round().astype(np.uint8)).save(tmp_path / f"{index}.png")
        pictures.append(tmp_path / f"{index}.png")
    model = finished_run / "pruned-int8" / "exports" / "model.tflite"
    found = json.loads(cli("predict", model, *pictures, "--top", 2, "--json").out)
    assert [each["classes"][0][0] for each in found] == ["0", "1"]
    assert [len(each["classes"]) for each in found] == [2, 2]
    (tmp_path / "names.txt").write_text("a\nb\n")
    assert "2 labels for 10 outputs" in cli("predict", model, *pictures, "--labels", tmp_path / "names.txt").err


def test_inspect_names_layers_and_totals(cli: Cli, finished_run: Path) -> None:
    found = json.loads(cli("inspect", finished_run / "pruned-int8", "--json").out)
    figures = open_bundle(finished_run / "pruned").manifest.figures
    assert (found["params"], found["macs"]) == (figures["params"], figures["macs"])
    named = cli("inspect", "resnet8", "--classes", 10)
    assert named.code == 0
    assert "classifier" in named.out or "fc" in named.out
    assert "published: 78,186 parameters, 12.50 M MACs at 32 px with 10 classes" in named.out
    assert (found["layers"][0]["receptive_field"], found["layers"][-1]["receptive_field"]) == (3, "all")
    assert found["published"] == {"image_size": 224, "classes": 1000, "params": 3_504_872, "macs": 300e6}


def test_small_verbs_answer(cli: Cli, tmp_path: Path) -> None:
    assert "train: 1438 pictures" in cli("data", "check", "digits").out
    listed = cli("recipes")
    assert listed.code == 0
    assert "quickstart" in listed.out
    facts = json.loads(cli("doctor", "--json").out)
    assert facts["runtimes"]["onnxruntime"] == "ready"
    outcome = cli("run", "quickstart", "-o", tmp_path / "r", "--set", "steps.0.epochs=1", "--dry-run")
    assert recipes.parse(recipes.parse_yaml(outcome.out), "printed").steps[0].epochs == 1
    assert not (tmp_path / "r").exists()
