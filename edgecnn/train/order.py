"""In which order an epoch takes streamed pictures: a pure function of few numbers, so that none of it must be kept."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LANES = 8
"""Places of the set that a batch is read from at a time."""


def streamed_order(
    files: NDArray[np.int64],
    offsets: NDArray[np.int64],
    steps: int,
    batch: int,
    shuffle: int,
    generator: torch.Generator,
) -> Tensor:
    """Which pictures each step of an epoch takes: positions (steps, batch) int64, none of them twice.

    The files come in random order, one behind the other, the pictures of a file in theirs; the whole starts at a random
    picture. It is cut into ``LANES`` pieces. Each is shuffled as a buffer of ``shuffle / LANES`` pictures would do it:
    a picture moves back by a random way of up to so many. A batch has a fixed number of pictures from each piece, one
    piece behind the other: processes that take contiguous shares of it read different files. A buffer for the whole
    set is a plain shuffle, the order of pictures in memory.

    The number of processes and threads has no say in it. What is left over for no whole batch is other pictures in
    each epoch.

    Args:
        files: (N,) the number of the file that each picture lies in; offsets: (N,) where in it.
    """
    if shuffle >= len(files):
        return torch.randperm(len(files), generator=generator)[: steps * batch].view(steps, batch)
    turns = torch.randperm(int(files.max()) + 1, generator=generator).numpy()
    line = torch.from_numpy(np.lexsort((offsets, turns[files])))
    line = line.roll(int(torch.randint(len(line), (), generator=generator)))
    lanes, columns, start = min(LANES, batch), [], 0
    for lane in range(lanes):
        width = (lane + 1) * batch // lanes - lane * batch // lanes
        piece = line[start : start + steps * width]
        moved = torch.arange(len(piece)) + torch.rand(len(piece), generator=generator, dtype=torch.float64) * (
            shuffle / lanes
        )
        columns.append(piece[moved.argsort()].view(steps, width))
        start += len(piece)
    return torch.cat(columns, 1)
