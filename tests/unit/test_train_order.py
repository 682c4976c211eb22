"""The order of streamed pictures: complete, random within its bounds, and local to what a process reads."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.train.distributed import World
from edgecnn.train.order import LANES, streamed_order


def set_of(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Files of so many pictures each."""
    files = np.repeat(np.arange(len(sizes)), sizes)
    offsets = np.concatenate([np.arange(size) for size in sizes])
    return files, offsets


def order(sizes: list[int], batch: int, shuffle: int, seed: int = 0) -> np.ndarray:
    files, offsets = set_of(sizes)
    generator = torch.Generator().manual_seed(seed)
    return streamed_order(files, offsets, len(files) // batch, batch, shuffle, generator).numpy()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    batch=st.integers(1, 30),
    shuffle=st.integers(1, 600),
    seed=st.integers(0, 5),
)
def test_no_picture_comes_twice_and_only_what_fills_no_batch_is_left(
    sizes: list[int], batch: int, shuffle: int, seed: int
) -> None:
    found = order(sizes, batch, shuffle, seed)
    assert found.shape == (sum(sizes) // batch, batch)
    assert len(set(found.flatten().tolist())) == found.size
    assert np.array_equal(found, order(sizes, batch, shuffle, seed))
    assert found.size == 0 or (found.min() >= 0 and found.max() < sum(sizes))


def test_no_picture_moves_farther_than_the_buffer_and_files_are_read_in_a_row() -> None:
    sizes, batch, shuffle = [50] * 32, 16, 80
    found = order(sizes, batch, shuffle)
    width, reach = batch // LANES, shuffle // LANES
    for lane in range(LANES):
        piece = found[:, lane * width : (lane + 1) * width].flatten()
        files, offsets = piece // 50, piece % 50
        kept = list(dict.fromkeys(files.tolist()))  # the files in the order in which they begin
        place = np.array([kept.index(file) * 50 + offset for file, offset in zip(files, offsets, strict=True)])
        assert np.abs(place - place.min() - np.arange(len(piece))).max() <= reach
        assert (np.diff(place) < 0).any()  # but it is shuffled
        assert len(kept) <= 5  # of 32: 200 pictures that begin anywhere


def test_processes_read_different_files() -> None:
    found = order([50] * 64, 32, 400)
    read = [set((found[:, World(rank, 4).share(32)] // 50).flatten().tolist()) for rank in range(4)]
    assert all(len(ours & theirs) <= 2 for ours in read for theirs in read if ours is not theirs)
    assert len(set().union(*read)) == 64


def test_files_come_in_another_order_in_every_epoch_and_batches_mix_them() -> None:
    first, second = (order([100] * 20, 40, 200, seed) for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert np.mean([len(set((row // 100).tolist())) for row in first]) > 6


def test_a_single_file_is_left_over_at_another_end_each_time() -> None:
    left = [set(range(50)) - set(order([50], 16, 4, seed).flatten().tolist()) for seed in range(6)]
    assert all(len(each) == 2 for each in left) and len(set(map(frozenset, left))) > 1
