"""Grey pictures from the command line to the exported file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from driving import TRAIN
from PIL import Image
from sklearn.datasets import load_digits
from test_task_commands import SHORT, Cli, finish, told, write_digits

from edgecnn.bundle import open_bundle
from edgecnn.export.meta import read_meta


def test_grey_pictures_from_training_to_the_file(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "pictures", tuple(range(10)), 300)
    more = (*SHORT, "--set", "grey=true", "--teacher", finished_run / "float")
    told(cli("train", tmp_path / "pictures", "-o", tmp_path / "run", *TRAIN, *more))
    small = finish(cli, tmp_path / "run")
    made = open_bundle(small)
    assert made.manifest.builder["channels"] == 1 and len(made.manifest.preprocess["mean"]) == 1
    assert made.manifest.figures["test_top1"] > 0.5
    assert np.load(made.file("golden.npz"))["images"].shape[1:] == (16, 16, 1)
    file = small / "exports" / "model.onnx"
    shape = onnx.load(file).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in shape][1:] == [16, 16, 1] and read_meta(file)["channels"] == "grey"
    pixels = (load_digits().images[3] * 255 / 16).round().astype(np.uint8)
    for name, picture in (("l.png", Image.fromarray(pixels)), ("rgb.png", Image.fromarray(pixels).convert("RGB"))):
        picture.save(tmp_path / name)
    for name in ("model.onnx", "model.tflite"):
        grey, rgb = json.loads(
            told(cli("predict", small / "exports" / name, tmp_path / "l.png", tmp_path / "rgb.png", "--json"))
        )
        assert grey["classes"] == rgb["classes"]
    facts = json.loads(
        told(cli("benchmark", small / "exports" / "model.tflite", "--restarts", 1, "--budget", 2, "--json"))
    )
    assert facts[0]["status"] in ("ok", "inconclusive") and facts[0]["latency_ms"] > 0
    told(cli("evaluate", small, "--runtime", "litert", "--html", tmp_path / "page.html"))
    assert (tmp_path / "page.html").read_text().count("data:image/png") == 24
    outcome = cli("train", "digits", "-o", tmp_path / "rgb", *TRAIN, "--teacher", tmp_path / "run" / "float")
    assert outcome.code == 2 and "knows grey pictures only" in outcome.err
    coloured, plain = (
        json.loads(told(cli("inspect", "resnet8", "--classes", 10, "--json", *more))) for more in ((), ("--grey",))
    )
    assert coloured["macs"] - plain["macs"] == 2 * plain["layers"][0]["macs"]


def test_grey_samples_are_drawn(cli: Cli, tmp_path: Path) -> None:
    small = ("--image-size", 16, "--rows", 2, "--columns", 3)
    told(
        cli(
            "data", "preview", "digits", "-o", tmp_path / "s.png", *small, "--set", "grey=true", "--set", "trivial=true"
        )
    )
    with Image.open(tmp_path / "s.png") as sheet:
        assert (sheet.mode, sheet.size) == ("L", (60, 40))
    outcome = cli(
        "data", "preview", "digits", "-o", tmp_path / "h.png", *small, "--set", "grey=true", "--set", "hue=0.2"
    )
    assert outcome.code == 2 and "no hue" in outcome.err
