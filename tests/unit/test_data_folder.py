"""Folders of pictures: the layouts that are understood, and every problem reported at once with its path."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.source import open_data, split_ids, with_splits
from edgecnn.errors import DataError, UsageError
from edgecnn.spec import Split


def fill(folder: Path, count: int, *, suffix: str = "png", seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        image = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        image.save(folder / f"{number:03d}.{suffix}")


def problems_of(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_data(str(root))
    assert caught.value.hint
    return str(caught.value)


def ids(root: Path, split: Split, **options: object) -> set[str]:
    return {item.id for item in open_data(str(root), **options).splits[split]}  # type: ignore[arg-type]


def test_flat_folder_is_split_80_10_10(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 20)
    fill(tmp_path / "dog", 10)
    data = open_data(str(tmp_path))
    assert data.labels == ("cat", "dog")
    assert {split: len(items) for split, items in data.splits.items()} == {"train": 24, "val": 3, "test": 3}
    assert all(item.id.startswith(data.labels[item.label] + "/") for item in data.splits[Split.TRAIN])
    assert data.notes == ()


def test_fractions_are_the_callers(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 10)
    fill(tmp_path / "dog", 10)
    data = open_data(str(tmp_path), fractions=(0.5, 0.2, 0.3))
    assert [len(data.splits[split]) for split in Split] == [10, 4, 6]
    with pytest.raises(UsageError):
        open_data(str(tmp_path), fractions=(0.5, 0.5, 0.5))


def test_three_folders_are_the_three_splits(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 2), ("test", 1)):
        for label in ("cat", "dog"):
            fill(tmp_path / split / label, count)
    assert ids(tmp_path, Split.VAL) == {f"val/{label}/00{n}.png" for label in ("cat", "dog") for n in range(2)}
    assert ids(tmp_path, Split.TEST) == {"test/cat/000.png", "test/dog/000.png"}
    assert len(ids(tmp_path, Split.TRAIN)) == 10


def test_without_val_a_tenth_of_train_serves(tmp_path: Path) -> None:
    for split, count in (("train", 20), ("test", 3)):
        for label in ("cat", "dog"):
            fill(tmp_path / split / label, count)
    data = open_data(str(tmp_path))
    assert [len(data.splits[split]) for split in Split] == [36, 4, 6]
    assert all(item.id.startswith("train/") for item in data.splits[Split.VAL])
    assert "val" in data.notes[0]


def test_without_test_the_given_val_is_only_tested_on(tmp_path: Path) -> None:
    for split, count in (("train", 20), ("val", 3)):
        for label in ("cat", "dog"):
            fill(tmp_path / split / label, count)
    data = open_data(str(tmp_path))
    assert {item.id.split("/")[0] for item in data.splits[Split.TEST]} == {"val"}
    assert {item.id.split("/")[0] for item in data.splits[Split.VAL]} == {"train"}
    assert "serves as the test split" in data.notes[0]


def test_train_alone_is_split_like_a_flat_folder(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "cat", 10)
    fill(tmp_path / "train" / "dog", 10)
    assert [len(open_data(str(tmp_path)).splits[split]) for split in Split] == [16, 2, 2]


def test_other_words_for_the_splits(tmp_path: Path) -> None:
    for split in ("Training", "Validation", "Testing"):
        for label in ("cat", "dog"):
            fill(tmp_path / split / label, 2)
    assert "Validation/cat/000.png" in ids(tmp_path, Split.VAL)


def test_class_may_be_called_train(tmp_path: Path) -> None:
    for label in ("bus", "train"):
        fill(tmp_path / label, 5)
    assert open_data(str(tmp_path)).labels == ("bus", "train")


def test_pictures_in_subfolders_of_a_class_belong_to_it(tmp_path: Path) -> None:
    fill(tmp_path / "cat" / "summer" / "rome", 5)
    fill(tmp_path / "dog", 5)
    assert "cat/summer/rome/003.png" in {i for split in Split for i in ids(tmp_path, split)}


def test_notes_and_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        fill(tmp_path / label, 5)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "labels.CSV"):
            (tmp_path / label / name).write_text("x")
    (tmp_path / "README.md").write_text("x")
    fill(tmp_path / ".cache", 3)
    fill(tmp_path / "__MACOSX" / "cat", 3)
    assert sum(len(items) for items in open_data(str(tmp_path)).splits.values()) == 10


def test_folder_beside_the_splits_is_noted(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "cat", 5)
    fill(tmp_path / "train" / "dog", 5)
    fill(tmp_path / "samples", 1)
    assert any("samples/" in note for note in open_data(str(tmp_path)).notes)


def test_all_problems_at_once_with_paths(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            fill(tmp_path / split / label, 4)
    fill(tmp_path / "train" / "yak", 4)
    fill(tmp_path / "test" / "zebra", 4)
    (tmp_path / "train" / "emu").mkdir()
    (tmp_path / "test" / "emu").mkdir()
    (tmp_path / "train" / "cat" / "zero.jpg").touch()
    (tmp_path / "train" / "dog" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    whole = (tmp_path / "test" / "cat" / "000.png").read_bytes()
    (tmp_path / "test" / "cat" / "cut.png").write_bytes(whole[:-40])
    (tmp_path / "train" / "stray.png").write_bytes(whole)
    (tmp_path / "dog" / "gone.png").parent.mkdir()
    (tmp_path / "train" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    Image.new("RGB", (400, 2)).save(tmp_path / "train" / "cat" / "line.png")
    message = problems_of(tmp_path)
    for path, reason in (
        ("train/cat/zero.jpg", "0 bytes"),
        ("train/dog/phone.heic", "not a picture"),
        ("test/cat/cut.png", "truncated"),
        ("train/stray.png", "outside any class folder"),
        ("train/cat/gone.png", "No such file"),
        ("train/cat/line.png", "400 x 2"),
    ):
        line = next(line for line in message.splitlines() if str(tmp_path / path) in line)
        assert reason in line
    assert "class 'yak' is missing from test/ (it is in train/)" in message
    assert "class 'zebra' is missing from train/ (it is in test/)" in message
    assert "class 'emu' has 0 usable pictures in train/, at least 2 are needed" in message
    assert "class 'emu' has 0 usable pictures in test/, at least 1 are needed" in message
    assert "10 problems" in message


def test_class_too_small_to_be_split(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 9)
    fill(tmp_path / "dog", 2)
    assert "class 'dog' has 2 usable pictures" in problems_of(tmp_path)


def test_broken_pictures_do_not_count(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 9)
    fill(tmp_path / "dog", 3)
    (tmp_path / "dog" / "001.png").write_bytes(b"no picture")
    message = problems_of(tmp_path)
    assert "001.png: not a picture" in message and "class 'dog' has 2 usable pictures" in message


def test_smallest_set_that_works(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 3)
    fill(tmp_path / "dog", 3)
    assert [len(open_data(str(tmp_path)).splits[split]) for split in Split] == [2, 2, 2]


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 9)
    assert "at least two" in problems_of(tmp_path)


def test_pictures_without_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    message = problems_of(tmp_path)
    assert "no class folder" in message and str(tmp_path / "001.png") in message


def test_split_folders_without_class_folders(tmp_path: Path) -> None:
    fill(tmp_path / "train", 3)
    fill(tmp_path / "test", 3)
    message = problems_of(tmp_path)
    assert "no class folder" in message and str(tmp_path / "test" / "001.png") in message


def test_val_and_test_without_train(tmp_path: Path) -> None:
    for split in ("val", "test"):
        fill(tmp_path / split / "cat", 3)
    assert "no train/" in problems_of(tmp_path)


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    for split in ("train", "val", "validation"):
        fill(tmp_path / split / "cat", 3)
    assert "both the val split" in problems_of(tmp_path)


def test_path_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    assert "does not exist" in problems_of(tmp_path / "nowhere")
    assert "is a file" in problems_of(tmp_path / "a.zip")


def test_link_to_a_folder_is_reported(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "cat", 5)
    fill(tmp_path / "set" / "dog", 5)
    fill(tmp_path / "more", 5)
    (tmp_path / "set" / "dog" / "more").symlink_to(tmp_path / "more")
    assert "dog/more: a link to a folder is not followed" in problems_of(tmp_path / "set")


@pytest.mark.skipif(os.name == "nt", reason="no such names and files there")
def test_names_and_files_that_would_break_things_later(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 5)
    fill(tmp_path / "dog", 5)
    content = (tmp_path / "cat" / "000.png").read_bytes()
    (tmp_path / "cat" / "two\nlines.png").write_bytes(content)
    Path(os.fsdecode(os.fsencode(tmp_path / "dog") + b"/latin\xe9.png")).write_bytes(content)
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    message = problems_of(tmp_path)
    assert "two\\nlines.png: the file name holds a line break" in message
    assert "not valid UTF-8" in message
    assert "pipe.png: not a file" in message
    message.encode()


def test_very_many_problems_are_cut_with_a_count(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 4)
    (tmp_path / "dog").mkdir()
    for number in range(250):
        (tmp_path / "dog" / f"{number:03d}.jpg").touch()
    message = problems_of(tmp_path)
    assert "251 problems" in message and "... and 51 more" in message


def test_digest_sees_names_classes_and_sizes_but_not_the_split(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 5)
    fill(tmp_path / "dog", 5)
    digest = open_data(str(tmp_path)).digest
    assert open_data(str(tmp_path), seed=7).digest == digest
    Image.new("RGB", (99, 50)).save(tmp_path / "cat" / "000.png")
    changed = open_data(str(tmp_path)).digest
    (tmp_path / "cat" / "001.png").rename(tmp_path / "dog" / "moved.png")
    assert len({digest, changed, open_data(str(tmp_path)).digest}) == 3


def test_file_that_breaks_after_opening_is_a_data_error(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 5)
    fill(tmp_path / "dog", 5)
    data = open_data(str(tmp_path))
    item = data.splits[Split.TRAIN][0]
    (tmp_path / item.id).write_bytes(b"")
    with pytest.raises(DataError, match=item.id):
        data.read(item)


def test_listed_splits_are_restored_in_a_grown_folder(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 12)
    fill(tmp_path / "dog", 12)
    before = open_data(str(tmp_path))
    listed = split_ids(before)
    fill(tmp_path / "cat" / "new", 12)
    after = with_splits(open_data(str(tmp_path), seed=5), listed)
    assert after.splits == before.splits
    assert after.labels == before.labels
    assert after.read(after.splits[Split.VAL][0]).size == (8, 6)


def test_listed_splits_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 5)
    fill(tmp_path / "dog", 5)
    data = open_data(str(tmp_path))
    listed = split_ids(data)
    listed["test"] = ["cat/gone.png", listed["train"][0]]
    with pytest.raises(DataError) as caught:
        with_splits(data, listed)
    assert "cat/gone.png" in str(caught.value) and f"{listed['train'][0]}: listed 2 times" in str(caught.value)
