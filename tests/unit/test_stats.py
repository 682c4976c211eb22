"""Intervals and tests against figures from the literature and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgecnn.measure.stats import (
    mcnemar,
    median_interval,
    paired_difference,
    percentile,
    ratio_interval,
    relative_half_width,
    wilson,
)
from edgecnn.spec import Interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_wilson_gives_newcombes_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert found.value == successes / n and found.n == n


def test_wilson_without_observations_knows_nothing() -> None:
    found = wilson(0, 0)
    assert math.isnan(found.value) and (found.low, found.high) == (0.0, 1.0)


def test_wilson_refuses_more_successes_than_trials() -> None:
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def test_mcnemar_exact_values() -> None:
    def p_value(only_a: int, only_b: int, both: int = 50) -> float:
        a = np.array([True] * only_a + [False] * only_b + [True] * both)
        b = np.array([False] * only_a + [True] * only_b + [True] * both)
        return mcnemar(a, b)

    assert p_value(0, 0) == 1.0
    assert p_value(5, 5) == 1.0
    assert p_value(0, 5) == pytest.approx(2 / 32)
    assert p_value(1, 9) == pytest.approx(2 * 11 / 1024)
    assert p_value(9, 1) == p_value(1, 9)
    assert p_value(400, 500) == pytest.approx(p_value(500, 400)) and p_value(400, 500) < 0.001
    exact, approximate = p_value(470, 530), p_value(471, 530)
    assert abs(exact - approximate) < 0.006


def test_paired_difference_is_bonett_and_prices_interval() -> None:
    a = np.array([True] * 60 + [False] * 20 + [True] * 20)
    b = np.array([True] * 60 + [True] * 20 + [False] * 20)
    even = paired_difference(a, b)
    assert even.value == 0 and even.high == pytest.approx(1.959964 * math.sqrt(42 / 102 / 102)) == -even.low
    one_sided = paired_difference([True] * 10, [False] * 4 + [True] * 6)
    assert one_sided.value == pytest.approx(0.4)
    half = 1.959964 * math.sqrt((5 / 12 + 1 / 12 - 1 / 9) / 12)
    assert (one_sided.low, one_sided.high) == pytest.approx((1 / 3 - half, 1 / 3 + half))


def test_paired_difference_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(2000):
        draws = rng.choice(3, size=500, p=(0.03, 0.01, 0.96))  # only a right, only b right, both
        found = paired_difference(draws != 1, draws != 0)
        held += found.low <= 0.02 <= found.high
    assert 0.935 <= held / 2000 <= 0.975


def test_paired_difference_of_nothing_and_of_different_pictures() -> None:
    assert math.isnan(paired_difference([], []).value)
    with pytest.raises(ValueError, match="not the same pictures"):
        paired_difference([True], [True, False])


def test_mcnemar_refuses_different_pictures() -> None:
    with pytest.raises(ValueError, match="not the same pictures"):
        mcnemar([True], [True, False])


def test_median_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(60):
        found = median_interval(rng.exponential(size=200), seed=trial)
        inside += found.low <= math.log(2) <= found.high
    assert inside >= 51


def test_median_interval_is_wider_when_processes_differ() -> None:
    rng = np.random.default_rng(1)
    within = rng.normal(10, 0.1, size=(5, 200))
    restarts = np.repeat(np.arange(5), 200)
    between = within + np.array([-0.5, -0.2, 0.0, 0.3, 0.6])[:, None]
    calm, moody = (median_interval(samples.ravel(), restarts) for samples in (within, between))
    assert relative_half_width(moody) > 5 * relative_half_width(calm)


def test_median_interval_is_wider_when_neighbours_resemble_each_other() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(size=2000)
    slow = np.convolve(noise, np.ones(20) / math.sqrt(20), mode="same") + 100
    shuffled = rng.permutation(slow)
    assert relative_half_width(median_interval(slow)) > 2 * relative_half_width(median_interval(shuffled))


def test_median_interval_repeats_and_counts() -> None:
    samples = np.arange(1.0, 50.0)
    assert median_interval(samples, seed=3) == median_interval(samples, seed=3)
    assert median_interval(samples).n == 49 and median_interval(samples).value == 25.0
    assert math.isnan(median_interval([]).value)
    with pytest.raises(ValueError, match="49 samples but 2 block labels"):
        median_interval(samples, [0, 1])


def test_ratio_interval_cancels_what_slows_both() -> None:
    rng = np.random.default_rng(4)
    load = rng.uniform(1, 10, size=100)
    found = ratio_interval(np.stack([load * 2 * rng.normal(1, 0.01, 100), load], axis=1))
    assert found.low < 2 < found.high and found.high - found.low < 0.02
    with pytest.raises(ValueError, match="positive"):
        ratio_interval([(0.0, 1.0)])


def test_p99_needs_many_samples() -> None:
    assert percentile(np.arange(661), 99) is None
    assert percentile(np.arange(1000), 99) == pytest.approx(989.01)
    assert percentile(np.arange(11), 90) == 9.0
    assert percentile([], 50) is None


def test_relative_half_width() -> None:
    assert relative_half_width(Interval(10.0, 9.0, 12.0, 5)) == pytest.approx(0.15)
    assert relative_half_width(Interval(math.nan, math.nan, math.nan, 0)) == math.inf
