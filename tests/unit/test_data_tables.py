"""Tables (CSV) as sources of pictures, and folds of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data import source as sources
from edgecnn.data.source import is_there, name_fold, open_data, place_of, split_ids, with_splits
from edgecnn.data.table import TableImages
from edgecnn.errors import DataError, UsageError
from edgecnn.spec import Split


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8))


def write_table(root: Path, header: str, rows: list[str], name: str = "labels.csv") -> str:
    """A table, and the pictures that the first values of its rows name."""
    for number, row in enumerate(rows):
        path = root / row.split(",")[0]
        if row.split(",")[0]:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(number).save(path)
    (root / name).write_text("\n".join([header, *rows]) + "\n")
    return str(root / name)


def two_classes(count: int, *more: str) -> list[str]:
    """Rows of ``count`` pictures each; ``more`` are the other values of the n-th picture of each class, in turn."""
    return [
        ",".join([f"pics/{label}{number:02d}.png", label, *([more[number % len(more)]] if more else [])])
        for label in ("ant", "bee")
        for number in range(count)
    ]


def sizes(data: sources.ImageSet) -> list[int]:
    return [len(data.splits[split]) for split in Split]


def problems_of(source: str) -> str:
    with pytest.raises(DataError) as caught:
        open_data(source)
    assert caught.value.hint
    return str(caught.value)


def test_a_table_without_splits_is_split_like_a_folder(tmp_path: Path) -> None:
    source = write_table(tmp_path, "Filename,Class", two_classes(20))
    data = open_data(source)
    assert (data.name, data.labels, sizes(data)) == ("labels.csv", ("ant", "bee"), [32, 4, 4])
    assert data.splits == open_data(source).splits != open_data(source, seed=1).splits
    assert data.digest == open_data(source, seed=1).digest
    item = data.splits[Split.TEST][0]
    assert item.id.startswith("pics/") and data.read(item).size == (8, 6)
    assert with_splits(open_data(source, seed=1), split_ids(data)).splits == data.splits


def test_the_split_column_is_respected(tmp_path: Path) -> None:
    splits = ("train", "train", "Validation", "test")
    data = open_data(write_table(tmp_path, "file,label,split", two_classes(8, *splits)))
    assert sizes(data) == [8, 4, 4] and data.notes == ()


def test_val_alone_becomes_the_test_split(tmp_path: Path) -> None:
    data = open_data(write_table(tmp_path, "file,label,split", two_classes(12, "train", "train", "train", "val")))
    assert sizes(data) == [16, 2, 6] and "serves as the test split" in data.notes[0]


def test_absolute_paths_and_other_folders(tmp_path: Path) -> None:
    rows = [f"{tmp_path}/far/{row}" for row in two_classes(5)]
    (tmp_path / "deep").mkdir()
    write_table(tmp_path, "file,label", rows)
    (tmp_path / "labels.csv").rename(tmp_path / "deep" / "labels.csv")
    assert sum(sizes(open_data(str(tmp_path / "deep" / "labels.csv")))) == 10
    near = write_table(tmp_path / "deep", "file,label", [f"../beside/./{row}" for row in two_classes(5)], "other.csv")
    assert all(item.id.startswith("../beside/pics/") for item in open_data(near).splits[Split.TRAIN])


def test_semicolons_quotes_and_a_byte_order_mark(tmp_path: Path) -> None:
    write_table(tmp_path, "file,label", two_classes(4))
    text = (tmp_path / "labels.csv").read_text().replace(",", ";").replace("ant\n", '"an;t"\n')
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert open_data(str(tmp_path / "labels.csv")).labels == ("an;t", "bee")


def test_all_problems_at_once_with_line_numbers(tmp_path: Path) -> None:
    rows = two_classes(4, "train", "train", "test")
    source = write_table(tmp_path, "file,label,split", rows)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    wrong = [
        "gone.png,ant,train",
        "pics/bee00.png,bee,train",
        "pics/ant01.png,,train",
        "x.png,ant,trian",
        "x.png,ant",
        "broken.png,bee,train",
        ",ant,",
    ]
    with Path(source).open("a") as table:
        table.write("\n".join(wrong) + "\n")
    message = problems_of(source)
    lines = message.splitlines()
    assert "labels.csv: 9 problems found" in lines[0]
    assert [line.strip() for line in lines[1:10]] == [
        "line 10: gone.png: No such file or directory",
        "line 11: pics/bee00.png is in line 6 already",
        "line 12: no label",
        "line 12: pics/ant01.png is in line 3 already",
        "line 13: split 'trian' is none of train, val, test",
        "line 14: 2 values, the header has 3",
        "line 15: broken.png: not a picture of a known format",
        "line 16: no file",
        "line 16: no split",
    ]


def test_a_class_that_is_missing_or_small_is_told(tmp_path: Path) -> None:
    rows = [*two_classes(4, "train", "test"), "c.png,cat,train"]
    message = problems_of(write_table(tmp_path, "file,label,split", rows))
    assert "class 'cat' is missing from test" in message and "class 'cat' has 1 usable pictures" in message


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("file,kind", "no column for their classes; its columns are file, kind"),
        ("file,path,label", "file and path may all mean the pictures"),
        ("file,label,label", "names label more than once"),
        ("", "no column for the pictures"),
    ],
)
def test_headers_that_say_too_little_or_too_much(tmp_path: Path, header: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\na.png,x,y\n")
    assert words in problems_of(str(tmp_path / "a.csv"))


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    assert "No such file" in problems_of(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_bytes(b"file,label\n\xff\xfe,x\n")
    assert "not text" in problems_of(str(tmp_path / "a.csv"))
    (tmp_path / "b.csv").write_text('file,label\n"a.png,x\n')
    assert "line 2" in problems_of(str(tmp_path / "b.csv"))
    (tmp_path / "c.csv").write_text("file,label\n")
    assert "no class" in problems_of(str(tmp_path / "c.csv"))


def test_groups_stay_together_and_torn_ones_are_told(tmp_path: Path) -> None:
    rows = [f"{row},{row[:8]}-{int(row[8:10]) // 2}" for row in two_classes(24)]
    data = open_data(write_table(tmp_path, "file,label,group", rows))
    assert isinstance(data, TableImages)
    groups = data.column("group")
    where = [{groups[item.id] for item in data.splits[split]} for split in Split]
    assert not (where[0] & where[1] or where[0] & where[2] or where[1] & where[2]) and data.notes == ()
    rows = [f"{row},{split}" for row, split in zip(rows, ["train", "test", "val"] * 16, strict=True)]
    assert (
        "24 groups lie in more than one split"
        in open_data(write_table(tmp_path, "file,label,group,split", rows)).notes[0]
    )


def test_a_fold_is_a_source(tmp_path: Path) -> None:
    source = write_table(tmp_path, "file,label", two_classes(20))
    folds = [open_data(name_fold(source, number, 4)) for number in range(1, 5)]
    assert [sizes(fold) for fold in folds] == [[28, 2, 10]] * 4
    assert sorted(item.id for fold in folds for item in fold.splits[Split.TEST]) == sorted(
        item.id for split in Split for item in open_data(source).splits[split]
    )
    assert len({fold.digest for fold in folds}) == 4
    assert place_of(name_fold("digits", 2, 3)) == "digits#fold=2/3"
    assert place_of(name_fold(source, 2, 3)) == f"{tmp_path}/labels.csv#fold=2/3"
    assert is_there(name_fold(source, 2, 3)) and not is_there(str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="no fold 5 of 4"):
        open_data(name_fold(source, 5, 4))


def test_a_tables_own_folds_are_used(tmp_path: Path) -> None:
    source = write_table(tmp_path, "file,label,fold", two_classes(30, "9", "10", "11"))
    second = open_data(name_fold(source, 2, 3))
    assert {item.id[-6:-4] for item in second.splits[Split.TEST]} == {f"{number:02d}" for number in range(1, 30, 3)}
    with pytest.raises(UsageError, match="has 3 folds, not 5: 9, 10, 11"):
        open_data(name_fold(source, 1, 5))
    rows = [f"{row},g{int(row[8:10]) // 2}" for row in two_classes(30, "1", "2")]
    torn = write_table(tmp_path, "file,label,fold,group", rows, "b.csv")
    with pytest.raises(DataError, match=r"15 groups of b\.csv lie in more than one fold"):
        open_data(name_fold(torn, 1, 2))
    rows = [f"{row},{1 + (row[5] == 'a')}" for row in two_classes(10)]
    with pytest.raises(DataError, match=r"fold 1 of c\.csv has no picture of 'ant'"):
        open_data(name_fold(write_table(tmp_path, "file,label,fold", rows, "c.csv"), 1, 2))
