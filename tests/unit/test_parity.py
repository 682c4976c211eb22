"""Parity figures on logits made by hand, and faults planted in layers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.errors import UsageError
from edgecnn.measure.parity import (
    EXACT_DB,
    THRESHOLDS,
    Parity,
    StageKind,
    Thresholds,
    check,
    compare_logits,
    fault_of,
    first_divergence,
    layer_sqnr,
    sqnr_db,
)

RNG = np.random.default_rng(0)
LAYER = RNG.normal(size=(4, 8, 6, 6)).astype(np.float32) * np.arange(1, 9, dtype=np.float32)[:, None, None]


def noisy(layer: NDArray[np.float32], level: float = 0.01) -> NDArray[np.float32]:
    return layer + RNG.normal(size=layer.shape).astype(np.float32) * level


def test_equal_logits_agree_entirely() -> None:
    logits = RNG.normal(size=(10, 4)).astype(np.float32)
    found = compare_logits(logits, logits.copy())
    assert (found.agreement, found.sqnr_db, found.max_error, found.n) == (1.0, EXACT_DB, 0.0, 10)
    assert found.cosine == pytest.approx(1.0)
    assert check(found, THRESHOLDS[StageKind.SAME_ARITHMETIC]) == []


def test_the_figures_of_two_rows() -> None:
    parent = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    child = np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    found = compare_logits(parent, child)
    assert (found.agreement, found.cosine, found.max_error, found.n) == (0.5, 0.5, 1.0, 2)
    assert found.sqnr_db == pytest.approx(10 * np.log10(26 / 2))


def test_zero_rows_do_not_make_nan() -> None:
    zero, one = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert compare_logits(zero, zero).cosine == 1.0
    assert compare_logits(zero, one).cosine == 0.0


def test_a_near_tie_is_no_miss_and_is_counted() -> None:
    """Steps of 0.5: the first picture is a tie by one step, the second is won by two."""
    parent = np.array([[1.0, 0.5], [1.0, 0.0], [3.0, 0.0], [3.0, 0.0]], np.float32)
    child = np.array([[0.5, 1.0], [0.0, 1.0], [3.0, 0.0], [3.0, 0.0]], np.float32)
    found = compare_logits(parent, child, step=0.5)
    assert (found.agreement, found.settled, found.near_ties, found.max_steps) == (0.5, 0.75, 1, 2.0)
    plain = compare_logits(parent, child)
    assert (plain.near_ties, plain.settled, plain.max_steps) == (None, None, None)


@pytest.mark.parametrize(("pictures", "differing", "passes"), [(8, 1, True), (180, 1, True), (180, 2, False)])
def test_one_picture_of_an_int8_file_may_always_differ(pictures: int, differing: int, passes: bool) -> None:
    found = Parity(0.0, 1.0, 99.0, 0.0, pictures, settled=1 - differing / pictures)
    assert (check(found, Thresholds(agreement=0.995)) == []) is passes


def test_logits_of_other_shape_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be compared"):
        compare_logits(np.zeros((2, 3)), np.zeros((2, 4)))


def test_misses_are_said_in_words_and_nan_misses() -> None:
    misses = check(Parity(0.9, float("nan"), 10.0, 3.0, 5), Thresholds(0.99, 0.99, 20.0, 1.0))
    assert len(misses) == 4
    assert misses[0] == "agreement 0.9, wanted at least 0.99"
    assert misses[2] == "sqnr 10 dB, wanted at least 20 dB"
    assert check(Parity(0.9, 0.9, 10.0, 3.0, 5), Thresholds()) == []


def test_every_kind_of_stage_has_thresholds() -> None:
    assert set(THRESHOLDS) == set(StageKind)


def test_sqnr_of_broken_values_is_the_worst() -> None:
    assert sqnr_db(LAYER, np.full_like(LAYER, np.nan)) == -EXACT_DB
    assert sqnr_db(LAYER * 0, LAYER) == -EXACT_DB
    assert sqnr_db(LAYER, LAYER * 1.1) == pytest.approx(20.0, abs=1e-3)


def test_the_first_layer_that_diverges_is_named() -> None:
    parent = {"stem": LAYER, "fused": LAYER, "block.0": LAYER, "block.1": LAYER}
    child = {"stem": noisy(LAYER), "block.0": LAYER * 0.5, "block.1": LAYER * 0.1}
    found = first_divergence(parent, child)
    assert found is not None and found.name == "block.0" and found.fault.startswith("scale or zero point: parent = 2 ")
    assert first_divergence(parent, {name: noisy(LAYER) for name in parent}) is None
    assert list(layer_sqnr(parent, child)) == ["stem", "block.0", "block.1"]


@pytest.mark.parametrize(
    ("child", "fault"),
    [
        (LAYER[:, :4], "other shape"),
        (np.where(LAYER > 5, np.nan, LAYER), "not a number"),
        (np.full_like(LAYER, 0.25), "constant: every value is 0.25"),
        (noisy(LAYER[:, ::-1]), "permuted channels"),
        (noisy(LAYER) + 20, "scale or zero point: parent = 1 * child + -20"),
        (noisy(LAYER) * 3, "scale or zero point: parent = 0.3333"),
        (np.clip(LAYER, -30, 3), "saturated"),
        (noisy(LAYER, 5.0), "noise"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_planted_faults_are_recognized(child: NDArray[np.float32], fault: str) -> None:
    assert fault_of(LAYER, child).startswith(fault)


def test_flat_layers_have_faults_too() -> None:
    logits = RNG.normal(size=(16, 10)).astype(np.float32)
    assert fault_of(logits, np.roll(logits, 1, axis=1)) == "permuted channels"
