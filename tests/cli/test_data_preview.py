"""The verb ``data preview``: a sheet of augmented training pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from driving import Outcome
from PIL import Image

SIZE, GAP = 16, 2
CELL = SIZE + 2 * GAP
SMALL = ("--image-size", SIZE, "--rows", 3, "--columns", 4)


def cells(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The pictures of a sheet: (rows, columns, SIZE, SIZE, 3)."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.array(image)
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    framed = pixels.reshape(rows, CELL, columns, CELL, 3).transpose(0, 2, 1, 3, 4)
    return framed[:, :, GAP:-GAP, GAP:-GAP]


def test_without_augmentation_every_sample_is_the_original(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    out = tmp_path / "sheet.png"
    outcome = cli("data", "preview", "digits", "-o", out, *SMALL, "--set", "flip=false")
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == str(out)
    shown = cells(out)
    assert shown.shape == (3, 4, SIZE, SIZE, 3)
    assert (shown == shown[:, :1]).all()
    assert (shown[0, 0] != shown[1, 0]).any()


def test_samples_differ_the_original_does_not_and_the_seed_decides(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    plain, first, again, other = (tmp_path / f"{name}.png" for name in ("plain", "first", "again", "other"))
    cli("data", "preview", "digits", "-o", plain, *SMALL)
    settings = ("--set", "rotate=30", "--set", "noise=20", "--set", "fill=nearest")
    for out, seed in ((first, 0), (again, 0), (other, 1)):
        outcome = cli("data", "preview", "digits", "-o", out, *SMALL, *settings, "--seed", seed)
        assert outcome.code == 0, outcome.err
    shown = cells(first)
    assert (shown[:, 0] == cells(plain)[:, 0]).all()
    assert all((shown[row, a] != shown[row, b]).any() for row in range(3) for a in range(4) for b in range(a))
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    ("setting", "words"), [("rotat=3", "did you mean rotate"), ("zoom=2", "zoom"), ("fill=black", "fill"), ("x", "'='")]
)
def test_wrong_settings_are_told(tmp_path: Path, cli: Callable[..., Outcome], setting: str, words: str) -> None:
    outcome = cli("data", "preview", "digits", "-o", tmp_path / "sheet.png", "--set", setting)
    assert outcome.code != 0
    assert words in outcome.err
    assert not (tmp_path / "sheet.png").exists()
