"""Quantization-aware training from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from driving import Outcome, digest

from edgecnn.bundle import open_bundle
from edgecnn.data.source import open_data
from edgecnn.data.tensors import load_split
from edgecnn.pipeline.loading import load_graph, predictor, preprocess_of
from edgecnn.spec import Split

Cli = Callable[..., Outcome]
INT8 = ("--quantize", "int8", "--calibration-images", 64, "--set", "steps.0.threads=1")


def test_numbers_are_trained_written_and_exported_as_any_others(cli: Cli, run: Path) -> None:
    command = ("compress", run / "float", *INT8, "--qat", "--qat-epochs", 1)
    outcome = cli(*command)
    assert outcome.code == 0, outcome.err
    assert "after 1 epoch of training" in outcome.err
    bundle = open_bundle(run / "int8")
    figures, graph = bundle.manifest.figures, load_graph(bundle)
    assert figures["qat_epochs"] == 1
    kept = "qat" if figures["qat_kept"] else "ptq"
    assert figures[f"val_top1_{kept}"] == max(figures["val_top1_ptq"], figures["val_top1_qat"])
    val = load_split(open_data("digits"), Split.VAL, preprocess_of(bundle))
    assert figures[f"val_top1_{kept}"] == np.mean(predictor(bundle)(val.images).argmax(1) == val.labels)
    assert (bundle.path / "history.csv").is_file() and not list(run.glob(".*"))
    assert {array.dtype.name for array in graph.weights.values()} == {"int8", "int32"}
    stage = "after int8 training" if figures["qat_kept"] else "int8 simulation"
    assert stage in cli("verify", run / "int8").out
    exported = cli("export", run / "int8")
    assert exported.code == 0, exported.err
    assert "already: skipped" in cli(*command).err


def test_a_training_that_does_harm_changes_nothing(cli: Cli, run: Path) -> None:
    harmed = cli("compress", run / "float", *INT8, "--qat", "--qat-epochs", 1, "--qat-lr", 0.9)
    assert "the calibrated numbers are kept" in harmed.err, harmed.err
    assert cli("compress", run / "float", *INT8, "--set", "steps.0.output=plain").code == 0
    kept, plain = open_bundle(run / "int8"), open_bundle(run / "plain")
    assert kept.manifest.figures["qat_kept"] is False
    assert "qat_epochs" not in plain.manifest.figures
    same = [name for name in plain.manifest.files if name.endswith((".safetensors", ".npz")) or name == "graph.json"]
    assert len(same) > 1
    assert all(digest(kept.path / name) == digest(plain.path / name) for name in same)


def test_the_pictures_are_augmented_as_the_parent_had_them(cli: Cli, run: Path) -> None:
    printed = cli("compress", run / "float", *INT8, "--qat", "--dry-run", "--set", "steps.0.qat.shift=2")
    assert printed.code == 0, printed.err
    wanted = ("flip: false", "batch_size: 32", "shift: 2", "precision: fp32", "lr: 0.001", "epochs: 3")
    assert [line for line in wanted if line not in printed.out] == []
