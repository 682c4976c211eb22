from __future__ import annotations

import math

import pytest

from edgecnn.report import wording


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (0.012345, "0.0123"),
        (1.2345, "1.23"),
        (9.999, "10.0"),
        (99.96, "100"),
        (123.4, "123"),
        (12345.6, "12346"),
        (-2.5, "-2.50"),
        (math.inf, "∞"),
        (math.nan, "nan"),
    ],
)
def test_three_significant_digits(value: float, words: str) -> None:
    assert wording.significant(value) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_600, "1.00 MB"), (3_577_760, "3.58 MB"), (2e15, "2000 TB")],
)
def test_sizes_in_decimal_units(size: float, words: str) -> None:
    assert wording.byte_size(size) == words


def test_what_was_not_measured_is_a_dash_and_never_a_zero() -> None:
    words = (wording.percent(None), wording.milliseconds(None), wording.byte_size(None), wording.decibel(None))
    assert set(words) == {wording.MISSING}


def test_percent_decibel_and_count() -> None:
    assert wording.percent(0.97222) == "97.22 %"
    assert wording.percent(0.97222, unit=False) == "97.22"
    assert wording.decibel(38.24) == "38.2 dB"
    assert wording.decibel(math.inf) == "exact"
    assert [wording.count(1, "row"), wording.count(5000, "picture")] == ["1 row", "5,000 pictures"]
