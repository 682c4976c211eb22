"""Decoded pictures in a mapped file: the same pixels, decoded once, no damaged file used, limits on the disk kept."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgecnn.data import mapped, memory
from edgecnn.data.items import Item
from edgecnn.data.mapped import UNFINISHED, WHOLE, key_of
from edgecnn.data.memory import LIMIT_VARIABLE, SHARE, available_bytes, memory_limit
from edgecnn.data.preprocess import load_picture
from edgecnn.data.source import ImageSet, open_data, with_val_share
from edgecnn.data.tensors import load_split
from edgecnn.errors import DataError, UsageError
from edgecnn.pipeline import transferring
from edgecnn.pipeline.preparing import with_statistics
from edgecnn.spec import Interpolation, Preprocess, Split
from edgecnn.train.config import TrainConfig
from edgecnn.train.loop import fit

P = Preprocess(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
MAP_ALL = "0"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(LIMIT_VARIABLE, MAP_ALL)
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number:02d}.bmp")  # all of one size
    return tmp_path / "photos"


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "apply", lambda *_: pytest.fail("decoded again"))


def files_in(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_same_pixels_as_in_memory_and_decoded_once(cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(str(photos))
    monkeypatch.setenv(LIMIT_VARIABLE, "1000000000")
    small = {split: load_split(data, split, P) for split in Split}
    assert not cache.exists()
    monkeypatch.setenv(LIMIT_VARIABLE, MAP_ALL)
    for again in (False, True):
        if again:
            forbid_reading(monkeypatch)
        for split in Split:
            big = load_split(data, split, P)
            assert big.ids == small[split].ids and np.array_equal(big.labels, small[split].labels)
            assert big.images.dtype == np.uint8 and np.array_equal(big.images, small[split].images)
    assert files_in(cache) == [WHOLE] * 3


def test_grey_pictures_take_a_third_and_are_not_those_of_rgb(cache: Path, photos: Path) -> None:
    data, grey = open_data(str(photos)), Preprocess(8, (0.0,), (1.0,))
    coloured, plain = load_split(data, Split.TRAIN, P), load_split(data, Split.TRAIN, grey)
    assert plain.images.shape == (*coloured.images.shape[:3], 1)
    sizes = sorted(file.stat().st_size - 32 for file in cache.iterdir())  # less the key
    assert sizes == [plain.images.nbytes, coloured.images.nbytes] == [plain.images.nbytes, 3 * plain.images.nbytes]
    assert key_of(data, data.splits[Split.TRAIN], P) != key_of(data, data.splits[Split.TRAIN], grey)


def test_torch_takes_the_array_and_writing_to_it_never_reaches_the_file(cache: Path, photos: Path) -> None:
    data = open_data(str(photos))
    images = load_split(data, Split.TRAIN, P).images
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that cannot be written
        tensor = torch.from_numpy(images)
    assert torch.equal(tensor[[3, 1]], torch.from_numpy(images[[3, 1]]))
    tensor.fill_(7)
    assert load_split(data, Split.TRAIN, P).images.std() > 0


def test_the_limit_counts_bytes_of_one_split(cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(str(photos))
    count = len(data.splits[Split.TRAIN])
    monkeypatch.setenv(LIMIT_VARIABLE, str(count * 8 * 8 * 3))
    load_split(data, Split.TRAIN, P)
    assert not cache.exists()
    monkeypatch.setenv(LIMIT_VARIABLE, str(count * 8 * 8 * 3 - 1))
    load_split(data, Split.TRAIN, P)
    load_split(data, Split.TEST, P)
    assert files_in(cache) == [WHOLE]


@pytest.mark.parametrize("damage", ["cut", "longer", "key"])
def test_a_damaged_file_is_made_anew(cache: Path, photos: Path, damage: str) -> None:
    data = open_data(str(photos))
    expected = load_split(data, Split.VAL, P).images.copy()
    (file,) = cache.iterdir()
    content = file.read_bytes()
    bad = {"cut": content[:-40], "longer": content + b"x", "key": content[:-1] + bytes([content[-1] ^ 1])}
    file.write_bytes(bad[damage])
    assert np.array_equal(load_split(data, Split.VAL, P).images, expected)
    assert file.read_bytes() == content


def test_the_key_knows_all_that_decides_the_pixels(cache: Path, photos: Path) -> None:
    data = open_data(str(photos))
    items = data.splits[Split.VAL]
    key = key_of(data, items, P)
    assert key == key_of(open_data(str(photos)), items, P)
    assert key == key_of(data, items, Preprocess(8, (0.5,) * 3, (0.2,) * 3))  # normalization comes later
    others = [
        key_of(data, items[::-1], P),
        key_of(data, items[1:], P),
        key_of(data, items, Preprocess(9, P.mean, P.std)),
        key_of(data, items, Preprocess(8, P.mean, P.std, Interpolation.BICUBIC)),
        key_of(data, items, Preprocess(8, P.mean, P.std, crop_fraction=0.5)),
        key_of(open_data(str(shutil.copytree(photos, photos.with_name("copy")))), items, P),
    ]
    assert len({key, *others}) == 1 + len(others)


@pytest.mark.parametrize("resplit", [False, True])
def test_a_changed_picture_is_decoded_again(cache: Path, photos: Path, resplit: bool) -> None:
    def opened() -> ImageSet:
        data = open_data(str(photos))
        return with_val_share(data, 0.3) if resplit else data

    item = opened().splits[Split.VAL][0]
    before = load_split(opened(), Split.VAL, P).images.copy()
    file = photos / item.id
    changed = np.asarray(load_picture(file)) ^ 255
    size = file.stat().st_size
    Image.fromarray(changed).save(file)
    os.utime(file, ns=(0, 10**18))
    assert file.stat().st_size == size  # the digest of the set cannot know
    after = load_split(opened(), Split.VAL, P).images
    assert not np.array_equal(after[0], before[0]) and np.array_equal(after[1:], before[1:])


def test_nothing_is_left_when_decoding_fails(cache: Path, photos: Path) -> None:
    data = open_data(str(photos))
    (photos / data.splits[Split.TRAIN][5].id).write_bytes(b"no picture any more")
    with pytest.raises(DataError, match="not a picture"):
        load_split(data, Split.TRAIN, P)
    assert files_in(cache) == []


def test_a_full_disk_is_told_before_decoding(cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(str(photos))
    forbid_reading(monkeypatch)
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 100, 100))
    with pytest.raises(DataError, match=r"decoded .* free there") as error:
        load_split(data, Split.TRAIN, P)
    assert "EDGECNN_CACHE" in error.value.hint and LIMIT_VARIABLE in error.value.hint
    assert files_in(cache) == []


def test_a_disk_that_fills_up_is_an_error_too(cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped.os, "pwrite", lambda file, content, place: len(content) - 1)
    with pytest.raises(DataError, match="No space left"):
        load_split(open_data(str(photos)), Split.TRAIN, P)
    assert files_in(cache) == []


def test_a_cache_that_cannot_be_made_is_an_error(cache: Path, photos: Path) -> None:
    data = open_data(str(photos))
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="kept on the disk"):
        load_split(data, Split.TRAIN, P)


def test_least_recently_used_files_go_first_and_used_ones_stay(
    cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data(str(photos))

    def made(count: int) -> tuple[Path, object]:
        items = data.splits[Split.TRAIN][:count]
        images = mapped.load_mapped(data, items, P)
        return cache / f"{key_of(data, items, P).hex()[:32]}{WHOLE}", images

    old, _ = made(10)
    used, holding = made(11)
    recent, _ = made(12)
    abandoned = cache / f"killed{UNFINISHED}"
    abandoned.write_bytes(b"pixels")
    for age, file in enumerate((recent, old, used)):
        os.utime(file, ns=(0, 10**18 - age))
    del _
    gc.collect()
    monkeypatch.setattr(mapped, "LIMIT_BYTES", (11 + 12 + 13) * 192 + 3 * 32)
    new, _ = made(13)
    assert {path.name for path in cache.iterdir()} == {path.name for path in (used, recent, new)}
    monkeypatch.setattr(mapped, "LIMIT_BYTES", 0)
    newest, _ = made(14)
    assert {used, newest} <= set(cache.iterdir()) and not recent.exists() and holding is not None


def test_processes_that_want_the_same_decode_once(cache: Path, photos: Path) -> None:
    program = (
        "import sys; from edgecnn.data import mapped; from edgecnn.data.source import open_data\n"
        "from edgecnn.data.tensors import load_split; from edgecnn.spec import Preprocess, Split\n"
        "import time; made = mapped._decode\n"
        "def slow(*args): print('decoded'); time.sleep(1); made(*args)\n"
        "mapped._decode = slow\n"
        "images = load_split(open_data(sys.argv[1]), Split.TRAIN, Preprocess(8, (0.,) * 3, (1.,) * 3)).images\n"
        "print(images.sum()); sys.stdout.flush(); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(photos)]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    try:
        # Neither ends before both have their pictures: nobody may wait for one who only uses the file.
        said = [line for each in both for line in lines_to_number(each)]
    finally:
        for each in both:
            each.communicate("")
    assert sorted(line == "decoded" for line in said) == [False, False, True]
    assert len(set(said)) == 2


def lines_to_number(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    lines = [process.stdout.readline().strip()]
    while lines[-1] and not lines[-1].isdecimal():
        lines.append(process.stdout.readline().strip())
    return lines


def test_training_ends_with_the_same_weights(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data("digits")
    weights = []
    for limit in ("1000000000", MAP_ALL):
        monkeypatch.setenv(LIMIT_VARIABLE, limit)
        train, val = (load_split(data, split, P) for split in (Split.TRAIN, Split.VAL))
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))
        p = with_statistics(P, train, "uniform")
        fit(model, train, val, p, TrainConfig(epochs=1, batch_size=128, threads=1), tmp_path / limit)
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert len(files_in(cache)) == 2
    assert torch.equal(*weights)


def test_kept_features_are_found_for_mapped_pictures(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transferring, "BLOCK", 100)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    big = load_split(open_data("digits"), Split.VAL, P)
    monkeypatch.setenv(LIMIT_VARIABLE, "1000000000")
    small = load_split(open_data("digits"), Split.VAL, P)
    keys = {transferring._key(model, part, P, False) for part in (big, small)}
    assert len(keys) == 1


def test_limit_from_the_machine_the_container_or_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:    8000 kB\nHugePages_Total:       0\n")
    assert available_bytes(meminfo, tmp_path) == 8000 * 1024
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 2000000\ninactive_file 900000\n")
    assert available_bytes(meminfo, tmp_path) == 2900000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 8000 * 1024
    assert available_bytes(tmp_path / "none", tmp_path / "none") is None
    old = tmp_path / "old" / "memory"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("5000000\n")
    (old / "memory.usage_in_bytes").write_text("3000000\n")
    (old / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 800000\n")
    assert available_bytes(meminfo, tmp_path / "old") == 2800000
    (old / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert available_bytes(meminfo, tmp_path / "old") == 8000 * 1024
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    assert memory_limit() == int(SHARE * 1000)
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    assert memory_limit() == memory.UNKNOWN_BYTES
    monkeypatch.setenv(LIMIT_VARIABLE, "2 GB")
    with pytest.raises(UsageError, match=f"{LIMIT_VARIABLE} is '2 GB'"):
        memory_limit()


def test_items_of_any_set_are_mapped(cache: Path) -> None:
    data = open_data("digits")
    items = [Item(item.id, item.label) for item in data.splits[Split.VAL][:5]]
    assert mapped.load_mapped(data, items, P).shape == (5, 8, 8, 3)
