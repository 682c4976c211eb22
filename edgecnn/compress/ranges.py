"""From what an observer has seen of a tensor to the range that 8 bits shall cover."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgecnn.compress.observer import BINS, Observer, Range
from edgecnn.errors import DataError

Method = Literal["auto", "minmax", "moving_average", "percentile", "entropy", "mse"]
METHODS: tuple[str, ...] = get_args(Method)
CANDIDATES = ("minmax", "percentile", "entropy", "mse")
"""What ``auto`` chooses from: all but the moving average, which depends on the order of the pictures."""
PERCENTILE = 99.999  # percent of the values that stay inside the range
STEPS = 255  # of an 8-bit range

Floats = NDArray[np.float64]


def range_of(observer: Observer, method: str) -> Range:
    """The range (low, high) of what was seen, by a method other than ``auto``; see ``calibrate``.

    Raises ``DataError`` when nothing was seen.
    """
    if observer.low > observer.high:
        raise DataError("no calibration pictures were given", hint="calibrate with at least one batch")
    if observer.average is not None:
        return observer.average
    if observer.counts is None or observer.low == observer.high or method == "minmax":
        return observer.low, observer.high
    inner = _SEARCHES[method](observer)
    return max(observer.low, inner[0]), min(observer.high, inner[1])


def percentile_range(counts: NDArray[np.int64], width: float, percentile: float = PERCENTILE) -> Range:
    """The range that leaves out (100 - percentile) / 2 percent of the values at either end, to bin edges."""
    share = np.cumsum(counts) / counts.sum()
    tail = (100 - percentile) / 200
    first, last = int(np.searchsorted(share, tail, side="right")), int(np.searchsorted(share, 1 - tail, side="left"))
    return (first - BINS // 2) * width, (last + 1 - BINS // 2) * width


def mse_range(observer: Observer) -> Range:
    """The range with the smallest mean squared error of 8-bit quantization, searched end by end.

    Banner et al. 2019 (arXiv 1810.05723) minimize the same error under an assumed distribution; here it is the
    histogram's own.
    """
    centres, weights = _used_bins(observer)
    low, high = min(observer.low, 0.0), max(observer.high, 0.0)
    shrink = np.linspace(1.0, 0.3, 71)
    for _ in range(2):
        high = min((_error(centres, weights, low, high * s), -s, high * s) for s in shrink)[2]
        low = min((_error(centres, weights, low * s, high), -s, low * s) for s in shrink)[2]
        shrink = np.linspace(1.05, 0.95, 21)
    return low, high


def entropy_range(observer: Observer) -> Range:
    """The range whose 8-bit distribution is nearest to that of the values in Kullback-Leibler divergence.

    Migacz, "8-bit inference with TensorRT", 2017: ``P`` is the histogram inside the range with what lies beyond put
    into its end bins, ``Q`` the same values spread evenly over the bins (that hold any) of each of the 255 steps. Both
    ends shrink together.
    """
    centres, weights = _used_bins(observer)
    ends = min(observer.low, 0.0), max(observer.high, 0.0)
    return min((_divergence(centres, weights, ends, s), -s, (ends[0] * s, ends[1] * s)) for s in SHRINK)[2]


SHRINK = np.linspace(1.0, 0.3, 71)
_SEARCHES: dict[str, Callable[[Observer], Range]] = {
    "percentile": lambda observer: percentile_range(_counts(observer), observer.width),
    "entropy": entropy_range,
    "mse": mse_range,
}


def _counts(observer: Observer) -> NDArray[np.int64]:
    assert observer.counts is not None
    return observer.counts


def _used_bins(observer: Observer) -> tuple[Floats, Floats]:
    """Centres and counts of the bins that hold values."""
    counts = _counts(observer)
    used = np.flatnonzero(counts)
    centres: Floats = (used - BINS // 2 + 0.5).astype(np.float64) * observer.width
    return centres, counts[used].astype(np.float64)


def _error(values: Floats, weights: Floats, low: float, high: float) -> float:
    scale = (high - low) / STEPS
    if scale <= 0:
        return float(np.inf)
    rounded = np.clip(np.rint((values - low) / scale), 0, STEPS) * scale + low
    return float(((rounded - values) ** 2 * weights).sum())


def _divergence(values: Floats, weights: Floats, ends: Range, shrink: float) -> float:
    low, high = ends[0] * shrink, ends[1] * shrink
    if high - low <= 0:
        return float(np.inf)
    inside = (values >= low) & (values <= high)
    if not inside.any():
        return float(np.inf)
    kept = weights[inside].copy()
    step = np.rint((values[inside] - low) / (high - low) * STEPS).astype(np.int64)
    spread = np.bincount(step, kept, STEPS + 1) / np.maximum(np.bincount(step, minlength=STEPS + 1), 1)
    approximation = spread[step]
    kept[0] += weights[values < low].sum()
    kept[-1] += weights[values > high].sum()
    p, q = kept / kept.sum(), approximation / approximation.sum()
    return float((p * np.log(p / q)).sum())
