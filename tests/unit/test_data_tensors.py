"""Arrays, statistics and calibration: exact, from the right split, in bounded memory."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from edgecnn.data import parallel, tensors
from edgecnn.data.items import Item
from edgecnn.data.parallel import in_threads
from edgecnn.data.tensors import (
    channel_stats,
    choose_calibration,
    fit_preprocess,
    iter_batches,
    load_items,
    load_split,
    stats_of_levels,
)
from edgecnn.errors import DataError, UsageError
from edgecnn.spec import Preprocess, Split

P = Preprocess(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass
class Painted:
    """Pictures of one colour each, computed from their number; reads are listed."""

    train: int = 40
    reads: list[str] = field(default_factory=list)
    name: str = "painted"
    labels: tuple[str, ...] = ("a", "b")
    digest: str = ""
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[Split, tuple[Item, ...]]:
        def part(split: Split, count: int) -> tuple[Item, ...]:
            return tuple(Item(f"{split}/{n:03d}", n % 2) for n in range(count))

        return {
            Split.TRAIN: part(Split.TRAIN, self.train),
            Split.VAL: part(Split.VAL, 6),
            Split.TEST: part(Split.TEST, 6),
        }

    def read(self, item: Item) -> Image.Image:
        self.reads.append(item.id)
        split, number = item.id.split("/")
        shade = int(number) if split == "train" else 255
        return Image.new("RGB", (5, 4), (shade, 2 * shade % 256, shade // 2))


def test_load_split_keeps_pictures_labels_and_ids_together() -> None:
    loaded = load_split(Painted(), Split.TRAIN, P)
    assert loaded.images.shape == (40, 4, 4, 3) and loaded.images.dtype == np.uint8
    assert loaded.labels.dtype == np.int64 and len(loaded) == 40
    for image, label, id in zip(loaded.images, loaded.labels, loaded.ids, strict=True):
        number = int(id.split("/")[1])
        assert label == number % 2 and (image == [number, 2 * number, number // 2]).all()


def test_limit_is_stratified_seeded_and_listed() -> None:
    first = load_split(Painted(), Split.TRAIN, P, limit=10)
    assert first.labels.sum() == 5 and len(set(first.ids)) == 10
    assert load_split(Painted(), Split.TRAIN, P, limit=10).ids == first.ids
    assert load_split(Painted(), Split.TRAIN, P, limit=10, seed=1).ids != first.ids


def test_items_keep_the_given_order() -> None:
    data = Painted()
    items = data.splits[Split.TRAIN][7:3:-1]
    loaded = load_items(data, items, P)
    assert loaded.images[:, 0, 0, 0].tolist() == [7, 6, 5, 4]


def test_batches_are_read_one_at_a_time() -> None:
    data = Painted()
    batches = iter_batches(data, data.splits[Split.TRAIN], P, 16)
    assert len(next(batches)) == 16
    assert len(data.reads) == 16
    assert [len(batch) for batch in batches] == [16, 8]
    assert sorted(data.reads) == [item.id for item in data.splits[Split.TRAIN]]


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(UsageError, match="batch size is 0"):
        next(iter_batches(Painted(), (), P, 0))


def test_statistics_see_train_only_and_match_numpy() -> None:
    data = Painted()
    mean, std = channel_stats(data, P, mode="per_channel")
    assert {id.split("/")[0] for id in data.reads} == {"train"}
    images = load_split(data, Split.TRAIN, P).images / 255
    assert np.allclose(mean, images.mean(axis=(0, 1, 2)))
    assert np.allclose(std, images.std(axis=(0, 1, 2)))


def test_uniform_statistics_fold_into_a_quantized_input() -> None:
    mean, std = channel_stats(Painted(), P)
    p = Preprocess(4, mean, std)
    assert p.uniform
    images = load_split(Painted(), Split.TRAIN, P).images.astype(float)
    assert round(mean[0] * 255) == round(images.mean())
    assert std[0] == pytest.approx(np.sqrt(((images - round(images.mean())) ** 2).mean()) / 255)


def test_statistics_are_exact_for_any_levels() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 5, 5, 3), dtype=np.uint8)
    mean, std = stats_of_levels(tensors.count_levels(images), "per_channel")
    assert np.allclose(mean, images.mean(axis=(0, 1, 2)) / 255)
    assert np.allclose(std, images.std(axis=(0, 1, 2)) / 255)


def test_levels_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 5, 3), dtype=np.uint8)
    whole = tensors.count_levels(images)
    monkeypatch.setattr(tensors, "_BLOCK", 3)
    assert np.array_equal(tensors.count_levels(images), whole) and whole.sum() == images.size


def test_statistics_of_plain_colour_are_refused() -> None:
    counts = np.zeros((3, 256), np.int64)
    counts[:, 7] = 100
    with pytest.raises(DataError, match="one plain colour"):
        stats_of_levels(counts)


def test_unknown_kind_of_statistics() -> None:
    with pytest.raises(UsageError, match="uniform or per_channel"):
        channel_stats(Painted(), P, mode="imagenet", limit=2)


def test_fit_preprocess_keeps_the_geometry() -> None:
    p = fit_preprocess(Painted(), 4, crop_fraction=0.5, limit=20)
    assert (p.size, p.resize, p.uniform) == (4, 8, True)
    with pytest.raises(UsageError, match="crop fraction"):
        fit_preprocess(Painted(), 4, crop_fraction=0.0)


def test_calibration_is_from_train_stratified_and_repeatable() -> None:
    data = Painted()
    chosen = choose_calibration(data, 12, seed=3)
    assert set(chosen) <= set(data.splits[Split.TRAIN])
    assert sum(item.label for item in chosen) == 6
    assert choose_calibration(data, 12, seed=3) == chosen
    assert choose_calibration(data, 12, seed=4) != chosen
    everything = choose_calibration(data, 1000, seed=3)
    assert sorted(item.id for item in everything) == [item.id for item in data.splits[Split.TRAIN]]
    assert len({item.label for item in everything[: len(everything) // 2]}) == 2  # not one class after another


def test_threads_keep_the_order_and_are_used_for_slow_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_cores", lambda: 4)
    seen: set[int] = set()

    def slow(number: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.001)
        return -number

    assert list(in_threads(slow, range(300))) == [-n for n in range(300)]
    assert len(seen) > 1


def test_quick_work_stays_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_WORTH_A_THREAD_S", 10.0)
    seen: set[int] = set()
    assert len(list(in_threads(lambda n: seen.add(threading.get_ident()), range(1000)))) == 1000
    assert seen == {threading.get_ident()}


def test_failure_in_a_thread_reaches_the_caller_and_ends_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.001)
        if number == 100:
            raise DataError("broken")
        done.append(number)

    with pytest.raises(DataError, match="broken"):
        list(in_threads(work, range(2000)))
    assert len(done) < 1000


def test_results_that_nobody_wants_any_more_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.001)
        done.append(number)

    results = in_threads(work, range(2000))
    for _ in range(100):
        next(results)
    results.close()
    assert len(done) < 1500
