"""``edgecnn data split`` writes tables that ``train`` takes, and ``train --folds`` cross-validates."""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from driving import TRAIN, Outcome
from PIL import Image

Cli = Callable[..., Outcome]
TINY = (*TRAIN, "--epochs", "1", "--set", "warmup_epochs=0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, bright and dark, of 24 pictures each: four of each of six patients."""
    numbers = np.random.default_rng(0)
    for label, level in (("bright", 170), ("dark", 60)):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for index in range(24):
            pixels = np.clip(numbers.normal(level, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{label[0]}{index // 4}_{index % 4}.png")
    return tmp_path / "photos"


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open() as lines:
        return list(csv.DictReader(lines))


def test_a_split_keeps_patients_together_and_is_a_source(cli: Cli, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "tables" / "split.csv"
    arguments = ("data", "split", photos, "--group-by", r"/(\w\d)_", "--folds", "3", "-o", table)
    outcome = cli(*arguments, "--fractions", "0.6,0.2,0.2")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == "train: 32 pictures in 8 groups; bright 16, dark 16"
    assert lines[2] == "test: 8 pictures in 2 groups; bright 4, dark 4"
    assert lines[-2:] == ["fold 3: 16 pictures in 4 groups; bright 8, dark 8", str(table)]
    rows = rows_of(table)
    assert len(rows) == 48 and list(rows[0]) == ["file", "label", "split", "fold", "group"]
    assert rows[0]["file"] == "../photos/bright/b0_0.png"
    places = defaultdict(set)
    for row in rows:
        places[row["group"]].add((row["split"], row["fold"]))
    assert len(places) == 12 and all(len(found) == 1 for found in places.values())
    before = table.read_text()
    assert cli(*arguments, "--fractions", "0.6,0.2,0.2").code == 0 and table.read_text() == before
    checked = json.loads(cli("data", "check", table, "--json").out)
    assert checked["splits"]["test"] == {"bright": 4, "dark": 4}


def test_a_column_tells_groups_too(cli: Cli, photos: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    assert cli("data", "split", photos, "-o", first).out.startswith("train: 38 pictures; bright 19, dark 19")
    text = [line + "," + Path(line.split(",")[0]).name[:2] for line in first.read_text().splitlines()[1:]]
    first.write_text("\n".join(["file,label,split,Plant", *text]))
    outcome = cli("data", "split", first, "--group-column", "plant", "-o", second, "--seed", "1")
    assert outcome.code == 0, outcome.err
    assert {row["group"] for row in rows_of(second) if row["split"] == "val"} == {
        Path(row["file"]).name[:2] for row in rows_of(second) if row["split"] == "val"
    }


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--group-by", "(patient)"), "finds no group in 48 of 48 pictures"),
        (("--group-by", "photo"), "has no capture group"),
        (("--group-by", "("), "not a regular expression"),
        (("--group-by", "(bright|dark)"), "all 24 pictures of class 'bright' are in 1 group (bright), and 3 parts"),
        (("--group-by", "(b)", "--group-column", "x"), "groups are told in two ways"),
        (("--group-column", "x"), "is not a table"),
        (("--fractions", "0.5,0.5"), "three numbers"),
        (("--fractions", "0.5,0.5,0.5"), "sum to 1"),
        (("--folds", "25"), "class 'bright' has 24 pictures"),
    ],
)
def test_splits_that_cannot_be(cli: Cli, photos: Path, tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    outcome = cli("data", "split", photos, "-o", tmp_path / "split.csv", *flags)
    assert outcome.code == 2 and words in outcome.err and "Traceback" not in outcome.err
    assert not (tmp_path / "split.csv").exists()


def test_sources_and_places_that_cannot_be(cli: Cli, photos: Path, tmp_path: Path) -> None:
    assert "is not called .csv" in cli("data", "split", photos, "-o", tmp_path / "split.txt").err
    assert "not files" in cli("data", "split", "digits", "-o", tmp_path / "split.csv").err
    assert cli("data", "split", photos, "-o", tmp_path / "split.csv").code == 0
    assert "is the source itself" in cli("data", "split", tmp_path / "split.csv", "-o", tmp_path / "split.csv").err


def test_cross_validation(cli: Cli, photos: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "split.csv", tmp_path / "run"
    assert cli("data", "split", photos, "--group-by", r"/(\w\d)_", "--folds", "3", "-o", table).code == 0
    outcome = cli("train", table, "-o", out, "--folds", "3", *TINY)
    assert outcome.code == 0, outcome.err
    assert "3 folds: test top-1 " in outcome.out and "95 % t-interval" in outcome.out
    figures = json.loads((out / "folds.json").read_text())
    top1 = [each["test_top1"] for each in figures["each"]]
    mean = figures["test_top1"]
    assert mean["mean"] == pytest.approx(np.mean(top1))
    assert mean["standard_deviation"] == pytest.approx(np.std(top1, ddof=1))
    half = 4.302652729911275 * np.std(top1, ddof=1) / 3**0.5  # Student's t, 2 degrees of freedom
    assert mean["high"] == pytest.approx(min(1, mean["mean"] + half))
    rows = {row["file"]: row for row in rows_of(table)}
    for number in (1, 2, 3):
        splits = json.loads((out / f"fold-{number}" / "float" / "splits.json").read_text())
        assert {rows[id]["fold"] for id in splits["test"]} == {str(number)}
        groups = [{rows[id]["group"] for id in splits[split]} for split in ("train", "val", "test")]
        assert sum(map(len, groups)) == len(groups[0] | groups[1] | groups[2]) == 12

    shutil.rmtree(out / "fold-2")
    before = (out / "fold-1" / "float" / "manifest.json").read_bytes()
    again = cli("train", table, "-o", out, "--folds", "3", *TINY)
    assert again.code == 0, again.err
    assert again.err.count("is there already: skipped") == 2
    assert (out / "fold-1" / "float" / "manifest.json").read_bytes() == before
    assert json.loads((out / "folds.json").read_text())["test_top1"] == mean

    evaluated = cli("evaluate", out / "fold-2" / "float")
    assert evaluated.code == 0, evaluated.err
    assert "16" in evaluated.out


def test_folds_that_cannot_be(cli: Cli, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "class 'bright' has 24 pictures" in cli("train", photos, "-o", out, "--folds", "30", *TINY).err
    assert "is a fold already" in cli("train", f"{photos}#fold=1/3", "-o", out, "--folds", "3", *TINY).err
    outcome = cli("train", photos, "-o", out, "--folds", "3", *TINY, "--teacher", "elsewhere")
    assert outcome.code == 2 and "trained on pictures that the folds test on" in outcome.err
    assert not out.exists()
    assert "#fold=1/3" in cli("train", photos, "-o", out, "--folds", "3", *TINY, "--dry-run").out
