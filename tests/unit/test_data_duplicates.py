"""Copies are found, exact or not, wherever they lie; pictures that only look plain are not taken for copies."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from edgecnn.data.duplicates import Duplicates, Entry, find_duplicates, perceptual_hashes, take_print, take_prints
from edgecnn.data.items import Item
from edgecnn.data.source import open_data
from edgecnn.spec import Split


def photo(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Smooth coloured noise of several scales, unlike that of any other seed."""
    numbers = np.random.default_rng(seed)
    picture = Image.fromarray(numbers.integers(0, 256, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    fine = Image.fromarray(numbers.integers(0, 256, (40, 50, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(picture, fine, 0.3)


def saved_again(picture: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality)
    return Image.open(content).convert("RGB")


def found(pictures: Mapping[str, Image.Image], max_distance: int = 6) -> Duplicates:
    """Ids are like train/0/a: split, label, name."""
    entries = []
    for id, picture in pictures.items():
        split, label, _ = id.split("/")
        entries.append(Entry(Item(id, int(label)), Split(split), take_print(picture)))
    return find_duplicates(entries, max_distance)


def ids(duplicates: Duplicates) -> list[set[str]]:
    return [{entry.item.id for entry in group.entries} for group in duplicates.groups]


def test_an_exact_copy_is_found_and_its_other_class_told() -> None:
    result = found({"train/0/a": photo(1), "train/0/b": photo(2), "train/1/c": photo(1)})
    assert ids(result) == [{"train/0/a", "train/1/c"}]
    (group,) = result.groups
    assert group.exact and group.conflict and not group.leak and group.distance == 0


@pytest.mark.parametrize(
    "changed",
    [
        saved_again(photo(1), 40),
        photo(1).resize((80, 60)),
        photo(1).resize((333, 250)),
        saved_again(photo(1).resize((100, 75)), 60),
        photo(1).filter(ImageFilter.GaussianBlur(1)),
        ImageEnhance.Brightness(photo(1)).enhance(0.8),
        photo(1).convert("L").convert("RGB"),
    ],
)
def test_a_changed_copy_in_another_split_is_a_leak(changed: Image.Image) -> None:
    others = {f"train/0/{seed}": photo(seed) for seed in range(2, 30)}
    result = found({"train/0/1": photo(1), **others, "test/0/copy": changed})
    assert ids(result) == [{"train/0/1", "test/0/copy"}]
    (group,) = result.groups
    assert group.leak and not group.exact and not group.conflict
    assert group.splits == (Split.TRAIN, Split.TEST)


def test_unlike_pictures_are_not_copies() -> None:
    assert found({f"train/0/{seed}": photo(seed) for seed in range(300)}).groups == ()


def test_equal_hashes_of_unlike_pictures_are_not_enough() -> None:
    """The bits of weak frequencies agree, the strong ones that make the picture do not."""
    rows, columns = np.mgrid[0:32, 0:32]
    weak = np.asarray(photo(5, (32, 32)).convert("L"), np.float64) / 8
    pictures = {}
    for name, axis in (("a", rows), ("b", columns)):
        grey = np.clip(100 + 70 * np.cos(np.pi * (2 * axis + 1) / 64) + weak, 0, 255).astype(np.uint8)
        pictures[f"train/0/{name}"] = Image.fromarray(grey).convert("RGB")
    assert found(pictures, 16).groups == ()


def test_plain_pictures_are_compared_exactly_only() -> None:
    stripes = np.repeat(np.arange(0, 256, 8, np.uint8)[:, None], 32, axis=1)
    plain = {
        "train/0/white": Image.new("RGB", (20, 20), "white"),
        "train/0/black": Image.new("RGB", (20, 20), "black"),
        "train/0/grey": Image.new("RGB", (30, 20), "grey"),
        "train/0/up": Image.fromarray(stripes).convert("RGB"),
        "train/0/down": Image.fromarray(stripes[::-1].copy()).convert("RGB"),
    }
    result = found({**plain, "val/0/white": Image.new("RGB", (20, 20), "white")})
    assert ids(result) == [{"train/0/white", "val/0/white"}]
    assert result.flat == 6


def test_groups_are_joined_and_leaks_come_first() -> None:
    pictures = {
        "train/0/a": photo(1),
        "train/0/b": photo(1).resize((80, 60)),
        "train/0/c": photo(2),
        "train/0/d": saved_again(photo(1), 50),
        "val/0/e": photo(2),
    }
    assert ids(found(pictures)) == [{"train/0/c", "val/0/e"}, {"train/0/a", "train/0/b", "train/0/d"}]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = {f"train/0/{seed}": photo(seed) for seed in range(20)}
    pictures |= {f"test/0/{seed}": photo(seed).resize((90, 70)) for seed in range(0, 20, 3)}
    whole = ids(found(pictures))
    monkeypatch.setattr("edgecnn.data.duplicates._BLOCK", 3)
    assert ids(found(pictures)) == whole
    assert len(whole) == 7


def test_hashes_have_64_bits_of_which_half_are_set() -> None:
    grey = np.stack([take_print(photo(seed)).grey for seed in range(5)])
    hashes, detail = perceptual_hashes(grey)
    assert hashes.dtype == np.uint64
    assert detail.all()
    assert set(np.bitwise_count(hashes).tolist()) == {32}


def test_nothing_at_all_and_a_set_that_is_no_folder() -> None:
    assert find_duplicates([]) == Duplicates((), 0)
    entries = take_prints(open_data("digits"))
    assert len(entries) == 1797
    assert {entry.print.size for entry in entries} == {(8, 8)}
