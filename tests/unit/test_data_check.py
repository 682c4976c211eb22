"""Checking pictures once, and remembering it safely."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from edgecnn.data import check
from edgecnn.data.check import check_pictures


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Every decoding is listed; any set is worth remembering, in a cache of the test's own."""
    decoded: list[str] = []
    genuine = check.load_picture

    def load(path: Path) -> Image.Image:
        decoded.append(path.name)
        return genuine(path)

    monkeypatch.setattr(check, "load_picture", load)
    monkeypatch.setattr(check, "_WORTH_REMEMBERING_S", -1.0)
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    return decoded


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4), "red").save(root / name)
    return root


def test_second_check_of_unchanged_files_decodes_nothing(pictures: Path, counted: list[str]) -> None:
    first = check_pictures(pictures, ["a.png", "b.png"])
    assert counted == ["a.png", "b.png"]
    assert check_pictures(pictures, ["a.png", "b.png"]) == first
    assert counted == ["a.png", "b.png"]
    assert first.sizes == {name: (pictures / name).stat().st_size for name in ("a.png", "b.png")}


def test_changed_file_of_equal_size_is_checked_again(pictures: Path, counted: list[str]) -> None:
    check_pictures(pictures, ["a.png", "b.png"])
    content = (pictures / "b.png").read_bytes()
    (pictures / "b.png").write_bytes(bytes(len(content)))
    os.utime(pictures / "b.png", ns=(1, 1))
    assert "b.png" in check_pictures(pictures, ["a.png", "b.png"]).broken


def test_added_file_is_checked(pictures: Path, counted: list[str]) -> None:
    check_pictures(pictures, ["a.png"])
    (pictures / "b.png").write_bytes(b"junk")
    assert list(check_pictures(pictures, ["a.png", "b.png"]).broken) == ["b.png"]


def test_broken_set_is_not_remembered(pictures: Path, counted: list[str]) -> None:
    (pictures / "b.png").write_bytes(b"junk")
    first = check_pictures(pictures, ["a.png", "b.png"])
    assert check_pictures(pictures, ["a.png", "b.png"]) == first
    assert len(counted) == 4


def test_cache_that_cannot_be_written_only_costs_time(
    pictures: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(pictures / "a.png"))
    for _ in range(2):
        assert check_pictures(pictures, ["a.png"]).broken == {}
    assert len(counted) == 2


def test_quick_checks_leave_nothing_behind(pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(check, "_WORTH_REMEMBERING_S", 1000.0)
    check_pictures(pictures, ["a.png", "b.png"])
    assert not (tmp_path / "cache").exists()
