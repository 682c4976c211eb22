"""Find pictures that are in a set more than once: exact copies, near copies, and copies that lie in two splits.

An exact copy has the same decoded pixels (SHA-256 over size and RGB samples), whatever the file around them. A near
copy, such as the same photo saved again or at another size, is found by the perceptual hash of

    C. Zauner: Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1

that is: grey picture -> 32 x 32 -> DCT -> the 8 x 8 coefficients after the first row and column -> one bit each, above
the median or not. Pillow's antialiased resize takes the place of the paper's mean filter. Hashes that differ in a few
bits are only candidates: the two 32 x 32 grey pictures must also correlate, because 64 bits forget the contrast of
each frequency and unlike pictures on plain ground often share them. Mirrored, turned and cropped copies are not found.

Every hash is compared with every other, block by block: exclusive or and a count of bits, 50,000 pictures in seconds
and some 100 MB, of which the grey pictures are half.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgecnn.data.items import ImageSet, Item
from edgecnn.data.parallel import in_threads
from edgecnn.data.splits import SPLIT_ORDER
from edgecnn.spec import Split

SIDE = 32  # pixels of the grey picture that is hashed
MAX_DISTANCE = 6  # of 64 bits
MIN_CORRELATION = 0.95  # Pearson, of the two grey pictures
MIN_DETAIL = 2.0  # grey levels of 255 (root mean square) in the hashed frequencies; below, the bits are noise
_BLOCK = 128  # hashes that are compared with all others at once: 128 x 50,000 x 8 bytes are 51 MB


@dataclass(frozen=True)
class Print:
    """What is kept of one picture: width and height in pixels, digest of its pixels, ``uint8`` (32, 32) in grey."""

    size: tuple[int, int]
    digest: bytes
    grey: NDArray[np.uint8]


@dataclass(frozen=True)
class Entry:
    """One picture of a set, its split, and its print."""

    item: Item
    split: Split
    print: Print


@dataclass(frozen=True)
class Group:
    """Pictures that are the same one. ``distance`` is the largest number of bits by which two neighbours differ."""

    entries: tuple[Entry, ...]
    distance: int

    @property
    def exact(self) -> bool:
        """Whether all have the same pixels."""
        return len({entry.print.digest for entry in self.entries}) == 1

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits in which they lie, in the order train, val, test."""
        found = {entry.split for entry in self.entries}
        return tuple(split for split in SPLIT_ORDER if split in found)

    @property
    def leak(self) -> bool:
        """Whether they lie in more than one split."""
        return len(self.splits) > 1

    @property
    def conflict(self) -> bool:
        """Whether they are labelled with more than one class, or set of labels."""
        return len({entry.item.labels for entry in self.entries}) > 1


@dataclass(frozen=True)
class Duplicates:
    """All groups (leaks first, then by id), and how many pictures have too little detail to be compared by hash."""

    groups: tuple[Group, ...]
    flat: int


def take_print(image: Image.Image) -> Print:
    """The print of an RGB picture of any size."""
    content = b"%d %d " % image.size + image.tobytes()
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return Print(image.size, hashlib.sha256(content).digest(), np.array(grey, dtype=np.uint8))


def take_prints(data: ImageSet) -> list[Entry]:
    """Decode every picture of a set, in threads. Raises ``DataError`` if one has broken since the set was opened."""
    places = [(split, item) for split in SPLIT_ORDER for item in data.splits[split]]
    prints = in_threads(lambda place: take_print(data.read(place[1])), places)
    return [Entry(item, split, each) for (split, item), each in zip(places, prints, strict=True)]


