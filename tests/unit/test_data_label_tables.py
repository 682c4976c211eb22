"""Tables in which a picture has several labels, or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.items import has_many_labels
from edgecnn.data.source import open_data, split_ids, with_splits, with_val_share
from edgecnn.data.tensors import choose_calibration, load_split
from edgecnn.errors import DataError
from edgecnn.pipeline.splitting import split
from edgecnn.spec import Preprocess, Split

P = Preprocess(4, (0.5,) * 3, (0.5,) * 3)


def write(root: Path, header: str, rows: list[str], name: str = "set.csv") -> str:
    for number, row in enumerate(rows):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / row.split(",")[0])
    (root / name).write_text("\n".join([header, *rows]) + "\n")
    return str(root / name)


def cells(count: int = 60) -> list[str]:
    """a on half of the pictures, b on a third, c on a tenth, and some with none."""
    rows = []
    for n in range(count):
        found = [name for name, every in (("a", 2), ("b", 3), ("c", 10)) if n % every == 0]
        rows.append(f"{n:03d}.png,{'|'.join(found)}")
    return rows


def test_cells_and_columns_say_the_same(tmp_path: Path) -> None:
    rows = cells()
    text = open_data(write(tmp_path, "file,labels", rows))
    marks = [f"{row.partition(',')[0]},{','.join(str(int(name in row)) for name in 'abc')},x{row[:2]}" for row in rows]
    columns = open_data(write(tmp_path, "file,a,b,c,camera", marks, "columns.csv"))
    semicolons = open_data(write(tmp_path, "file,labels", [row.replace("|", " ; ") for row in rows], "semi.csv"))
    assert text.labels == columns.labels == ("a", "b", "c")  # the camera is no label
    for split_ in Split:
        assert text.splits[split_] == columns.splits[split_] == semicolons.splits[split_]
    loaded = load_split(text, Split.TRAIN, P)
    assert loaded.labels.shape == (len(loaded), 3) and loaded.labels.dtype == np.uint8
    for id, row in zip(loaded.ids, loaded.labels, strict=True):
        assert row.tolist() == [int(int(id[:3]) % every == 0) for every in (2, 3, 10)]


def test_splits_hold_every_label_in_its_proportion(tmp_path: Path) -> None:
    data = open_data(write(tmp_path, "file,labels", cells(120)), seed=3)
    assert [len(data.splits[each]) for each in Split] == [96, 12, 12]
    counts = [[sum(label in item.labels for item in data.splits[each]) for label in range(3)] for each in Split]
    assert counts == [[48, 32, 10], [6, 4, 1], [6, 4, 1]]
    assert {item.many for item in data.splits[Split.TRAIN]} >= {(), (0, 1, 2)}
    halves = with_val_share(data, 0.25)
    assert [len(halves.splits[each]) for each in Split] == [81, 27, 12]
    again = with_splits(data, split_ids(data))
    assert has_many_labels(again) and again.splits == data.splits
    assert len(choose_calibration(data, 7, 0)) == 7
    fold = open_data(f"{tmp_path / 'set.csv'}#fold=2/4")
    assert len(fold.splits[Split.TEST]) == 30


def test_groups_of_labelled_pictures_stay_together(tmp_path: Path) -> None:
    rows = [f"{row},g{n // 4}" for n, row in enumerate(cells(120))]
    data = open_data(write(tmp_path, "file,labels,group", rows))
    where = {int(item.id[:3]) // 4: each for each in Split for item in data.splits[each]}
    for each in Split:
        assert all(where[int(item.id[:3]) // 4] is each for item in data.splits[each])
    made = split(str(tmp_path / "set.csv"), tmp_path / "split.csv", folds=3)
    assert "a 60" not in made.lines()[0] and made.groups
    listed = open_data(str(tmp_path / "split.csv"))
    assert listed.labels == data.labels and has_many_labels(listed)
    assert (tmp_path / "split.csv").read_text().splitlines()[0] == "file,labels,split,fold,group"


def test_a_column_of_classes_has_several_labels_only_when_asked(tmp_path: Path) -> None:
    rows = [f"{n:03d}.png,{'a;b' if n % 2 else 'b'}" for n in range(12)]
    source = write(tmp_path, "file,label", rows)
    plain, asked = open_data(source), open_data(source, several=True)
    assert (plain.labels, has_many_labels(plain)) == (("a;b", "b"), False)
    assert (asked.labels, has_many_labels(asked)) == (("a", "b"), True)
    assert asked.notes == ("every picture has the label 'b': there is nothing to learn about it",)


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("file,a,b", [f"{n}.png,{n % 2},{n // 5}" for n in range(10)] + ["x.png,2,1", "y.png,,0"], "line 12: a is '2'"),
        ("file,a,b", [f"{n}.png,{n % 2},{n // 5}" for n in range(10)] + ["x.png,2,1", "y.png,,0"], "line 13: a is ''"),
        ("file,labels", [f"{n}.png,{'a' if n else 'b'}" for n in range(9)], "'b' is on 1 usable pictures in the set"),
        ("file,labels", [f"{n}.png," for n in range(9)], "no row has a label"),
        ("file,labels,label", [f"{n}.png,a,b" for n in range(9)], "label and labels may all mean their classes"),
        ("file,labels,split", [f"{n}.png,a,{'train' if n < 5 else 'test'}" for n in range(6)], ""),
        ("file,labels,split", [f"{n}.png,{'a' if n < 5 else 'b'},test" for n in range(6)], "no row is in the train"),
    ],
)
def test_problems_are_told_with_their_lines(tmp_path: Path, header: str, rows: list[str], words: str) -> None:
    source = write(tmp_path, header, rows)
    if not words:
        assert open_data(source).splits[Split.TEST][0].id == "5.png"
        return
    with pytest.raises(DataError) as caught:
        open_data(source)
    assert words in str(caught.value) and caught.value.hint
