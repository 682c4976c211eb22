"""Intervals and tests, pure numpy. Intervals are at 95 %; what is random is seeded, so a figure can be repeated."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgecnn.spec import Interval

Z95 = 1.959963984540054  # the normal quantile of a two-sided 95 % interval
P99_MIN_RUNS = 662  # six samples lie beyond p99 then; with fewer it is an anecdote
RESAMPLES = 1000
BOOTSTRAP_CELLS = 1_000_000  # resampled values held at once: bounds the memory
EXACT_LIMIT = 1000  # discordant pairs up to which McNemar's test is computed exactly


def wilson(successes: int, n: int) -> Interval:
    """Score interval of a proportion (Wilson 1927); good at 0 and 1 and for few observations, unlike ``p +- 2 s``.

    Raises ``ValueError`` unless ``0 <= successes <= n``. Without observations the interval is [0, 1].
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    share = successes / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
    low = 0.0 if successes == 0 else min(share, max(0.0, centre - half))
    high = 1.0 if successes == n else max(share, min(1.0, centre + half))
    return Interval(share, low, high, n)


def median_interval(samples: ArrayLike, blocks: ArrayLike | None = None, *, seed: int = 0) -> Interval:
    """Median of autocorrelated samples with a bootstrap interval, in the unit of the samples.

    ``samples`` (n,) in the order taken; ``blocks`` (n,) labels which process (restart) each one comes from. Each
    resample draws processes with replacement and, in each, runs of neighbouring samples (moving block bootstrap,
    Kuensch 1989, with blocks of n^(1/3), the length that Hall, Horowitz and Jing 1995 derive). With few processes the
    interval is somewhat too narrow: five say little about how processes differ.
    """
    values = np.asarray(samples, np.float64).reshape(-1)
    if values.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    labels = np.zeros(values.size, np.int64) if blocks is None else np.asarray(blocks).reshape(-1)
    if labels.shape != values.shape:
        raise ValueError(f"{values.size} samples but {labels.size} block labels")
    _, sizes = np.unique(labels, return_counts=True)
    grouped, rng = values[np.argsort(labels, kind="stable")], np.random.default_rng(seed)
    at_once = max(1, BOOTSTRAP_CELLS // values.size)
    parts = [min(at_once, RESAMPLES - done) for done in range(0, RESAMPLES, at_once)]
    medians = np.concatenate([np.median(grouped[_resample(sizes, count, rng)], axis=1) for count in parts])
    return _interval(float(np.median(values)), medians, values.size)


def _resample(sizes: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places of the samples of ``count`` resamples (count, about n); ``sizes`` (G,) of the processes, one after the
    other.

    Every process drawn gives the same number of samples. A process's series is taken as a circle so that no end is
    favoured.
    """
    processes = sizes.size
    share = -(-int(sizes.sum()) // processes)
    length = max(1, round(share ** (1 / 3)))
    drawn = rng.integers(processes, size=(count, processes))
    size = sizes[drawn][:, :, None]
    begins = (rng.random((count, processes, -(-share // length))) * size).astype(np.int64)
    runs = (begins[..., None] + np.arange(length)).reshape(count, processes, -1)[:, :, :share]
    return np.asarray((runs % size + (np.cumsum(sizes) - sizes)[drawn][:, :, None]).reshape(count, -1))


def _interval(value: float, resampled: NDArray[np.float64], n: int) -> Interval:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)), n)


def ratio_interval(paired: ArrayLike, blocks: ArrayLike | None = None, *, seed: int = 0) -> Interval:
    """Median of ``a / b`` over pairs taken side by side, with a bootstrap interval.

    ``paired`` (n, 2) positive; ``blocks`` (n,) as in ``median_interval``. What slowed both halves of a pair cancels.
    The two differ when 1 is outside the interval.
    """
    pairs = np.asarray(paired, np.float64).reshape(-1, 2)
    if np.any(pairs <= 0):
        raise ValueError("a ratio needs positive values")
    return median_interval(pairs[:, 0] / pairs[:, 1], blocks, seed=seed)


def mcnemar(a_correct: ArrayLike, b_correct: ArrayLike) -> float:
    """Two-sided p-value that two classifiers are equally accurate, from the pictures on which exactly one is right.

    McNemar 1947; exact binomial, and with the continuity-corrected normal approximation past 1000 such pictures. Takes
    two boolean arrays (n,) over the same pictures. Raises ``ValueError`` when the lengths differ.
    """
    a, b = np.asarray(a_correct, bool), np.asarray(b_correct, bool)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} are not the same pictures")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    total, fewer = only_a + only_b, min(only_a, only_b)
    if total > EXACT_LIMIT:
        distance = max(abs(only_a - only_b) - 1, 0) / math.sqrt(total)
        return math.erfc(distance / math.sqrt(2))
    tail = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / (1 << total)))


def paired_difference(a_correct: ArrayLike, b_correct: ArrayLike) -> Interval:
    """How much more often ``a`` is right than ``b`` on the same pictures, in [-1, 1].

    The adjusted Wald interval for paired proportions of Bonett and Price 2012 (J. Educ. Behav. Stat. 37(4)): with
    ``p = (only_a + 1) / (n + 2)`` and ``q = (only_b + 1) / (n + 2)`` it is
    ``p - q +- z sqrt((p + q - (p - q)^2) / (n + 2))``. It has a width where the two never differ, unlike a bootstrap's.
    Takes two boolean arrays (n,). Raises ``ValueError`` when the lengths differ.
    """
    a, b = np.asarray(a_correct, bool), np.asarray(b_correct, bool)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} are not the same pictures")
    n = a.size
    if n == 0:
        return Interval(math.nan, -1.0, 1.0, 0)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p, q = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return Interval((only_a - only_b) / n, max(-1.0, p - q - half), min(1.0, p - q + half), n)


def percentile(samples: ArrayLike, q: float) -> float | None:
    """The ``q``-th percentile (0 to 100), or ``None`` where there are too few samples to speak of it.

    p99 needs 662 samples; with fewer it hangs on a handful of outliers.
    """
    values = np.asarray(samples, np.float64)
    if values.size == 0 or (q >= 99 and values.size < P99_MIN_RUNS):
        return None
    return float(np.percentile(values, q))


def relative_half_width(interval: Interval) -> float:
    """Half the interval's width over its value; infinite when there is no positive value."""
    if not interval.value > 0:
        return math.inf
    return (interval.high - interval.low) / 2 / interval.value
