"""Several labels, and one logit for two classes, from the command line to the exported file."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from driving import TRAIN, Outcome
from PIL import Image
from sklearn.datasets import load_digits

from edgecnn.bundle import open_bundle
from edgecnn.errors import BundleError
from edgecnn.export.meta import read_meta
from edgecnn.spec import Task

Cli = Callable[..., Outcome]
LABELS = {"even": (0, 2, 4, 6, 8), "large": (5, 6, 7, 8, 9), "round": (0, 6, 8, 9)}
SHORT = ("--batch-size", 16, "--epochs", 4, "--set", "momentum=0.8")
QUANTIZE = ("--quantize", "int8", "--calibration-images", 64)


def told(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    return outcome.out


def write_digits(folder: Path, digits: tuple[int, ...], count: int) -> list[tuple[Path, int]]:
    """The first so many of scikit-learn's digits that are one of these, as files in folders by digit."""
    whole = load_digits()
    found = []
    for number in [n for n, digit in enumerate(whole.target) if digit in digits][:count]:
        path = folder / str(whole.target[number]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((whole.images[number] * 255 / 16).round().astype(np.uint8)).save(path)
        found.append((path, int(whole.target[number])))
    return found


def finish(cli: Cli, run: Path) -> Path:
    """Quantize a trained run, export and verify the int8 bundle, and return it."""
    told(cli("compress", run, *QUANTIZE))
    told(cli("export", run / "int8"))
    rows = json.loads(told(cli("verify", run / "int8", "--json")))
    assert {row["status"] for row in rows} == {"ok"}
    assert {"onnx in onnxruntime", "tflite in litert", "int8 simulation"} <= {row["stage"] for row in rows}
    return run / "int8"


@pytest.fixture(scope="module")
def labelled(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[tuple[Path, int]]]:
    """A finished run of several labels, its table, and the pictures in it."""
    folder = tmp_path_factory.mktemp("several")
    pictures = write_digits(folder / "pictures", tuple(range(10)), 300)
    names = [(path, [name for name, digits in LABELS.items() if digit in digits]) for path, digit in pictures]
    lines = ["file,labels", *(f"{path.relative_to(folder)},{'|'.join(found)}" for path, found in names)]
    (folder / "set.csv").write_text("\n".join(lines))
    told(cli("train", folder / "set.csv", "-o", folder / "run", *TRAIN, *SHORT))
    finish(cli, folder / "run")
    return folder / "run", folder / "set.csv", pictures


@pytest.fixture(scope="module")
def binary(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run of one logit, and its pictures."""
    folder = tmp_path_factory.mktemp("binary")
    write_digits(folder / "pictures", (0, 1), 200)
    told(cli("train", folder / "pictures", "-o", folder / "run", *TRAIN, *SHORT, "--set", "task=binary"))
    finish(cli, folder / "run")
    return folder / "run", folder / "pictures"


def test_a_table_of_labels_trains_a_network_of_labels(labelled: tuple[Path, Path, list[tuple[Path, int]]]) -> None:
    made = open_bundle(labelled[0] / "float")
    figures = made.manifest.figures
    assert (made.task, made.manifest.labels, made.manifest.builder["num_classes"]) == ("multi_label", [*LABELS], 3)
    assert made.manifest.config["task"] == "multi_label"
    assert figures["test_map"] > 0.8 and figures["test_map_low"] <= figures["test_map"] <= figures["test_map_high"]
    assert 0.3 < figures["test_top1"] <= figures["test_label_accuracy"]
    with made.file("history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row["val_map"]))
    assert figures["val_map"] == float(best["val_map"]) and figures["val_top1"] == float(best["val_top1"])
    small = open_bundle(labelled[0] / "int8").manifest
    assert small.task == "multi_label" and abs(small.figures["drop_map"]) < 10


def test_labels_are_verified_evaluated_and_shown(
    cli: Cli, labelled: tuple[Path, Path, list[tuple[Path, int]]], tmp_path: Path
) -> None:
    run, table, _ = labelled
    rows = json.loads(next((run / "int8" / "measurements").glob("parity-*.json")).read_text())
    assert all(0 <= row["equal_sets"] <= row["agreement"] <= 1 for row in rows)
    facts = json.loads(told(cli("evaluate", run / "int8", "--runtime", "litert", "--metrics", "--json")))
    metrics, figures = facts["metrics"], open_bundle(run / "int8").manifest.figures
    assert (facts["task"], facts["top1"]) == ("multi_label", metrics["exact_match"]["value"])
    assert metrics["mean_average_precision"]["value"] == pytest.approx(figures["test_map"], abs=0.01)
    assert [each["label"] for each in metrics["classes"]] == [*LABELS] and "confusion" not in metrics
    assert sum(metrics["classes"][0]["counts"].values()) == facts["images"]
    lines = told(cli("evaluate", run / "int8", "--runtime", "litert", "--metrics")).splitlines()
    assert "exact match" in lines[0] and re.match(r"  mAP  .*\d+\.\d+ %  \(\d", lines[2])
    again = json.loads(told(cli("evaluate", run / "int8" / "exports" / "model.onnx", "--data", table, "--json")))
    assert again["top1"] == pytest.approx(facts["top1"], abs=0.03)
    told(cli("evaluate", run / "int8", "--runtime", "litert", "--html", tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert re.findall(r'<section id="(\w+)"', page) == [
        "figures",
        "decisions",
        "calibration",
        "ranking",
        "classes",
        "worst",
    ]
    told(cli("benchmark", run / "int8", "--runtime", "litert", "--restarts", 1, "--budget", 2, "--json"))
    told(cli("report", run))
    assert "Exact match, %" in (run / "report.html").read_text() and "mAP" in (run / "report.html").read_text()


def test_predict_names_every_label_above_one_half(
    cli: Cli, labelled: tuple[Path, Path, list[tuple[Path, int]]]
) -> None:
    run, _, pictures = labelled
    file = run / "int8" / "exports" / "model.onnx"
    meta = read_meta(file)
    assert (meta["task"], meta["activation"], json.loads(meta["logits"])) == ("multi_label", "sigmoid", [*LABELS])
    shown = [path for path, _ in pictures[:60]]
    found = json.loads(told(cli("predict", file, *shown, "--top", 1, "--json")))
    assert all(share > 0.5 for each in found for _, share in each["classes"])
    assert max(len(each["classes"]) for each in found) > 1  # --top is for classes
    right = [
        {name for name, _ in each["classes"]} == {name for name, digits in LABELS.items() if digit in digits}
        for each, (_, digit) in zip(found, pictures, strict=False)
    ]
    assert np.mean(right) > 0.4
    text = told(cli("predict", file, *shown)).splitlines()
    without = [line for line, each in zip(text, found, strict=True) if not each["classes"]]
    assert without and all(re.search(r": no label \(nearest: \w+ \d+\.\d %\)$", line) for line in without)


def test_one_logit_says_the_second_of_two_classes(cli: Cli, binary: tuple[Path, Path]) -> None:
    run, pictures = binary
    made = open_bundle(run / "int8")
    assert (made.task, made.manifest.labels, made.manifest.builder["num_classes"]) == ("binary", ["0", "1"], 1)
    assert made.manifest.figures["test_top1"] > 0.8
    file = run / "int8" / "exports" / "model.onnx"
    meta = read_meta(file)
    assert (meta["task"], meta["activation"], json.loads(meta["logits"])) == ("binary", "sigmoid", ["1"])
    assert onnx.load(file).graph.output[0].type.tensor_type.shape.dim[1].dim_value == 1
    facts = json.loads(told(cli("evaluate", file, "--data", pictures, "--metrics", "--json")))
    assert facts["top1"] == pytest.approx(made.manifest.figures["test_top1"], abs=0.04)
    assert np.array(facts["metrics"]["confusion"]).shape == (2, 2) and facts["metrics"]["roc_auc"]["value"] > 0.9
    (found,) = json.loads(told(cli("predict", file, next((pictures / "1").iterdir()), "--json")))
    (best, share), (other, rest) = found["classes"]
    assert {best, other} == {"0", "1"} and share >= 0.5 and share + rest == pytest.approx(1)
    outcome = cli("benchmark", run / "int8", "--runtime", "onnxruntime", "--restarts", 1, "--budget", 2, "--json")
    (row,) = json.loads(outcome.out)
    assert (row["task"], row["top1"]) == ("binary", pytest.approx(facts["top1"], abs=0.04))


def test_a_file_without_metadata_is_known_by_its_one_output(
    cli: Cli, binary: tuple[Path, Path], tmp_path: Path
) -> None:
    run, pictures = binary
    model = onnx.load(run / "int8" / "exports" / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "logits.onnx")
    (last,) = [node for node in model.graph.node if "logits" in node.output]
    last.op_type = "Sigmoid"  # it was an Identity
    onnx.save(model, tmp_path / "odds.onnx")
    known = json.loads(told(cli("evaluate", run / "int8", "--runtime", "onnxruntime", "--metrics", "--json")))
    for name in ("logits.onnx", "odds.onnx"):
        found = json.loads(told(cli("evaluate", tmp_path / name, "--data", pictures, "--metrics", "--json")))
        assert (found["task"], found["top1"]) == ("binary", known["top1"])
        assert found["metrics"]["loss"]["value"] == pytest.approx(known["metrics"]["loss"]["value"], rel=1e-3)
    outcome = cli("evaluate", tmp_path / "logits.onnx", "--data", "digits")
    assert outcome.code == 2 and "1 outputs and the data a class number 9" in outcome.err


def test_one_logit_and_two_teach_each_other(cli: Cli, binary: tuple[Path, Path], tmp_path: Path) -> None:
    run, pictures = binary
    more = ("--epochs", 1, "--set", "output=two", "--teacher", run / "float")
    told(cli("train", pictures, "-o", tmp_path, *TRAIN, *more))
    assert open_bundle(tmp_path / "two").manifest.builder["num_classes"] == 2
    more = ("--epochs", 1, "--set", "task=binary", "--set", "views=1", "--teacher", tmp_path / "two")
    told(cli("train", pictures, "-o", tmp_path, *TRAIN, *more))
    assert open_bundle(tmp_path / "float").manifest.builder["num_classes"] == 1


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_features_fit_one_logit_and_labels(
    cli: Cli, binary: tuple[Path, Path], labelled: tuple[Path, Path, list[tuple[Path, int]]], tmp_path: Path, kind: str
) -> None:
    frozen = ("--transfer", "features", "--set", f"classifier={kind}")
    weights = binary[0] / "float" / "weights.safetensors"
    told(
        cli("train", binary[1], "-o", tmp_path / "b", *TRAIN, "--set", "task=binary", "--pretrained", weights, *frozen)
    )
    assert open_bundle(tmp_path / "b" / "float").manifest.figures["test_top1"] > 0.8
    weights = labelled[0] / "float" / "weights.safetensors"
    told(cli("train", labelled[1], "-o", tmp_path / "l", *TRAIN, "--pretrained", weights, *frozen))
    assert open_bundle(tmp_path / "l" / "float").manifest.figures["test_map"] > 0.8


def test_tasks_that_do_not_fit_are_refused_before_anything_is_done(
    cli: Cli, binary: tuple[Path, Path], labelled: tuple[Path, Path, list[tuple[Path, int]]], tmp_path: Path
) -> None:
    run, pictures = binary
    for source, more, words in (
        ("digits", ("--set", "task=binary"), "task binary: digits has 10 classes"),
        (pictures, ("--set", "task=multi_label"), "one class"),
        (labelled[1], ("--set", "task=binary"), "several labels"),
        (labelled[1], ("--teacher", run / "float"), "is for the task binary, this training for multi_label"),
        ("digits", ("--set", "grey=true", "--set", "hue=0.1"), "grey pictures have no hue"),
        ("digits", ("--set", "task=both"), "task"),
    ):
        outcome = cli("train", source, "-o", tmp_path / "run", *TRAIN, *more)
        assert outcome.code == 2 and words in outcome.err, outcome.err
        assert not (tmp_path / "run" / "float").exists()
    outcome = cli("evaluate", run / "float", "--data", labelled[1])
    assert outcome.code == 2 and "is for the task binary" in outcome.err


def test_the_same_task_said_or_not_is_the_same_training(
    cli: Cli, finished_run: Path, labelled: tuple[Path, Path, list[tuple[Path, int]]]
) -> None:
    said = cli("train", "digits", "-o", finished_run, *TRAIN, "--set", "task=multi_class", "--set", "grey=false")
    assert "is there already: skipped" in said.err
    said = cli("train", labelled[1], "-o", labelled[0], *TRAIN, *SHORT, "--set", "task=multi_label")
    assert "is there already: skipped" in said.err


def test_a_bundle_from_before_there_was_a_choice_is_for_classes_in_rgb(run: Path) -> None:
    file = run / "float" / "manifest.json"
    manifest = json.loads(file.read_text())
    assert manifest.pop("task") == "multi_class" and "channels" not in manifest["builder"]
    file.write_text(json.dumps(manifest))
    assert open_bundle(run / "float").task is Task.MULTI_CLASS
    file.write_text(json.dumps({**manifest, "task": "regression"}))
    with pytest.raises(BundleError, match="task 'regression'"):
        _ = open_bundle(run / "float").task


def test_folds_of_labels_have_a_mean_average_precision(
    cli: Cli, labelled: tuple[Path, Path, list[tuple[Path, int]]], tmp_path: Path
) -> None:
    outcome = cli("train", labelled[1], "-o", tmp_path / "cv", *TRAIN, *SHORT, "--epochs", 1, "--folds", 2)
    assert "2 folds: test exact match" in told(outcome) and "test mAP" in outcome.out
    facts = json.loads((tmp_path / "cv" / "folds.json").read_text())
    assert facts["test_map"]["mean"] == pytest.approx(np.mean([each["test_map"] for each in facts["each"]]))
