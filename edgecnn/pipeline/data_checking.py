"""What a data set holds: counts, sizes, pictures that are in it more than once, and leaks between its splits."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from edgecnn.data.duplicates import MAX_DISTANCE, MIN_CORRELATION, Duplicates, Group, find_duplicates, take_prints
from edgecnn.data.items import ImageSet, Item
from edgecnn.data.splits import SPLIT_ORDER
from edgecnn.errors import GateError, UsageError
from edgecnn.pipeline.context import opened
from edgecnn.report.data_page import DataPage, Thumbnail, Twins, write_data_page
from edgecnn.spec import Split

LISTED_GROUPS = 10  # on the terminal
SHOWN_GROUPS = 30  # on the page
SHOWN_PICTURES = 8  # of a group
_THUMBNAIL = 112  # pixels of the long side
_LISTED_SIZES = 8


@dataclass(frozen=True)
class DataCheck:
    """The figures of one set.

    ``counts`` are pictures by split and class. ``sizes`` are (name, pictures) in pixels, ``sides`` the smallest, median
    and largest short side.
    """

    data: ImageSet
    counts: Mapping[Split, tuple[int, ...]]
    sizes: tuple[tuple[str, int], ...]
    sides: tuple[int, float, int]
    max_distance: int
    duplicates: Duplicates

    @property
    def leaks(self) -> tuple[Group, ...]:
        """The groups that lie in more than one split."""
        return tuple(group for group in self.duplicates.groups if group.leak)

    @property
    def exact(self) -> tuple[Group, ...]:
        """The groups whose pictures all have equal pixels."""
        return tuple(group for group in self.duplicates.groups if group.exact)

    @property
    def imbalance(self) -> float | None:
        """Pictures of the largest class over those of the smallest, all splits together; None if a class is empty."""
        totals = [sum(column) for column in zip(*self.counts.values(), strict=True)]
        return max(totals) / min(totals) if totals and min(totals) else None

    def leaked(self) -> dict[str, int]:
        """Of each pair of splits, such as ``"train -> test"``: pictures of the second that are in the first too."""
        found = {}
        for first, second in combinations(SPLIT_ORDER, 2):
            both = [group for group in self.leaks if first in group.splits and second in group.splits]
            found[f"{first} -> {second}"] = sum(entry.split == second for group in both for entry in group.entries)
        return found

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain JSON values, every group included."""
        labels = self.data.labels
        return {
            "name": self.data.name,
            "digest": self.data.digest,
            "notes": list(self.data.notes),
            "splits": {str(split): dict(zip(labels, row, strict=True)) for split, row in self.counts.items()},
            "imbalance": self.imbalance,
            "sizes": dict(self.sizes),
            "short_side": dict(zip(("min", "median", "max"), self.sides, strict=True)),
            "rule": {"max_distance_bits": self.max_distance, "min_correlation": MIN_CORRELATION},
            "without_detail": self.duplicates.flat,
            "exact_groups": len(self.exact),
            "near_groups": len(self.duplicates.groups) - len(self.exact),
            "conflicting_groups": sum(group.conflict for group in self.duplicates.groups),
            "leak_groups": len(self.leaks),
            "leaked": self.leaked(),
            "groups": [
                {
                    "exact": group.exact,
                    "leak": group.leak,
                    "distance": group.distance,
                    "pictures": [
                        {"id": each.item.id, "split": str(each.split), "class": each.item.words(labels)}
                        for each in group.entries
                    ],
                }
                for group in self.duplicates.groups
            ],
        }

    def lines(self) -> list[str]:
        """The figures in words, for a terminal."""
        groups = self.duplicates.groups
        ratio = "a class is empty" if self.imbalance is None else f"{self.imbalance:.2f}"
        told = [*self.data.notes]
        for split, row in self.counts.items():
            named = ", ".join(f"{name} {count}" for name, count in zip(self.data.labels, row, strict=True))
            told.append(f"{split}: {len(self.data.splits[split])} pictures; {named}")
        told.append(f"imbalance: {ratio} (largest class / smallest)")
        told.append("sizes: " + ", ".join(f"{name} {count}" for name, count in self.sizes) + f"; {self._side_words()}")
        told.append(
            f"duplicates: {_groups(len(self.exact))} of equal pixels, {len(groups) - len(self.exact)} {self.rule()}"
        )
        if conflicts := sum(group.conflict for group in groups):
            told.append(f"labels: {_groups(conflicts)} of them under more than one class")
        if self.duplicates.flat:
            told.append(f"too plain to be compared other than exactly: {self.duplicates.flat} pictures")
        told.append(self.leak_words())
        for group in [*self.leaks, *(group for group in groups if not group.leak)][:LISTED_GROUPS]:
            named = ", ".join(f"{each.split}: {_printable(each.item.id)}" for each in group.entries[:SHOWN_PICTURES])
            more = len(group.entries) - SHOWN_PICTURES
            told.append(f"  {_title(group)}: {named}{f', and {more} more' if more > 0 else ''}")
        if len(groups) > LISTED_GROUPS:
            told.append(f"  ... and {len(groups) - LISTED_GROUPS} groups more; --json lists all")
        return told

    def rule(self) -> str:
        """What "near" means, in words."""
        return f"of near copies (at most {self.max_distance} of 64 bits apart, correlation {MIN_CORRELATION} or more)"

    def leak_words(self) -> str:
        """One line on leaks."""
        if not self.leaks:
            return "leaks: none found"
        pairs = ", ".join(f"{pair} {count}" for pair, count in self.leaked().items() if count)
        return f"LEAKS: {_groups(len(self.leaks))} of copies in more than one split ({pairs} pictures)"

    def _side_words(self) -> str:
        smallest, middle, largest = self.sides
        return f"short side {smallest} to {largest} pixels, median {middle:g}"


