"""Choices among pictures: proportional, seeded, stable, never overlapping."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.data.items import Item
from edgecnn.data.splits import check_fractions, pick_stratified, share_out, split_stratified
from edgecnn.errors import UsageError
from edgecnn.spec import Split

WEIGHTS = {Split.TRAIN: 0.8, Split.VAL: 0.1, Split.TEST: 0.1}


def some_items(*counts: int) -> list[Item]:
    return [Item(f"{label}/{number:03d}.png", label) for label, count in enumerate(counts) for number in range(count)]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 500), st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_shares_are_whole_and_within_one_of_exact(total: int, weights: list[float]) -> None:
    shares = share_out(total, weights)
    assert sum(shares) == total
    assert all(abs(share - total * w / sum(weights)) < 1 + 1e-6 for share, w in zip(shares, weights, strict=True))


@settings(max_examples=200, deadline=None)
@given(st.integers(3, 200), st.tuples(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.01, 1)))
def test_every_share_gets_its_least(total: int, weights: tuple[float, float, float]) -> None:
    shares = share_out(total, weights, at_least=1)
    assert sum(shares) == total and min(shares) >= 1


def test_shares_that_cannot_all_have_their_least_still_sum_up() -> None:
    assert share_out(2, [0.8, 0.1, 0.1], at_least=1) in ([1, 1, 0], [2, 0, 0])


def test_eighty_ten_ten() -> None:
    assert share_out(10, [0.8, 0.1, 0.1]) == [8, 1, 1]
    assert share_out(100, [0.8, 0.1, 0.1]) == [80, 10, 10]
    assert share_out(3, [0.8, 0.1, 0.1], at_least=1) == [1, 1, 1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(3, 40), min_size=2, max_size=5), st.integers(0, 1000))
def test_splits_partition_the_items_and_hold_every_class(counts: list[int], seed: int) -> None:
    items = some_items(*counts)
    splits = split_stratified(items, WEIGHTS, seed)
    together = [item for split in splits.values() for item in split]
    assert sorted(together, key=lambda item: item.id) == items
    assert all({item.label for item in split} == set(range(len(counts))) for split in splits.values())


def test_split_depends_on_the_seed_and_not_on_the_order_given() -> None:
    items = some_items(50, 30)
    first = split_stratified(items, WEIGHTS, 0)
    assert split_stratified(items[::-1], WEIGHTS, 0) == first
    assert split_stratified(items, WEIGHTS, 1) != first


def test_split_is_the_same_on_every_machine() -> None:
    splits = split_stratified(some_items(10, 10), WEIGHTS, 0)
    assert [item.id for item in splits[Split.VAL]] == ["0/007.png", "1/000.png"]
    assert [item.id for item in splits[Split.TEST]] == ["0/000.png", "1/003.png"]


def test_added_picture_moves_few_others() -> None:
    items = some_items(200, 200)
    before = split_stratified(items, WEIGHTS, 0)
    after = split_stratified([*items, Item("0/new.png", 0)], WEIGHTS, 0)
    moved = [item for split in WEIGHTS for item in before[split] if item not in after[split]]
    assert len(moved) <= 2


def test_pick_is_stratified_listed_and_sorted() -> None:
    items = some_items(100, 50, 50)
    picked = pick_stratified(items, 40, 0, "calibration")
    assert [sum(item.label == label for item in picked) for label in range(3)] == [20, 10, 10]
    assert [item.id for item in picked] == sorted({item.id for item in picked})
    assert pick_stratified(items, 40, 0, "calibration") == picked
    assert pick_stratified(items, 40, 1, "calibration") != picked
    assert pick_stratified(items, 40, 0, "limit") != picked


def test_pick_takes_all_when_there_are_fewer() -> None:
    items = some_items(4, 3)
    assert pick_stratified(items, 99, 0, "x") == tuple(items)


def test_pick_of_fewer_than_classes_gives_exactly_that_many() -> None:
    assert len(pick_stratified(some_items(5, 5, 5, 5), 2, 0, "x")) == 2


@pytest.mark.parametrize("count", [0, -1])
def test_pick_of_nothing_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="calibration"):
        pick_stratified(some_items(3, 3), count, 0, "calibration")


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1)])
def test_impossible_fractions_are_refused(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="sum to 1"):
        check_fractions(fractions)
