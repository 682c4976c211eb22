"""Sources that hold their pictures inside: Parquet and Arrow files, and data sets of torchvision."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.source import ImageSet, is_there, open_data, place_of
from edgecnn.errors import DataError, MissingPackageError
from edgecnn.spec import Split


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8))


def encoded(seed: int) -> bytes:
    content = io.BytesIO()
    picture(seed).save(content, "PNG")
    return content.getvalue()


def sizes(data: ImageSet) -> list[int]:
    return [len(data.splits[split]) for split in Split]


def problems_of(source: str) -> str:
    with pytest.raises(DataError) as caught:
        open_data(source)
    assert caught.value.hint
    return str(caught.value)


def arrow_table(count: int, names: tuple[str, ...] = (), first: int = 0, **change: Any) -> Any:
    """``count`` pictures of two classes as ``datasets`` writes them, with numbers that ``names`` explains."""
    pa = pytest.importorskip("pyarrow")
    rows = [{"bytes": encoded(first + number), "path": None} for number in range(count)]
    labels = [number % 2 for number in range(count)]
    table = pa.table({"image": change.get("image", rows), "label": change.get("label", labels)})
    features = {"label": {"names": list(names), "_type": "ClassLabel"}} if names else {}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_parquet_with_class_names_and_splits(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "data").mkdir()
    for number, (name, count) in enumerate({"train-00000-of-00001": 30, "validation": 6, "test-0": 8}.items()):
        table = arrow_table(count, ("wasp", "ant"), 100 * number)
        parquet.write_table(table, tmp_path / "data" / f"{name}.parquet", row_group_size=7)
    data = open_data(str(tmp_path))
    assert data.labels == ("wasp", "ant") and sizes(data) == [30, 6, 8]
    item = next(item for item in data.splits[Split.TEST] if item.id == "data/test-0/000007")
    assert item.label == 1 and np.array_equal(np.asarray(data.read(item)), np.asarray(picture(207)))
    assert len(data.digest) == 64


def test_one_parquet_file_with_texts_is_split(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow_table(20, label=["dog", "cat"] * 10), tmp_path / "pets.parquet")
    data = open_data(str(tmp_path / "pets.parquet"))
    assert data.labels == ("cat", "dog") and sizes(data) == [16, 2, 2]
    assert data.splits != open_data(str(tmp_path / "pets.parquet"), seed=1).splits


def test_a_saved_datasets_folder(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split, count in (("train", 20), ("test", 4)):
        (tmp_path / split).mkdir()
        table = arrow_table(count, first=count)
        path = str(tmp_path / split / "data-00000-of-00001.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    data = open_data(str(tmp_path))
    assert data.labels == ("0", "1") and sizes(data) == [18, 2, 4]
    assert data.read(data.splits[Split.TEST][1]).tobytes() == picture(5).tobytes()


def test_all_problems_of_a_parquet_file_at_once(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"bytes": encoded(number), "path": None} for number in range(10)]
    rows[3]["bytes"], rows[4]["bytes"], rows[5] = b"junk", None, {"bytes": None, "path": "gone.png"}
    table = arrow_table(10, ("ant", "bee"), image=rows, label=[0, 1, 0, 1, 0, 1, 0, 1, -1, 7])
    parquet.write_table(table, tmp_path / "a.parquet")
    message = problems_of(str(tmp_path / "a.parquet"))
    for words in (
        "a/000003: not a picture of a known format",
        "a/000004: no picture in this row",
        "gone.png: No such file",
        "a/000008: no label",
        "a/000009: 7",
        "class 'bee' has 2 usable pictures",
    ):
        assert words in message


def test_parquet_files_that_cannot_be_used(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"image": [1], "caption": ["x"]}), tmp_path / "a.parquet")
    assert "no column label; its columns are image, caption" in problems_of(str(tmp_path / "a.parquet"))
    (tmp_path / "a.parquet").write_bytes(b"junk")
    assert "a.parquet: " in problems_of(str(tmp_path / "a.parquet"))
    assert "does not exist" in problems_of(str(tmp_path / "b.parquet"))


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(MissingPackageError) as caught:
        open_data(str(tmp_path / "a.parquet"))
    assert "edgecnn[parquet]" in caught.value.hint


def fake_set(**facts: Any) -> Any:
    class Fake:
        classes = ("ant", "bee")

        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            if error := facts.get("error"):
                raise error
            self.first, self.count = (0, 20) if train else (100, 6)

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return picture(self.first + index).convert(facts.get("mode", "RGB")), index % 2

    return Fake


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    return pytest.importorskip("torchvision.datasets")


def test_a_torchvision_set(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "CIFAR10", fake_set(mode="L"))
    data = open_data("torchvision:CIFAR10")
    assert (data.name, data.labels, sizes(data)) == ("CIFAR10", ("ant", "bee"), [18, 2, 6])
    assert data.read(data.splits[Split.TEST][1]).tobytes() == picture(101).convert("L").convert("RGB").tobytes()
    assert data.digest == open_data("torchvision:CIFAR10", seed=3).digest
    assert place_of("torchvision:CIFAR10") == "torchvision:CIFAR10" and is_there("torchvision:CIFAR10")


def test_torchvision_sets_with_named_splits(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Named(fake_set()):  # type: ignore[misc]
        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            if split not in ("trainval", "test"):
                raise ValueError(f"Unknown value '{split}'")
            super().__init__(root, split == "trainval")

    monkeypatch.setattr(datasets, "OxfordIIITPet", Named)
    assert sizes(open_data("torchvision:OxfordIIITPet")) == [18, 2, 6]


def test_torchvision_without_a_network(datasets: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "CIFAR10", fake_set(error=OSError("Name or service not known")))
    message = problems_of("torchvision:CIFAR10")
    assert "cannot be had: Name or service not known" in message and "EDGECNN_CACHE" in message
    assert str(tmp_path / "cache" / "torchvision") in message
    assert "no data set 'CIFAR1O'" in problems_of("torchvision:CIFAR1O")
