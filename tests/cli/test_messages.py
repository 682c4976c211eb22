"""Mistakes a user makes: told in words, with the way out and exit code 2, and never with a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import Outcome, start_cli

Cli = Callable[..., Outcome]

GARBAGE = b"\x80\x81 this is neither text nor a model \xff\xfe"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("train nowhere -o RUN", "nowhere"),
        ("train digits -o RUN --model mobilenet_v9", "did you mean 'mobilenet_v"),
        ("train digits -o RUN --model timm:no_such_net", "no_such_net"),
        ("train digits -o RUN --width 0", "steps.0.width"),
        ("train digits -o RUN --lr -1", "steps.0.lr: Input should be greater than 0, found -1.0"),
        ("train digits -o RUN --optimizer adam", "steps.0.optimizer"),
        ("train digits -o RUN --activation gelu", "steps.0.activation"),
        ("train digits -o RUN --device tpu", "device"),
        ("train digits -o RUN --set cutot=3", "steps.0.cutot: there is no such setting, did you mean cutout?"),
        ("train digits -o RUN --set cutout", "has no '='"),
        ("train digits -o RUN --set cutout=[", "is not YAML"),
        ("train digits -o RUN --set output=../out", "steps.0.output"),
        ("train digits -o FILE/run", "Not a directory: FILE"),
        ("find-lr digits --model mobilenet_v9", "did you mean 'mobilenet_v"),
        ("find-lr digits --transfer features", "has no learning rate"),
        ("find-lr digits --set batch_size=33 --set repeat=2", "batch_size is a multiple of repeat"),
        ("compress RUN --prune 0.3", "RUN is not there"),
        ("compress FOLDER --prune 0.3", "is not a bundle: it has no manifest.json"),
        ("compress GOOD", "nothing to do"),
        ("compress GOOD --prune 1.5", "steps.0.ratio: Input should be less than 1, found 1.5"),
        ("compress GOOD --quantize int4", "steps.0.scheme: Input should be"),
        ("compress GOOD --quantize int8 --calibration-method maximum", "calibration_method"),
        ("compress GOOD --prune 0.3 --recovery-lr 0", "--recovery-lr"),
        ("compress GOOD --qat", "needs numbers to start from"),
        ("compress GOOD --quantize int8 --qat --qat-lr 0", "--qat-lr"),
        (
            "compress GOOD --quantize int8 --qat --set steps.0.qat.precision=bf16",
            "Input should be 'fp32', found 'bf16'",
        ),
        ("compress GOOD --quantize int8 --qat --set steps.0.qat.epoch=2", "did you mean epochs?"),
        ("compress GOOD/pruned-int8 --quantize int8", "is int8 already"),
        ("compress GOOD/pruned-int8 --prune 0.3", "float bundle it was made from"),
        ("diagnose GOOD", "it has no int8 numbers to explain"),
        ("diagnose FOLDER", "is not a bundle"),
        ("export GOOD --format tensorrt", "unknown format 'tensorrt'"),
        ("verify FOLDER", "is not a bundle"),
        ("benchmark GOOD --runtime onnxruntimes", "unknown 'onnxruntimes'"),
        ("benchmark GOOD --threads 0", "--threads '0' is not a list of positive numbers"),
        ("benchmark nowhere.onnx", "there is no nowhere.onnx"),
        ("benchmark FILE", "is neither a bundle nor a model"),
        ("benchmark GARBAGE.onnx", "garbage.onnx is not an ONNX file"),
        ("benchmark GARBAGE.tflite", "not a TFLite file"),
        ("benchmark MODEL.tflite --runtime torch,onnxruntime", "use litert, tflm, null"),
        ("evaluate MODEL.tflite --runtime onnxruntime --data digits", "onnxruntime does not read"),
        ("evaluate GOOD --runtime null", "computes nothing"),
        ("evaluate GOOD --runtime litert", "not exported: run edgecnn export"),
        ("evaluate GOOD --data nowhere", "nowhere"),
        ("predict GOOD nowhere.png", "nowhere.png"),
        ("predict GOOD FILE", "not a picture"),
        ("predict GOOD nowhere.png --mean 1,2", "neither one number nor three"),
        ("inspect mobilenet_v9", "unknown model 'mobilenet_v9'"),
        ("inspect runs/nowhere", "there is no bundle runs/nowhere"),
        ("inspect resnet8 --width 0", "width=0"),
        ("data check nowhere", "nowhere"),
        ("report nowhere", "nowhere is not there"),
        ("run nowhere.yaml -o RUN", "there is no recipe nowhere.yaml"),
        ("run GARBAGE.onnx -o RUN", "it is not text"),
        ("run FILE -o RUN", "is not a recipe"),
        ("run quickstart -o RUN --set steps.9.epochs=1", "there is no item '9'"),
        ("run quickstart -o RUN --set steps.1.input=pruned", "'pruned', which is not there"),
    ],
)
def test_a_mistake_is_told_in_words(cli: Cli, finished_run: Path, tmp_path: Path, arguments: str, told: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("just words")
    for suffix in ("onnx", "tflite"):
        (tmp_path / f"garbage.{suffix}").write_bytes(GARBAGE)
    shutil.copy(finished_run / "pruned-int8" / "exports" / "model.tflite", tmp_path)
    places = {"RUN": "run", "FOLDER": "folder", "FILE": "file.txt", "GARBAGE": "garbage", "MODEL": "model"}
    names = {word: str(tmp_path / name) for word, name in places.items()} | {"GOOD": str(finished_run)}
    for word, name in names.items():
        arguments, told = arguments.replace(word, name), told.replace(word, name)
    outcome = cli(*arguments.split())
    assert outcome.code == 2, outcome
    assert told in outcome.err
    assert outcome.err.startswith(("error: ", "Usage:", "[1/")), outcome.err
    assert not (tmp_path / "run" / "float").exists()


def test_wrong_flags_and_verbs_are_refused(cli: Cli) -> None:
    assert cli("trian").code == 2
    assert cli("train", "digits").code == 2
    assert cli("export", "x", "--fast").code == 2


@pytest.mark.parametrize(
    "verb", ["run", "train", "compress", "export", "verify", "benchmark", "report", "evaluate", "find-lr"]
)
def test_every_flag_of_every_verb_is_explained(cli: Cli, verb: str) -> None:
    outcome = cli(verb, "--help")
    assert outcome.code == 0
    lines = [line for line in outcome.out.splitlines() if line.startswith("  -")]
    options = outcome.out.split("Options:")[1]
    assert len(lines) >= 1
    for line in lines:
        words = options[options.index(line) + len(line) :].lstrip("\n")[:40]
        explained = "  " in line.strip().removeprefix("-") or words.startswith("      ")
        assert explained, line
    assert "PosixPath" not in outcome.out


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("evaluate", "pruned-int8/graph.safetensors"),
        ("verify", "pruned-int8/graph.json"),
        ("export", "pruned/channel_plan.json"),
        ("inspect", "pruned/weights.safetensors"),
    ],
)
def test_a_damaged_bundle_is_never_used(cli: Cli, run: Path, verb: str, name: str) -> None:
    file = run / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    outcome = cli(verb, file.parent)
    assert outcome.code == 2
    assert f"is damaged: {file.name} changed or missing" in outcome.err


@pytest.mark.parametrize("content", ["", "{", '{"schema_number": 1}', b"\xff\xfe"])
def test_a_broken_manifest_is_told(cli: Cli, run: Path, content: str | bytes) -> None:
    (run / "float" / "manifest.json").write_bytes(content.encode() if isinstance(content, str) else content)
    outcome = cli("inspect", run / "float")
    assert outcome.code == 2
    assert "manifest.json cannot be read: " in outcome.err
    assert "pydantic" not in outcome.err


def test_pictures_that_are_gone_or_changed_are_told(cli: Cli, run: Path) -> None:
    manifest = run / "float" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"source": "digits"', '"source": "/gone/away"'))
    outcome = cli("evaluate", run / "float")
    assert outcome.code == 2
    assert "say where they are now with --data" in outcome.err
    assert cli("evaluate", run / "float", "--data", "digits").code == 0
    digest = text.split('"digest": "')[1][:64]
    manifest.write_text(text.replace(digest, "0" * 64))
    assert "changed since" in cli("evaluate", run / "float").err


def test_a_real_process_shows_no_traceback(finished_run: Path) -> None:
    with start_cli("compress", finished_run / "pruned-int8", "--quantize", "int8") as process:
        _, err = process.communicate(timeout=600)
    assert process.returncode == 2
    assert err.startswith("error: ")
    assert "Traceback" not in err
