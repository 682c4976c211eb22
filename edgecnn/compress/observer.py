"""What is kept of a tensor's values over any number of pictures: ends, histogram, and each channel's ends and mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecnn.errors import DataError

BINS = 2048  # half of them below zero
GRID = 8  # a map is looked at in at most so many of its rows and columns
EMA = 0.05  # what a picture counts in a moving average of ranges

Range = tuple[float, float]


@dataclass(frozen=True)
class ChannelRange:
    """Smallest value, largest value and mean of every channel, (C,) float64 each."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]


class Observer:
    """Running minimum and maximum of one tensor, and on demand a histogram and the pictures' moving average of both."""

    def __init__(self, *, histogram: bool = False, average: bool = False) -> None:
        self.low, self.high = np.inf, -np.inf
        self._averaging = average
        self.average: Range | None = None
        self.width = 0.0  # of a bin; bin i covers [(i - BINS / 2) * width, (i - BINS / 2 + 1) * width)
        self.counts = np.zeros(BINS, np.int64) if histogram else None

    def update(self, values: Tensor) -> None:
        """Take in more values (N, ...). Raises ``DataError`` when one is not finite."""
        low, high = ends(values)
        if not np.isfinite([low, high]).all():
            raise DataError(
                "a tensor holds inf or nan on calibration pictures", hint="the float model itself is broken there"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self._averaging:
            self._follow(values)
        if self.counts is not None:
            self._widen(max(abs(low), abs(high)))
            # The width is a power of two, so the quotient is exact; in float32 as long as it cannot become 0.
            steps = thinned(values).reshape(-1)
            steps = steps.double() if self.width > 1 else steps
            index = torch.floor(steps / self.width).int() + BINS // 2
            self.counts += torch.bincount(index, minlength=BINS).numpy()

    def _follow(self, values: Tensor) -> None:
        for picture in torch.split(values, 1):
            low, high = ends(picture)
            was = (low, high) if self.average is None else self.average
            self.average = was[0] + EMA * (low - was[0]), was[1] + EMA * (high - was[1])

    def _widen(self, magnitude: float) -> None:
        """Double the bin width until ``magnitude`` is inside; each new bin holds exactly two old ones."""
        assert self.counts is not None
        narrowest = float(np.finfo(np.float32).tiny)  # also of zeros, so that the order of batches makes no difference
        if self.width == 0.0 and magnitude > 0.0:
            self.width = float(2.0 ** (np.floor(np.log2(magnitude)) - np.log2(BINS // 2) + 1))
        self.width = max(self.width, narrowest)
        while magnitude >= self.width * (BINS // 2):
            quarter = np.zeros(BINS // 4, np.int64)
            self.counts = np.concatenate([quarter, self.counts.reshape(-1, 2).sum(1), quarter])
            self.width *= 2


class ChannelObserver:
    """Running ends and mean of each channel of one tensor, of a map where it is looked at (``thinned``)."""

    def __init__(self) -> None:
        self._low = self._high = self._sum = torch.zeros(0)
        self._pictures = 0

    def update(self, values: Tensor) -> None:
        """Take in more values (N, C) or (N, C, H, W)."""
        maps = thinned(values).reshape(*values.shape[:2], -1)
        low, high, mean = maps.amin((0, 2)), maps.amax((0, 2)), maps.mean(2).double().sum(0)
        if self._pictures:
            low, high, mean = torch.minimum(self._low, low), torch.maximum(self._high, high), self._sum + mean
        self._low, self._high, self._sum = low, high, mean
        self._pictures += len(values)

    def range(self) -> ChannelRange:
        """What was seen of each channel. Raises ``DataError`` when nothing was."""
        if not self._pictures:
            raise DataError("no calibration pictures were given", hint="calibrate with at least one batch")
        low, high, mean = (each.double().numpy() for each in (self._low, self._high, self._sum / self._pictures))
        return ChannelRange(low, high, mean)


def ends(values: Tensor) -> Range:
    """The smallest and the largest value of a tensor; torch would copy one that is laid out channels last."""
    inner_last = values.movedim(1, -1) if values.dim() == 4 else values
    low, high = (inner_last if inner_last.is_contiguous() else values).aminmax()
    return float(low), float(high)


def thinned(values: Tensor) -> Tensor:
    """All channels of a map (N, C, H, W) at rows and columns evenly spread (``GRID``); a vector (N, C) as it is.

    Millions of values per tensor are as good as a billion, and take a tenth of the time. The places are the same in
    every picture, so nothing depends on how pictures are batched.
    """
    if values.dim() != 4:
        return values
    rows, columns = (slice(None, None, -(-side // GRID)) for side in values.shape[2:])
    return values[:, :, rows, columns]
