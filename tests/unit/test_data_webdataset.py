"""Tar files of samples: what is read, and what is told about what cannot be."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data import packed
from edgecnn.data.items import Item
from edgecnn.data.source import open_data, with_most
from edgecnn.data.stream import open_stream
from edgecnn.errors import DataError, UsageError
from edgecnn.spec import Preprocess, Split


def png(level: int) -> bytes:
    """A picture of one grey."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(content, "PNG")
    return content.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def samples(count: int, first: int = 0) -> dict[str, bytes]:
    """Samples of the classes 2 and 10, whose pictures have the grey of their number."""
    members = {}
    for number in range(first, first + count):
        members |= {f"{number:04d}.png": png(number), f"{number:04d}.cls": b"2" if number % 2 else b"10"}
    return members


def test_numbers_are_classes_in_their_order_and_splits_are_in_the_names(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000.tar", samples(20))
    write_tar(tmp_path / "train-001.tar", samples(20, 20))
    write_tar(tmp_path / "test-000.tar", samples(6, 40))
    data = open_data(str(tmp_path))
    assert data.labels == ("2", "10")
    assert [item.id for item in data.splits[Split.TEST]] == [f"test-000/{number:04d}" for number in range(40, 46)]
    for items in data.splits.values():
        for item in items:
            number = int(item.id.rpartition("/")[2])
            assert np.asarray(data.read(item))[0, 0, 0] == number
            assert data.labels[item.label] == ("2" if number % 2 else "10")


def test_a_range_is_its_files_and_a_folder_of_them_is_the_same_set(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000.tar", samples(20))
    write_tar(tmp_path / "train-001.tar", samples(20, 20))
    assert open_data(str(tmp_path / "train-{000..001}.tar")).digest == open_data(str(tmp_path)).digest
    with pytest.raises(DataError, match=r"train-002\.tar: .*No such file"):
        open_data(str(tmp_path / "train-{000..002}.tar"))


def test_a_label_may_be_in_json(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(20):
        label = b'{"label": "cat", "more": 1}' if number % 2 else b'{"cls": "dog"}'
        members |= {f"a/{number:04d}.jpg": png(number), f"a/{number:04d}.json": label, f"a/{number:04d}.txt": b"words"}
    assert open_data(str(write_tar(tmp_path / "pets.tar", members))).labels == ("cat", "dog")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    members = samples(20) | {"0030.png": png(30), "0031.cls": b"2", "0032.png": b"no picture", "0032.cls": b"2"}
    with pytest.raises(DataError) as told:
        open_data(str(write_tar(tmp_path / "set.tar", members)))
    for words in ("set/0030: no class", "set/0031: no picture", "set/0032: not a picture"):
        assert words in str(told.value)


def test_a_file_that_is_no_tar_file(tmp_path: Path) -> None:
    (tmp_path / "set.tar").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(DataError, match=r"set\.tar"):
        open_data(str(tmp_path / "set.tar"))


def many(count: int, torn: set[int]) -> dict[str, bytes]:
    return {
        name: content[:30] if name.endswith(".png") and int(name[:4]) in torn else content
        for name, content in samples(count).items()
    }


def test_a_sample_is_decoded_of_a_set_that_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHECKED", 40)
    write_tar(tmp_path / "set.tar", many(400, {0, 7}))  # the first is in the sample
    data = open_data(str(tmp_path), sampled=True)
    assert [len(data.splits[split]) for split in Split] == [320, 40, 40]
    assert data.notes[0] == "40 of 400 pictures were decoded to check them"
    assert len(data.notes) == 2 and data.notes[1].startswith("set/0000: ")
    with pytest.raises(DataError, match=r"2 problems found"):
        open_data(str(tmp_path))


def test_a_sample_with_many_broken_pictures_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHECKED", 40)
    write_tar(tmp_path / "set.tar", many(400, set(range(0, 400, 10))))
    with pytest.raises(DataError, match=r"20 problems found") as told:
        open_data(str(tmp_path), sampled=True)
    assert "set/0000: " in told.value.message


def test_a_file_without_places_for_its_pictures_cannot_be_streamed(tmp_path: Path) -> None:
    data = open_data(str(write_tar(tmp_path / "set.tar", samples(20))))
    assert isinstance(data, packed.PackedImages)
    with pytest.raises(UsageError, match="cannot be streamed: Parquet"):
        open_stream(replace(data, place=None), Preprocess(8, (0.5,) * 3, (0.25,) * 3))


def test_a_line_is_found_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHECKED", 2)
    line = io.BytesIO()
    Image.new("RGB", (600, 2)).save(line, "PNG")
    data = open_data(str(write_tar(tmp_path / "set.tar", samples(20) | {"0004.png": line.getvalue()})), sampled=True)
    with pytest.raises(DataError, match=r"set/0004: 600 x 2 pixels: one side is more than 50 times"):
        data.read(Item("set/0004", 0))


def test_val_and_test_have_an_end(tmp_path: Path) -> None:
    data = open_data(str(write_tar(tmp_path / "set.tar", samples(400))))
    few = with_most(data, 10)
    assert [len(few.splits[split]) for split in Split] == [320, 10, 10]
    assert set(few.splits[Split.VAL]) <= set(data.splits[Split.VAL])
    assert with_most(data, 40) is data
