"""Channel counts after pruning hold their promises for any numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecnn.compress.prune import channels_to_keep
from edgecnn.models.model_spec import round_channels


@given(st.floats(0.1, 5000), st.integers(1, 64))
def test_rounding_keeps_nine_tenths_and_divides(channels: float, divisor: int) -> None:
    rounded = round_channels(channels, divisor)
    assert rounded % divisor == 0
    assert rounded >= 0.9 * channels
    assert rounded <= channels + divisor


@given(st.integers(1, 256), st.integers(1, 8), st.floats(0, 0.99), st.sampled_from([1, 4, 8, 16]))
def test_never_more_than_there_are_and_never_none(per_group: int, groups: int, ratio: float, round_to: int) -> None:
    channels = per_group * groups
    kept = channels_to_keep(channels, ratio, round_to, groups)
    assert 0 < kept <= channels
    assert kept % groups == 0
    assert kept >= 0.9 * channels * (1 - ratio) - 1e-6
    assert kept == channels or kept % round_to == 0


@given(st.integers(1, 256), st.floats(0, 0.99), st.floats(0, 0.99))
def test_asking_for_more_never_keeps_more(channels: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert channels_to_keep(channels, high, 8) <= channels_to_keep(channels, low, 8)
