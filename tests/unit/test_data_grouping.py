"""Stratified divisions that keep groups whole."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.data.grouping import make_folds, split_grouped
from edgecnn.data.items import Item
from edgecnn.errors import DataError, UsageError
from edgecnn.spec import Split

WEIGHTS = {Split.TRAIN: 0.8, Split.VAL: 0.1, Split.TEST: 0.1}
LABELS = ("ant", "bee", "cat")


def pictures(per_class: int, classes: int = 2) -> list[Item]:
    return [Item(f"{LABELS[label]}/{number:03d}", label) for label in range(classes) for number in range(per_class)]


# Pictures as (group, class): as many as a list has, so that groups of all sizes and mixtures come up.
Drawn = list[tuple[int, int]]
drawn = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=120)


def as_set(places: Drawn) -> tuple[list[Item], dict[str, str]]:
    items = [Item(f"p/{number:03d}", label) for number, (_, label) in enumerate(places)]
    return items, {item.id: f"g{group}" for item, (group, _) in zip(items, places, strict=True)}


def check_parts(parts: list[tuple[Item, ...]], items: list[Item], groups: dict[str, str]) -> None:
    assert sorted(item.id for part in parts for item in part) == [item.id for item in items]
    where = Counter(group for part in parts for group in {groups[item.id] for item in part})
    assert set(where.values()) == {1}
    classes = {item.label for item in items}
    assert all({item.label for item in part} == classes for part in parts)


@settings(deadline=None)
@given(drawn, st.integers(2, 6), st.integers(0, 3))
def test_every_picture_is_in_one_fold_and_no_group_in_two(places: Drawn, count: int, seed: int) -> None:
    items, groups = as_set(places)
    try:
        folds = make_folds(items, count, seed, LABELS, groups)
    except DataError:
        return
    check_parts(folds, items, groups)
    assert folds == make_folds(items[::-1], count, seed, LABELS, groups)


@settings(deadline=None)
@given(drawn, st.integers(0, 3))
def test_no_group_is_in_two_splits(places: Drawn, seed: int) -> None:
    items, groups = as_set(places)
    try:
        splits = split_grouped(items, WEIGHTS, seed, LABELS, groups)
    except DataError:
        return
    check_parts(list(splits.values()), items, groups)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(2, 9), st.integers(1, 4), st.integers(0, 3))
def test_groups_of_one_class_can_always_be_divided(count: int, groups_each: int, size: int, seed: int) -> None:
    each = max(count, groups_each)
    places = [(label * 100 + group, label) for label in range(3) for group in range(each) for _ in range(size)]
    items, groups = as_set(places)
    folds = make_folds(items, count, seed, LABELS, groups)
    check_parts(folds, items, groups)
    for label in range(3):
        inside = [sum(item.label == label for item in fold) for fold in folds]
        assert max(inside) - min(inside) <= size


def test_without_groups_the_parts_are_as_even_as_can_be() -> None:
    folds = make_folds(pictures(12, 3), 5, 0, LABELS)
    for label in range(3):
        assert {sum(item.label == label for item in fold) for fold in folds} <= {2, 3}
    assert {len(fold) for fold in folds} <= {
        7,
        8,
    }  # 36 pictures: what remains of a class goes to another fold each time
    splits = split_grouped(pictures(100), WEIGHTS, 0, LABELS[:2])
    assert [len(splits[split]) for split in Split] == [160, 20, 20]


def test_splits_of_groups_come_near_the_fractions() -> None:
    items = pictures(200)
    groups = {item.id: f"{item.label}-{int(item.id[-3:]) // 4}" for item in items}
    splits = split_grouped(items, WEIGHTS, 0, LABELS[:2], groups)
    assert [len(splits[split]) for split in Split] == [320, 40, 40]


def test_another_seed_divides_otherwise() -> None:
    assert make_folds(pictures(20), 4, 0, LABELS[:2]) != make_folds(pictures(20), 4, 1, LABELS[:2])


def test_a_class_in_too_few_groups_is_refused_with_its_name() -> None:
    items = pictures(20)
    groups = {item.id: "barn" if item.label else item.id for item in items}
    with pytest.raises(DataError) as caught:
        split_grouped(items, WEIGHTS, 0, LABELS[:2], groups)
    assert "all 20 pictures of class 'bee' are in 1 group (barn), and 3 parts need one each" in str(caught.value)
    assert "smaller groups" in caught.value.hint


def test_a_class_with_too_few_pictures_is_refused() -> None:
    with pytest.raises(DataError, match=r"class 'ant' has 3 pictures \(ant/000, ant/001, ant/002\), and 4 parts"):
        make_folds(pictures(3), 4, 0, LABELS[:2])


def test_groups_that_tie_classes_together_are_refused_in_words() -> None:
    # "both" is needed by ant and by bee in the same place: two groups hold ant, two hold bee, and one is shared.
    items = [Item("1", 0), Item("2", 1), Item("3", 0), Item("4", 1), Item("5", 1)]
    groups = {"1": "both", "2": "both", "3": "a", "4": "b", "5": "b"}
    folds = make_folds(items, 2, 0, LABELS[:2], groups)
    check_parts(folds, items, groups)
    items += [Item("6", 2), Item("7", 2)]
    groups |= {"6": "a", "7": "both"}
    check_parts(make_folds(items, 2, 0, LABELS, groups), items, groups)
    tied = [Item("1", 0), Item("2", 1), Item("3", 1), Item("4", 2), Item("5", 0), Item("6", 2)]
    knots = {"1": "x", "2": "x", "3": "y", "4": "y", "5": "z", "6": "z"}
    with pytest.raises(DataError, match="without tearing groups apart"):
        make_folds(tied, 2, 0, LABELS, knots)


def test_one_fold_is_none() -> None:
    with pytest.raises(UsageError, match="1 folds"):
        make_folds(pictures(5), 1, 0, LABELS[:2])
