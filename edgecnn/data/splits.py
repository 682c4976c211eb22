"""Seeded, stratified choices among pictures.

Every choice orders the pictures of a class by the SHA-256 of seed and id and takes the first ones. Unlike a random
generator's shuffle this does not depend on library versions or on the order of the file system, and a picture added to
the set moves few of the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

from edgecnn.data.items import Item
from edgecnn.errors import UsageError
from edgecnn.spec import Split

SPLIT_ORDER = (Split.TRAIN, Split.VAL, Split.TEST)


def group_by_label(items: Iterable[Item]) -> dict[int, list[Item]]:
    """The items of each class, classes in ascending order; those with several labels each are one group."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return dict(sorted(groups.items()))


def shuffled(items: Iterable[Item], seed: int, purpose: str) -> list[Item]:
    """The items in an order that depends on nothing but seed, purpose and their ids."""

    def key(item: Item) -> bytes:
        return hashlib.sha256(f"{seed}\n{purpose}\n{item.id}".encode()).digest()

    return sorted(items, key=key)


def share_out(total: int, weights: Sequence[float], *, at_least: int = 0) -> list[int]:
    """Divide ``total`` into whole numbers proportional to ``weights`` (largest remainder, ties to the earlier one).

    Every share whose weight is not zero gets ``at_least``, taken from the largest share, when ``total`` allows it.
    """
    whole = sum(weights)
    exact = [total * weight / whole for weight in weights]
    shares = [math.floor(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-round(exact[i] - shares[i], 9), i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    for i, weight in enumerate(weights):
        while weight > 0 and shares[i] < at_least:
            richest = max(range(len(shares)), key=lambda j: shares[j])
            if shares[richest] <= at_least:
                return shares
            shares[richest] -= 1
            shares[i] += 1
    return shares


def check_fractions(fractions: tuple[float, float, float]) -> None:
    """Raise ``UsageError`` unless the three are positive and sum to 1."""
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UsageError(
            f"the split fractions are {fractions}",
            hint="give three positive numbers that sum to 1 for train, val and test, for example 0.8, 0.1, 0.1",
        )


def split_stratified(items: Sequence[Item], weights: Mapping[Split, float], seed: int) -> dict[Split, tuple[Item, ...]]:
    """Divide items among splits in the proportion of ``weights``, class by class.

    Every split gets at least one picture of each class that has enough of them.
    """
    wanted = [split for split in SPLIT_ORDER if weights.get(split, 0) > 0]
    chosen: dict[Split, list[Item]] = {split: [] for split in wanted}
    for group in group_by_label(items).values():
        ordered = shuffled(group, seed, "split")
        start = 0
        for split, count in zip(
            wanted, share_out(len(ordered), [weights[split] for split in wanted], at_least=1), strict=True
        ):
            chosen[split] += ordered[start : start + count]
            start += count
    return {split: by_id(group) for split, group in chosen.items()}


def pick_stratified(items: Sequence[Item], count: int, seed: int, purpose: str) -> tuple[Item, ...]:
    """``count`` of the items (all of them if there are fewer), classes in their proportion, sorted by id.

    Raises ``UsageError`` if ``count`` is not positive.
    """
    if count < 1:
        raise UsageError(f"{count} pictures were asked for ({purpose})", hint="ask for at least one")
    if count >= len(items):
        return by_id(items)
    groups = list(group_by_label(items).values())
    shares = share_out(count, [len(group) for group in groups], at_least=1)
    picked: list[Item] = []
    for group, share in zip(groups, shares, strict=True):
        picked += shuffled(group, seed, purpose)[:share]
    return by_id(picked)


def by_id(items: Iterable[Item]) -> tuple[Item, ...]:
    """The items sorted by id."""
    return tuple(sorted(items, key=lambda item: item.id))
