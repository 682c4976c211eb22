"""One bundle teaches another, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from driving import TRAIN, Outcome

from edgecnn.bundle import open_bundle

Cli = Callable[..., Outcome]


def test_a_bundle_teaches_another(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    outcome = cli("train", "digits", "-o", tmp_path, *TRAIN, "--teacher", finished_run / "float", "--set", "views=1")
    assert outcome.code == 0, outcome.err
    manifest = open_bundle(tmp_path / "float").manifest
    assert manifest.config["teacher"] == open_bundle(finished_run / "float").manifest.fingerprint
    again = cli("train", "digits", "-o", tmp_path, *TRAIN, "--teacher", finished_run / "float", "--set", "views=1")
    assert "is there already" in again.out + again.err


def test_a_teacher_that_cannot_be(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    for teacher, told in (("nobody", "there is no teacher"), (finished_run / "pruned-int8", "is quantized")):
        outcome = cli("train", "digits", "-o", tmp_path / "out", *TRAIN, "--teacher", teacher)
        assert outcome.code == 2
        assert told in outcome.err
    assert not (tmp_path / "out" / "float").exists()


def test_a_teacher_of_other_classes(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "val", "test"):
        for number, label in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / split / label
            folder.mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (16, 16), (100 * number, 10 * index, len(split))).save(folder / f"{index}.png")
    outcome = cli("train", tmp_path / "pets", "-o", tmp_path / "out", "--teacher", finished_run / "float")
    assert outcome.code == 2
    assert "these pictures have cat, dog" in outcome.err
