"""``edgecnn data check``: counts, copies and leaks, as text, as JSON, as a page, and as an exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from driving import Outcome
from PIL import Image

Cli = Callable[..., Outcome]


def photo(seed: int) -> Image.Image:
    numbers = np.random.default_rng(seed)
    return Image.fromarray(numbers.integers(0, 256, (6, 8, 3), np.uint8)).resize((96, 72), Image.Resampling.BICUBIC)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Two classes in three splits: 4 + 2, 2 + 2 and 2 + 2 pictures, no two alike."""
    root, seed = tmp_path / "photos", 0
    for split, counts in {"train": (4, 2), "val": (2, 2), "test": (2, 2)}.items():
        for label, count in zip(("cat", "dog"), counts, strict=True):
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                photo(seed).save(folder / f"{index}.png")
                seed += 1
    return root


@pytest.fixture
def leaky(clean: Path) -> Path:
    """With an exact copy inside train, and one of a train picture, smaller and as JPEG, inside test."""
    photo(0).save(clean / "train" / "dog" / "copy.bmp")
    photo(1).resize((64, 48)).save(clean / "test" / "cat" / "again.jpg", quality=70)
    return clean


def test_a_clean_folder(cli: Cli, clean: Path) -> None:
    outcome = cli("data", "check", clean, "--strict")
    assert outcome.code == 0, outcome.err
    assert "train: 6 pictures; cat 4, dog 2" in outcome.out
    assert "imbalance: 1.33" in outcome.out
    assert "96 x 72 14" in outcome.out
    assert "0 groups of equal pixels, 0 of near copies" in outcome.out
    assert "leaks: none found" in outcome.out


def test_copies_and_leaks_are_told(cli: Cli, leaky: Path) -> None:
    outcome = cli("data", "check", leaky)
    assert outcome.code == 0, outcome.err
    assert "LEAKS: 1 group of copies in more than one split (train -> test 1 pictures)" in outcome.out
    assert "train: train/cat/1.png, test: test/cat/again.jpg" in outcome.out
    assert "equal pixels, more than one class: train: train/cat/0.png, train: train/dog/copy.bmp" in outcome.out
    assert "labels: 1 group of them under more than one class" in outcome.out


def test_strict_is_a_gate(cli: Cli, leaky: Path, tmp_path: Path) -> None:
    outcome = cli("data", "check", leaky, "--strict", "--html", tmp_path / "page.html")
    assert outcome.code == 3
    assert outcome.err.startswith("error: photos: 1 group of pictures in more than one split")
    assert (tmp_path / "page.html").is_file()


def test_json(cli: Cli, leaky: Path) -> None:
    figures = json.loads(cli("data", "check", leaky, "--json").out)
    assert figures["splits"]["train"] == {"cat": 4, "dog": 3}
    assert (figures["exact_groups"], figures["near_groups"], figures["leak_groups"]) == (1, 1, 1)
    assert figures["leaked"] == {"train -> val": 0, "train -> test": 1, "val -> test": 0}
    assert figures["imbalance"] == pytest.approx(9 / 7)
    assert sum(figures["sizes"].values()) == 16
    assert figures["groups"][0]["leak"]
    assert figures["groups"][0]["pictures"][1] == {"id": "test/cat/again.jpg", "split": "test", "class": "cat"}


def test_the_page_holds_its_pictures_and_fetches_nothing(cli: Cli, leaky: Path, tmp_path: Path) -> None:
    (leaky / "train" / "dog" / "copy.bmp").rename(leaky / "train" / "dog" / "a<b>&.bmp")
    page = tmp_path / "new" / "page.html"
    assert cli("data", "check", leaky, "--html", page).code == 0
    text = page.read_text()
    assert text.count('src="data:image/jpeg;base64,/9j/') == 4
    assert re.findall(r'(?:src|href)="(?!data:|#)', text) == []
    assert "http://" not in text and "https://" not in text and "@import" not in text and "<script" not in text
    assert "a<b>" not in text and "a&lt;b&gt;&amp;.bmp" in text
    assert "width: 100.0%" in text


def test_many_groups_are_cut_off(cli: Cli, clean: Path, tmp_path: Path) -> None:
    for index in range(35):
        for name in ("a", "b"):
            photo(100 + index).save(clean / "train" / "cat" / f"{name}{index:02d}.png")
    outcome = cli("data", "check", clean, "--html", tmp_path / "page.html")
    assert "... and 25 groups more" in outcome.out
    text = (tmp_path / "page.html").read_text()
    assert text.count("<figure>") == 60
    assert "5 groups more are not shown" in text


def test_mistakes(cli: Cli, clean: Path) -> None:
    assert cli("data", "check", clean, "--max-distance", "17").code == 2
    (clean / "train" / "cat" / "0.png").write_bytes(b"junk")
    outcome = cli("data", "check", clean, "--json")
    assert outcome.code == 2
    assert outcome.out == ""
    assert "0.png: not a picture of a known format" in outcome.err


def test_digits(cli: Cli) -> None:
    outcome = cli("data", "check", "digits")
    assert outcome.code == 0, outcome.err
    assert "8 x 8 1797" in outcome.out
