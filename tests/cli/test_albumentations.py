"""A pipeline of Albumentations in a file: previewed, trained with, kept in the bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import TRAIN, Outcome

from edgecnn import recipe as recipes
from edgecnn.bundle import open_bundle


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    pytest.importorskip("albumentations", reason="albumentations is not installed: pip install edgecnn[albumentations]")


def test_a_pipeline_from_a_file_is_trained_with_and_kept(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    file, run = tmp_path / "light.yaml", tmp_path / "run"
    file.write_text("- Affine: {rotate: [-15, 15], p: 0.7}\n- GaussNoise\n")
    command = ("train", "digits", "-o", run, *TRAIN, "--epochs", 1)
    outcome = cli(*command, "--set", f"albumentations={file}")
    assert outcome.code == 0, outcome.err
    wanted = [{"Affine": {"rotate": [-15, 15], "p": 0.7}}, {"GaussNoise": {}}]
    made = open_bundle(run / "float")
    assert made.manifest.config["albumentations"] == wanted
    assert "albumentations" in made.manifest.versions
    step = recipes.load(made.path / "recipe.yaml").steps[0]
    assert getattr(step, "albumentations", None) == wanted

    same = file.rename(tmp_path / "renamed.yaml")
    assert "skipped" in cli(*command, "--set", f"albumentations={same}").err
    same.write_text("- GaussNoise\n")
    other = cli(*command, "--set", f"albumentations={same}")
    assert other.code == 2 and "other settings" in other.err


@pytest.mark.parametrize("verb", ["train", "preview"])
def test_mistakes_are_told_before_anything_is_made(tmp_path: Path, cli: Callable[..., Outcome], verb: str) -> None:
    out = tmp_path / "out"
    setting = ("--set", f"albumentations={json.dumps([{'Blur': {'limit': 3}}])}")
    where = ("train", "digits", "-o", out, *TRAIN) if verb == "train" else ("data", "preview", "digits", "-o", out)
    outcome = cli(*where, *setting)
    assert outcome.code == 2
    assert "Blur cannot be made" in outcome.err and "'limit'" in outcome.err
    assert not out.exists()


def test_the_preview_shows_the_pipeline(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    plain, first, again = (tmp_path / f"{name}.png" for name in ("plain", "first", "again"))
    flags = ("--image-size", 16, "--rows", 2, "--columns", 3, "--set", "flip=false")
    assert cli("data", "preview", "digits", "-o", plain, *flags).code == 0
    for out in (first, again):
        assert cli("data", "preview", "digits", "-o", out, *flags, "--set", "albumentations=[GaussNoise]").code == 0
    assert first.read_bytes() == again.read_bytes() != plain.read_bytes()
