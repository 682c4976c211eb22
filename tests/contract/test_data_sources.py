"""What every source of pictures promises, checked on each of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.source import ImageSet, open_data, split_ids, with_splits
from edgecnn.data.tensors import choose_calibration, load_split
from edgecnn.spec import Preprocess, Split

P = Preprocess(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
Opener = Callable[[int], ImageSet]


def write_set(root: Path, splits: dict[str, int]) -> str:
    """A set of two classes, with so many pictures of each class in each split folder ("" is the root)."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for label in ("ant", "bee"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return str(root)


LAYOUTS = {
    "digits": None,
    "flat": {"": 20},
    "train": {"train": 20},
    "train+test": {"train": 20, "test": 5},
    "train+val": {"train": 20, "val": 5},
    "train+val+test": {"train": 20, "val": 4, "test": 5},
}


def write_table(root: Path) -> str:
    """A table of the pictures of a flat set."""
    write_set(root, {"": 20})
    rows = [f"{path.relative_to(root)},{path.parent.name}" for path in root.glob("*/*.png")]
    (root / "table.csv").write_text("\n".join(["file,label", *rows]))
    return str(root / "table.csv")


def write_parquet(root: Path) -> str:
    """The pictures of a flat set inside one file."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write_set(root, {"": 20})
    paths = sorted(root.glob("*/*.png"))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    table = pa.table({"image": images, "label": [path.parent.name for path in paths]})
    parquet.write_table(table, root / "set.parquet", row_group_size=7)
    return str(root / "set.parquet")


def write_tars(root: Path) -> str:
    """The pictures of a flat set in two tar files, each beside its class."""
    write_set(root / "loose", {"": 20})
    for number in range(2):
        with tarfile.open(root / f"train-{number:03d}.tar", "w") as tar:
            for path in sorted((root / "loose").glob("*/*.png"))[number::2]:
                key = f"{path.parent.name}-{path.stem}"
                for name, content in ((f"{key}.png", path.read_bytes()), (f"{key}.cls", path.parent.name.encode())):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return str(root / "train-{000..001}.tar")


WRITERS = {"table": write_table, "parquet": write_parquet, "webdataset": write_tars}


@pytest.fixture(params=[*LAYOUTS, *WRITERS, "restored"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "restored":
        root = write_set(tmp_path, {"": 20})
        return lambda seed: with_splits(open_data(root), split_ids(open_data(root, seed=seed)))
    if request.param in WRITERS:
        written = WRITERS[request.param](tmp_path)
        return lambda seed: open_data(written, seed=seed)
    layout = LAYOUTS[request.param]
    source = "digits" if layout is None else write_set(tmp_path, layout)
    return lambda seed: open_data(source, seed=seed)


def test_source_keeps_its_promises(opener: Opener) -> None:
    data = opener(0)
    assert data.name and len(data.digest) == 64 and len(set(data.labels)) == len(data.labels) >= 2
    assert list(data.splits) == [Split.TRAIN, Split.VAL, Split.TEST]
    everything = [item for split in Split for item in data.splits[split]]
    assert len({item.id for item in everything}) == len(everything)
    for items in data.splits.values():
        assert {item.label for item in items} == set(range(len(data.labels)))
        assert [item.id for item in items] == sorted(item.id for item in items)
    assert len(data.splits[Split.TRAIN]) > len(data.splits[Split.VAL])


def test_opening_again_gives_the_same(opener: Opener) -> None:
    first, again, other = opener(0), opener(0), opener(1)
    assert again.splits == first.splits
    assert again.digest == first.digest == other.digest
    assert again.labels == first.labels


def test_pictures_are_plain_rgb_and_the_same_each_time(opener: Opener) -> None:
    data = opener(0)
    for split in Split:
        item = data.splits[split][0]
        picture = data.read(item)
        assert type(picture) is Image.Image and picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), np.asarray(data.read(item)))


def test_tensors_of_every_split(opener: Opener) -> None:
    data = opener(0)
    for split in Split:
        loaded = load_split(data, split, P, limit=7)
        assert loaded.images.shape[1:] == (8, 8, 3) and loaded.images.std() > 10
        assert set(loaded.ids) <= {item.id for item in data.splits[split]}


def test_calibration_never_touches_val_and_test(opener: Opener) -> None:
    data = opener(0)
    kept_apart = {item.id for split in (Split.VAL, Split.TEST) for item in data.splits[split]}
    assert not kept_apart & {item.id for item in choose_calibration(data, 10_000, 0)}


def test_digits_are_the_known_set() -> None:
    data = open_data("digits")
    assert data.labels == tuple("0123456789")
    assert [len(data.splits[split]) for split in Split] == [1438, 180, 179]
    first = next(item for split in Split for item in data.splits[split] if item.id == "digits/0000")
    grey = np.asarray(data.read(first))
    assert first.label == 0 and grey.shape == (8, 8, 3)
    # The first row of the first digit in scikit-learn: ink 0 0 5 13 9 1 0 0 of 16.
    assert grey[0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
