"""Tar files of samples: what is read, and what is told about what cannot be."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.source import open_data
from edgecnn.errors import DataError
from edgecnn.spec import Split


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