def perceptual_hashes(grey: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """The hashes of grey pictures ``uint8`` (N, 32, 32): ``uint64`` (N,), and ``bool`` (N,): is there enough detail?

    The bits of a picture without detail (one colour, or stripes along one axis, whose hashed frequencies are all
    zero) say nothing.
    """
    frequency, place = np.arange(1, 9)[:, None], np.arange(SIDE)[None, :]
    wave = math.sqrt(2 / SIDE) * np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE))
    hashes, detail = np.zeros(len(grey), np.uint64), np.zeros(len(grey), np.bool_)
    for first in range(0, len(grey), 1024):
        block = slice(first, first + 1024)
        found = (wave @ grey[block].astype(np.float64) @ wave.T).reshape(-1, 64)
        bits = found > np.median(found, axis=1, keepdims=True)
        hashes[block] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
        detail[block] = np.sqrt((found**2).sum(axis=1)) / SIDE >= MIN_DETAIL
    return hashes, detail


def find_duplicates(entries: Sequence[Entry], max_distance: int = MAX_DISTANCE) -> Duplicates:
    """Group the pictures that are the same: equal pixels, or hashes at most ``max_distance`` of 64 bits apart.

    Being the same is taken to be transitive, so a group may hold two pictures that differ by more. A group in two
    splits always holds two direct neighbours in two splits.
    """
    if not entries:
        return Duplicates((), 0)
    copies: dict[bytes, list[int]] = {}
    for index, entry in enumerate(entries):
        copies.setdefault(entry.print.digest, []).append(index)
    members = list(copies.values())  # of each distinct picture; only one of its copies is compared
    grey = np.stack([entries[indices[0]].print.grey for indices in members])
    hashes, detail = perceptual_hashes(grey)
    labels = np.arange(len(members))  # two distinct pictures with one label are in one group
    farthest = np.zeros(len(members), np.int64)
    where = np.flatnonzero(detail)
    for row, others, distances in _neighbours(hashes[where], grey[where], max_distance):
        own, near = where[row], where[others]
        farthest[own] = max(farthest[own], distances.max())
        joined = np.unique(labels[np.append(near, own)])
        if len(joined) > 1:
            labels[np.isin(labels, joined)] = joined[0]
    groups = _groups(entries, members, labels, farthest)
    flat = sum(len(indices) for indices, enough in zip(members, detail, strict=True) if not enough)
    return Duplicates(tuple(sorted(groups, key=lambda group: (not group.leak, group.entries[0].item.id))), flat)


def _groups(
    entries: Sequence[Entry], members: Sequence[list[int]], labels: NDArray[np.int64], farthest: NDArray[np.int64]
) -> list[Group]:
    together: dict[int, list[int]] = {}
    for distinct, label in enumerate(labels.tolist()):
        together.setdefault(label, []).append(distinct)
    return [
        Group(
            tuple(entries[index] for distinct in group for index in members[distinct]),
            max(int(farthest[distinct]) for distinct in group),
        )
        for group in together.values()
        if sum(len(members[distinct]) for distinct in group) > 1
    ]


def _neighbours(
    hashes: NDArray[np.uint64], grey: NDArray[np.uint8], max_distance: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint8]]]:
    """For each picture that has any: itself, the later ones that are the same, and by how many bits they differ."""
    for first in range(0, len(hashes), _BLOCK):
        block = hashes[first : first + _BLOCK]
        distances = np.bitwise_count(block[:, None] ^ hashes[None, first:])
        close = distances <= max_distance
        close &= np.arange(close.shape[1])[None, :] > np.arange(close.shape[0])[:, None]
        for offset in np.flatnonzero(close.any(axis=1)).tolist():
            columns = np.flatnonzero(close[offset])
            alike = np.concatenate(
                [
                    _correlation(grey[first + offset], grey[first + columns[start : start + 4096]]) >= MIN_CORRELATION
                    for start in range(0, len(columns), 4096)
                ]
            )
            if alike.any():
                yield first + offset, first + columns[alike], distances[offset, columns[alike]]


def _correlation(one: NDArray[np.uint8], many: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pearson's correlation of one grey picture (32, 32) with each of (K, 32, 32), none of which is constant: (K,)."""
    left = one.reshape(-1).astype(np.float32)
    right = many.reshape(len(many), -1).astype(np.float32)
    left -= left.mean()
    right -= right.mean(axis=1, keepdims=True)
    result: NDArray[np.float32] = (right @ left) / (np.linalg.norm(right, axis=1) * np.linalg.norm(left))
    return result