def check_data(source: str, seed: int = 0, max_distance: int = MAX_DISTANCE) -> DataCheck:
    """Open a set as training would and take its figures; every picture is decoded once more.

    ``max_distance`` is in bits of 64. Raises ``DataError`` with all broken files, ``UsageError`` for a distance outside
    0..16 (beyond that, unlike pictures meet).
    """
    if not 0 <= max_distance <= 16:
        raise UsageError(f"a distance of {max_distance} bits", hint=f"give 0 to 16; the default is {MAX_DISTANCE}")
    data = opened(source, seed)
    entries = take_prints(data)
    sides = [min(entry.print.size) for entry in entries]
    return DataCheck(
        data,
        {split: _per_class(items, len(data.labels)) for split, items in data.splits.items()},
        tuple(_histogram([entry.print.size for entry in entries])),
        (min(sides), float(median(sides)), max(sides)),
        max_distance,
        find_duplicates(entries, max_distance),
    )


def require_no_leaks(check: DataCheck) -> None:
    """Raises ``GateError`` if any picture lies in more than one split."""
    if check.leaks:
        raise GateError(
            f"{check.data.name}: {_groups(len(check.leaks))} of pictures in more than one split",
            hint="keep all copies of a picture in one split, or remove all but one; --html shows them",
        )


def write_page(check: DataCheck, path: Path) -> None:
    """Write the figures and the first groups as one HTML page. Raises ``OSError`` if ``path`` cannot be written."""
    shown = check.duplicates.groups[:SHOWN_GROUPS]
    ratio = "a class is empty" if check.imbalance is None else f"{check.imbalance:.2f}"
    page = DataPage(
        name=check.data.name,
        facts=(
            ("Pictures", str(sum(map(len, check.data.splits.values())))),
            ("Largest class / smallest", ratio),
            ("Groups of equal pixels", str(len(check.exact))),
            ("Groups of near copies", str(len(check.duplicates.groups) - len(check.exact))),
            ("Groups in two splits or more", str(len(check.leaks))),
        ),
        notes=(
            *check.data.notes,
            check.leak_words(),
            f"Near copies: groups {check.rule()}.",
            f"S{check._side_words()[1:]}.",
        ),
        labels=check.data.labels,
        counts={str(split): row for split, row in check.counts.items()},
        sizes=check.sizes,
        twins=[_twins(check.data, group) for group in shown],
        left_out=len(check.duplicates.groups) - len(shown),
    )
    write_data_page(path, page)


def _twins(data: ImageSet, group: Group) -> Twins:
    first = group.entries[:SHOWN_PICTURES]
    shown = [next((each for each in group.entries if each.split == split), first[0]) for split in group.splits]
    shown += [each for each in first if each not in shown]  # one of each split at least
    pictures = [
        Thumbnail(each.item.id, str(each.split), each.item.words(data.labels), each.print.size, _jpeg(data, each.item))
        for each in shown[:SHOWN_PICTURES]
    ]
    return Twins(_title(group), group.leak, pictures, len(group.entries) - len(pictures))


def _title(group: Group) -> str:
    kind = "equal pixels" if group.exact else f"near copies, {group.distance} bits apart"
    return ("leak, " if group.leak else "") + kind + (", more than one class" if group.conflict else "")


def _jpeg(data: ImageSet, item: Item) -> bytes:
    picture = data.read(item)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=80)
    return content.getvalue()


def _per_class(items: Sequence[Item], classes: int) -> tuple[int, ...]:
    found = Counter(label for item in items for label in item.labels)
    return tuple(found[label] for label in range(classes))


def _histogram(sizes: Sequence[tuple[int, int]]) -> list[tuple[str, int]]:
    """Pictures by size if there are few sizes, else by short side, from one power of two to the next."""
    exact = Counter(sizes)
    if len(exact) <= _LISTED_SIZES:
        return [(f"{width} x {height}", count) for (width, height), count in sorted(exact.items())]
    powers = Counter(min(size).bit_length() - 1 for size in sizes)
    return [(f"{2**power} to {2 ** (power + 1) - 1}", powers[power]) for power in range(min(powers), max(powers) + 1)]


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _groups(count: int) -> str:
    return f"{count} group{'s' * (count != 1)}"
