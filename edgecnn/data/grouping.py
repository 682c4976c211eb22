"""Stratified divisions in which groups stay together: all pictures of a patient, a plant or a camera on one side.

Pictures of one thing resemble each other. With some of them in train and others in test, a network is paid for
knowing the thing again, and the figure says nothing of things it has never seen.

The division is greedy, as scikit-learn's ``StratifiedGroupKFold`` is, for parts of any size: every class has a whole
number of pictures to bring into each part, groups are taken from the largest to the smallest, and each goes where the
classes in it are farthest below their numbers. Ties and the order of equal groups follow from SHA-256, so a division
is the same on every machine.

Pictures with several labels each, or groups of them, are divided by iterative stratification (Sechidis, Tsoumakas and
Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011, figure 1): the rarest label that is left comes
first, and each picture with it goes to the part that wants most of that label.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgecnn.data.items import Item, many_labels
from edgecnn.data.splits import SPLIT_ORDER, by_id, share_out
from edgecnn.errors import DataError, UsageError
from edgecnn.spec import Split

_ORDERS = 20  # so many orders of the groups are tried before a division is said to be impossible
_NAMED = 5  # groups that an error names

Counts = NDArray[np.int64]


def split_grouped(
    items: Sequence[Item],
    weights: Mapping[Split, float],
    seed: int,
    labels: Sequence[str],
    groups: Mapping[str, str] | None = None,
) -> dict[Split, tuple[Item, ...]]:
    """Divide items among splits in the proportion of ``weights``; no group (id -> group) is in two of them.

    An item without a group is a group of its own. Raises ``DataError`` when a class cannot be in every split.
    """
    wanted = [split for split in SPLIT_ORDER if weights.get(split, 0) > 0]
    names = [f"the {split} split" for split in wanted]
    parts = divide(items, [weights[split] for split in wanted], seed, labels, groups, names)
    return {split: by_id(part) for split, part in zip(wanted, parts, strict=True)}


def make_folds(
    items: Sequence[Item], count: int, seed: int, labels: Sequence[str], groups: Mapping[str, str] | None = None
) -> list[tuple[Item, ...]]:
    """``count`` folds of about equal size: each item is in exactly one, no group (id -> group) in two.

    Raises ``UsageError`` for fewer than two folds, ``DataError`` when a class cannot be in every fold.
    """
    if count < 2:
        raise UsageError(f"{count} folds", hint="give 2 or more; 5 and 10 are usual")
    names = [f"fold {number}" for number in range(1, count + 1)]
    return [by_id(part) for part in divide(items, [1.0] * count, seed, labels, groups, names)]


def divide(
    items: Sequence[Item],
    weights: Sequence[float],
    seed: int,
    labels: Sequence[str],
    groups: Mapping[str, str] | None,
    names: Sequence[str],
) -> list[list[Item]]:
    """Items in parts proportional to ``weights``, stratified, groups whole; ``names`` of the parts are for errors.

    Raises ``DataError`` that says which class cannot be in every part, and why.
    """
    members: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        # A group and the id of a picture without one may be the same text.
        own = (groups or {}).get(item.id)
        members[f"={item.id}" if own is None else f"+{own}"].append(item)
    keys = sorted(members)
    several = many_labels(items)
    counts = np.zeros((len(keys), len(labels) + several), np.int64)
    for row, key in enumerate(keys):
        for label, count in Counter(label for item in members[key] for label in item.labels).items():
            counts[row, label] = count
        if several:  # labels do not add up to pictures: these are divided in proportion like one more label
            counts[row, -1] = len(members[key])
    _check_possible(counts, keys, labels, len(weights), grouped=bool(groups))
    targets = _targets(counts.sum(axis=0), weights)
    for attempt in range(_ORDERS):
        found = (_assign_rarest if several else _assign)(counts, targets, _order(counts, keys, seed, attempt))
        sums = _sums(counts, found, len(weights))
        if _repair(counts, found, sums, targets):
            break
    else:
        part, label = (int(each) for each in np.argwhere((sums == 0) & (counts.sum(axis=0) > 0))[0])
        raise DataError(
            f"no way was found to have class {labels[label]!r} in {names[part]} without tearing groups apart: the "
            "groups that hold it hold other classes too, which are needed elsewhere",
            hint="ask for fewer parts, give more pictures of that class, or form smaller groups",
        )
    parts: list[list[Item]] = [[] for _ in weights]
    for row, part in enumerate(found):
        parts[part] += members[keys[row]]
    return parts


def _check_possible(counts: Counts, keys: Sequence[str], labels: Sequence[str], parts: int, *, grouped: bool) -> None:
    """Raise ``DataError`` naming every class that lies in fewer groups than there are parts."""
    problems = []
    for label, name in enumerate(labels):
        where = np.flatnonzero(counts[:, label])
        if 0 < len(where) < parts:
            pictures = int(counts[:, label].sum())
            named = ", ".join(keys[row][1:] for row in where[:_NAMED]) + (", ..." if len(where) > _NAMED else "")
            unit = ("group" if grouped else "picture") + ("" if len(where) == 1 else "s")
            all_in = f"all {pictures} pictures of class {name!r} are in" if grouped else f"class {name!r} has"
            problems.append(f"  {all_in} {len(where)} {unit} ({named}), and {parts} parts need one each")
    if problems:
        raise DataError(
            "\n".join([f"these classes cannot be in each of {parts} parts:", *problems]),
            hint="ask for fewer parts, give more pictures of these classes, or form smaller groups",
        )


def _targets(totals: Counts, weights: Sequence[float]) -> Counts:
    """Pictures (parts, classes) that each part should get.

    Equal parts take turns in getting what remains, or the first one would get one picture more of every class.
    """
    columns, turn = [], 0
    equal = len(set(weights)) == 1
    for total in totals.tolist():
        shares = share_out(total, weights, at_least=1)
        if equal:
            shares = [shares[(place - turn) % len(weights)] for place in range(len(weights))]
            turn += total % len(weights)
        columns.append(shares)
    return np.array(columns, np.int64).T


def _order(counts: Counts, keys: Sequence[str], seed: int, attempt: int) -> list[int]:
    """Rows from the largest group to the smallest; equal ones by hash."""

    def key(row: int) -> tuple[int, bytes]:
        return -int(counts[row].sum()), hashlib.sha256(f"{seed}\ngroup {attempt}\n{keys[row]}".encode()).digest()

    return sorted(range(len(keys)), key=key)


def _assign(counts: Counts, targets: Counts, order: Sequence[int]) -> Counts:
    """The part (groups,) of each group: where the squared distance from the targets grows least."""
    scale = 1 / np.maximum(counts.sum(axis=0), 1)  # of two classes, the smaller one minds a picture more
    missing = targets.copy()
    found = np.zeros(len(counts), np.int64)
    for row in order:
        labels = np.flatnonzero(counts[row])
        group = counts[row, labels]
        found[row] = np.argmin(((group - 2 * missing[:, labels]) * (group * scale[labels])).sum(axis=1).round(9))
        missing[found[row], labels] -= group
    return found


def _assign_rarest(counts: Counts, targets: Counts, order: Sequence[int]) -> Counts:
    """The part (groups,) of each group, by iterative stratification. The last column counts pictures, not a label.

    Of parts that want a label alike, the one that wants more pictures gets it.
    """
    missing = targets.astype(np.float64)
    found, place = np.full(len(counts), -1), np.argsort(np.asarray(order))
    while len(free := np.flatnonzero(found < 0)):
        left = counts[free].sum(axis=0)
        named = np.flatnonzero(left[:-1])
        label = int(named[np.argmin(left[named])]) if len(named) else -1  # pictures without a label come last
        rows = free[counts[free, label] > 0]
        for row in rows[np.argsort(place[rows])].tolist():
            wanted = missing[:, label]
            found[row] = max(np.flatnonzero(wanted == wanted.max()).tolist(), key=lambda part: missing[part, -1])
            missing[found[row]] -= counts[row]
    return found


def _sums(counts: Counts, found: Counts, parts: int) -> Counts:
    sums = np.zeros((parts, counts.shape[1]), np.int64)
    np.add.at(sums, found, counts)
    return sums


def _repair(counts: Counts, found: Counts, sums: Counts, targets: Counts) -> bool:
    """Bring each class that is missing from a part there by moving one group, in place; whether that succeeded.

    A group may leave its part when that part keeps every class that it has. Of those, the one is taken after which the
    parts are nearest to their targets.
    """
    there = counts.sum(axis=0) > 0
    while len(empty := np.argwhere((sums == 0) & there)):
        part, label = empty[0]
        candidates = np.flatnonzero(counts[:, label])
        left = sums[found[candidates]] - counts[candidates]
        allowed = candidates[~((left == 0) & (sums[found[candidates]] > 0)).any(axis=1)]
        if not len(allowed):
            return False

        def cost(row: int, into: int = int(part)) -> int:
            out = sums[found[row]] - counts[row] - targets[found[row]]
            return int((out**2).sum() + ((sums[into] + counts[row] - targets[into]) ** 2).sum())

        row = min(allowed.tolist(), key=cost)
        sums[found[row]] -= counts[row]
        sums[part] += counts[row]
        found[row] = part
    return True
