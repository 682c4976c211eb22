"""What must hold of intervals for any numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgecnn.measure.stats import mcnemar, median_interval, paired_difference, ratio_interval, wilson

counts = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
times = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=60)


@given(counts)
def test_wilson_holds_its_share_and_mirrors(pair: tuple[int, int]) -> None:
    successes, n = pair
    found, mirror = wilson(successes, n), wilson(n - successes, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert np.isclose(found.low, 1 - mirror.high) and np.isclose(found.high, 1 - mirror.low)


@given(counts)
def test_wilson_narrows_with_more_of_the_same(pair: tuple[int, int]) -> None:
    successes, n = pair
    once, four = wilson(successes, n), wilson(4 * successes, 4 * n)
    assert four.high - four.low < once.high - once.low


@settings(max_examples=25, deadline=None)
@given(times, st.floats(0.001, 1000))
def test_median_interval_follows_the_unit(samples: list[float], factor: float) -> None:
    found, scaled = median_interval(samples), median_interval(np.asarray(samples) * factor)
    assert found.low <= found.value <= found.high
    assert min(samples) <= found.low and found.high <= max(samples)
    np.testing.assert_allclose(
        [scaled.value, scaled.low, scaled.high], np.array([found.value, found.low, found.high]) * factor
    )


@settings(max_examples=25, deadline=None)
@given(times)
def test_a_file_against_itself_is_one(samples: list[float]) -> None:
    found = ratio_interval(np.stack([samples, samples], axis=1))
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_paired_difference_holds_its_value_and_turns_around(rows: list[tuple[bool, bool]]) -> None:
    a, b = np.array(rows).T
    found, turned = paired_difference(a, b), paired_difference(b, a)
    assert -1 <= found.low <= found.value <= found.high <= 1 and found.low < found.high
    np.testing.assert_allclose((turned.value, turned.low, turned.high), (-found.value, -found.high, -found.low))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_mcnemar_is_a_symmetric_probability(rows: list[tuple[bool, bool]]) -> None:
    table: NDArray[np.bool_] = np.asarray(rows)
    p = mcnemar(table[:, 0], table[:, 1])
    assert 0 < p <= 1 and p == mcnemar(table[:, 1], table[:, 0]) and p == mcnemar(~table[:, 0], ~table[:, 1])
