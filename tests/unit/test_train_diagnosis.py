"""Rules on made-up histories: those that deserve a finding, and those that must have none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgecnn.train.diagnosis import Setup, confused_pairs, diagnose, setup_of
from edgecnn.train.history import COLUMNS, Row

EPOCHS = 20
WEAK = Setup(epochs=EPOCHS, val_images=5000, weak_augmentation=True)
STRONG = Setup(epochs=EPOCHS, val_images=5000)


def rising(last: float, epochs: int = EPOCHS, first: float = 0.3, flat: float = 0.7) -> list[float]:
    """From ``first`` to ``last``, flat after the share ``flat`` of the epochs."""
    ways = np.minimum(np.linspace(0, 1, epochs) / flat, 1)
    return [float(first + (last - first) * way ** (1 / 3)) for way in ways]


def history(
    train: Sequence[float],
    val: Sequence[float],
    train_loss: Sequence[float] | None = None,
    val_loss: Sequence[float] | None = None,
    lr: float = 0.1,
    planned: int = EPOCHS,
) -> list[Row]:
    """Rows; losses follow the accuracies unless given, the rate falls along half a cosine."""
    rows = []
    for at, (top1, val_top1) in enumerate(zip(train, val, strict=True)):
        values = (
            at + 1,
            lr * (1 + np.cos(np.pi * at / planned)) / 2,
            train_loss[at] if train_loss is not None else 2.3 * (1 - top1) + 0.01 * (planned - at) / planned,
            top1,
            val_loss[at] if val_loss is not None else 2.3 * (1 - val_top1),
            val_top1,
            1000.0,
            9.0,
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def rules(rows: Sequence[Row], setup: Setup | None = WEAK) -> list[str]:
    return [finding.rule for finding in diagnose(rows, setup)]


HEALTHY = history(rising(0.96), rising(0.92))
NOISE = np.random.default_rng(0).normal(0, 0.004, EPOCHS)


@pytest.mark.parametrize(
    ("rows", "setup"),
    [
        pytest.param(HEALTHY, WEAK, id="healthy"),
        pytest.param(HEALTHY, None, id="healthy, nothing known"),
        pytest.param(history(rising(0.96), list(rising(0.92) + NOISE)), WEAK, id="noisy"),
        pytest.param(history(rising(0.70), rising(0.93)), STRONG, id="validation above training under augmentation"),
        pytest.param(history(rising(0.88), rising(0.93)), WEAK, id="averaged weights somewhat above training"),
        pytest.param(history(rising(0.999), rising(0.92)), WEAK, id="training nearly perfect, a gap of 8 points"),
        pytest.param(
            history([1.0] * EPOCHS, [0.86] * EPOCHS, val_loss=[0.4] * EPOCHS),
            Setup(EPOCHS, val_images=30, weak_augmentation=True),
            id="a gap that 30 pictures cannot show",
        ),
        pytest.param(
            history([0.99] * EPOCHS, [1.0] * EPOCHS),
            Setup(EPOCHS, val_images=36, weak_augmentation=True),
            id="36 right",
        ),
        pytest.param(
            history(rising(0.95), rising(0.93), train_loss=[2.0, 1.5, 1.2, 1.7, 1.1, *[1.0] * 15]),
            WEAK,
            id="one jump, as when the pictures become larger",
        ),
        pytest.param(
            history(rising(0.75, flat=1.0), rising(0.745)), WEAK, id="training still rises but validation has ended"
        ),
        pytest.param(HEALTHY[:2], WEAK, id="two epochs"),
        pytest.param([], WEAK, id="no epoch"),
        pytest.param(
            history(rising(0.96, 12), rising(0.92, 12)), Setup(EPOCHS, 20, 5000, True), id="unfinished, patience left"
        ),
        pytest.param(history([0.62] * EPOCHS, [0.60] * EPOCHS)[:0], STRONG, id="empty, with strong augmentation"),
    ],
)
def test_no_finding(rows: list[Row], setup: Setup | None) -> None:
    assert diagnose(rows, setup) == []


def test_overfitting_by_a_rising_loss() -> None:
    val_loss = [*np.linspace(1.5, 0.60, 8), *np.linspace(0.62, 0.9, 12)]
    (found,) = diagnose(history(rising(0.99), rising(0.87), val_loss=val_loss), WEAK)
    assert found.rule == "overfitting"
    assert "99.0 % right on training pictures, 87.0 % on validation pictures" in found.words
    assert "from 0.600 (epoch 8) to 0.887" in found.words
    assert "trivial" in found.advice and "smaller network" in found.advice
    assert str(found) == f"overfitting: {found.words}; {found.advice}"


def test_overfitting_by_the_gap_alone() -> None:
    (found,) = diagnose(history(rising(0.95), rising(0.75)), STRONG)
    assert found.rule == "overfitting" and "whose loss rose" not in found.words
    assert "stronger augmentation" in found.advice


def test_underfitting() -> None:
    (found,) = diagnose(history(rising(0.60), rising(0.59)), STRONG)
    assert found.rule == "underfitting"
    assert "only 60.0 % right on training and 59.0 % on validation pictures" in found.words
    assert "wider network" in found.advice and "weaker augmentation" in found.advice
    (mild,) = diagnose(history(rising(0.60), rising(0.59)), WEAK)
    assert "wider network" in mild.advice and "augmentation" not in mild.advice


def test_too_high_rate_by_jumps() -> None:
    losses = [2.0, 1.5, 2.4, 1.4, 1.9, 1.3, *[1.2] * 14]
    (found,) = diagnose(history(rising(0.9), rising(0.9), train_loss=losses, lr=0.9), WEAK)
    assert found.rule == "learning rate too high"
    assert "epochs 3, 5 (highest rate 0.9)" in found.words and "try 0.3," in found.advice


def test_too_high_rate_when_nothing_is_learned() -> None:
    flat = history([0.1] * EPOCHS, [0.1] * EPOCHS, train_loss=[2.303] * EPOCHS)
    (found,) = diagnose(flat, WEAK)
    assert found.rule == "learning rate too high"
    assert "2.303 to 2.303 only" in found.words and "labels" in found.advice


def test_too_low_rate() -> None:
    slow = history(
        rising(0.15, first=0.1), rising(0.15, first=0.1), train_loss=np.linspace(2.303, 2.29, EPOCHS).tolist()
    )
    (found,) = diagnose(slow, WEAK)
    assert found.rule == "learning rate too low"
    assert "every epoch, but from 2.303 to 2.290 only (highest rate 0.1)" in found.words and found.advice == "try 1"


def test_not_converged() -> None:
    (found,) = diagnose(history(rising(0.85, flat=1.0), rising(0.84, flat=1.0)), WEAK)
    assert found.rule == "not converged"
    assert "in the last 2 epochs, from 81." in found.words and found.advice == "try 40 epochs"


def test_leak_by_validation_above_training() -> None:
    (found,) = diagnose(history(rising(0.80), rising(0.97)), WEAK)
    assert found.rule == "data leak suspected"
    assert "97.0 % right on validation pictures but 80.0 % on training pictures" in found.words
    assert "edgecnn data check" in found.advice
    assert rules(history(rising(0.80), rising(0.97)), STRONG) == []


def test_leak_by_too_much_too_soon() -> None:
    (found,) = diagnose(history([0.9, *[0.99] * 19], [0.9, 0.98, 0.997, *[0.998] * 17]), STRONG)
    assert found.rule == "data leak suspected" and "99.7 % of the validation pictures" in found.words
    assert rules(history([0.9, *[0.99] * 19], [0.9, 0.98, 0.994, *[0.998] * 17]), STRONG) == []


def test_patience_exhausted() -> None:
    val = [*rising(0.9, 10), *[0.89] * 5]
    (found,) = diagnose(history(rising(0.93, 15), val), Setup(EPOCHS, 5, 5000, True))
    assert found.rule == "patience exhausted"
    assert "after epoch 15 of 20" in found.words and "(90.0 %)" in found.words
    assert "try 15 epochs without patience" in found.advice
    assert rules(history(rising(0.93, 15), val), Setup(15, 5, 5000, True)) == []


def test_several_findings_stand_side_by_side() -> None:
    losses = [2.0, 1.5, 2.4, 1.4, 1.9, 1.3, *[1.2] * 14]
    assert rules(history(rising(0.99), rising(0.7), train_loss=losses)) == ["learning rate too high", "overfitting"]


def test_rows_may_be_the_text_of_a_file() -> None:
    rows = [{name: str(value) for name, value in row.items()} for row in history(rising(0.60), rising(0.59))]
    assert rules(rows) == ["underfitting"]


def test_the_setup_comes_from_a_steps_settings() -> None:
    mild = {"epochs": 30, "patience": None, "flip": True, "shift": 4, "crop_scale": None, "mixup": 0.0}
    assert setup_of(mild, 10) == Setup(30, None, 10, True)
    assert not setup_of(mild | {"mixup": 0.2}, 10).weak_augmentation
    assert not setup_of(mild | {"crop_scale": 0.5}, 10).weak_augmentation
    assert not setup_of(mild | {"albumentations": [{"GaussNoise": {}}]}, 10).weak_augmentation


def test_pairs_of_classes() -> None:
    counts = np.array([[80, 18, 2, 0], [12, 85, 3, 0], [1, 2, 97, 0], [0, 0, 0, 100]])
    (found,) = confused_pairs(counts, ["cat", "dog", "car", "ship"])
    assert found.rule == "classes confused"
    assert found.words == (
        "cat and dog: 30 of their 200 pictures, 15.0 % (cat called dog 18 times, the reverse 12 times)"
    )
    assert found.advice == "look at their labels, and try more or larger pictures of the two"


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param(np.diag([50, 50, 50]), id="no mistake"),
        pytest.param(np.array([[47, 3, 0], [0, 48, 2], [0, 1, 49]]), id="few"),
        pytest.param(np.array([[4, 2], [2, 4]]), id="too few pictures to say"),
        pytest.param(np.array([[10, 20, 20], [20, 10, 20], [20, 20, 10]]), id="everything is confused"),
        pytest.param(np.zeros((3, 3), int), id="nothing"),
    ],
)
def test_no_pair(counts: np.ndarray) -> None:
    assert confused_pairs(counts, ["a", "b", "c"][: len(counts)]) == []


def test_at_most_three_pairs_the_worst_first() -> None:
    counts = np.full((5, 5), 12) + np.diag([52] * 5)
    counts[3, 4] = 30
    found = confused_pairs(counts, list("abcde"))
    assert len(found) == 3 and found[0].words.startswith("d and e: 42 of their 242")
