"""What a training's history says in plain words: rules with stated thresholds, each with what to try next.

Every rule is a function from a history to a finding or nothing. Accuracies are fractions. What the figures of a history
are decides what can be compared: training accuracy is a mean over an epoch, of changing weights, on augmented pictures;
validation accuracy is taken at its end, of averaged weights, on plain ones. So a validation accuracy somewhat above the
training accuracy is normal, and losses of the two (label smoothing is in one only) are not compared with each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.spec import Task

FEWEST_EPOCHS = 3  # nothing is said of a shorter history
TAIL = 0.1  # share of the epochs that counts as the end

OVERFIT_GAP = 0.10  # training above validation accuracy at the end ...
OVERFIT_GAP_ALONE = 0.15  # ... and when the validation loss did not rise
OVERFIT_LOSS_RISE = 1.10  # ... last validation loss over the smallest
UNDERFIT_TOP1 = 0.70  # validation accuracy below which a network has not learned its task ...
UNDERFIT_GAP = 0.05  # ... if training accuracy is not further above it
LOSS_JUMP, LOSS_JUMP_LEAST, LOSS_JUMPS = 1.2, 0.1, 2  # training loss: this ratio and this much up, so often
STUCK_LOSS, STUCK_TOP1 = 0.98, 0.5  # last training loss over the first; both accuracies below
STILL_GAINING = 0.01  # validation accuracy at the end above that of the epochs before
LEAK_GAP, LEAK_EPOCHS = 0.10, 5  # validation accuracy above the next epoch's training accuracy, after so many epochs
LEAK_TOP1, LEAK_FIRST, LEAK_IMAGES = 0.995, 3, 200  # validation accuracy in the first epochs, if it is of so many
PAIR_SHARE, PAIR_COUNT, PAIRS, PAIR_TOP1 = 0.10, 5, 3, 0.5  # of two classes' pictures; at most; if so many are right
STANDARD_ERRORS = 2.0  # a gap must exceed so many of the validation accuracy's

STRONG = (
    *("crop_scale", "jitter", "cutout", "rotate", "zoom", "shear", "blur", "erase", "trivial", "randaug", "mixup"),
    *("cutmix", "albumentations"),
)
"""Settings that make training pictures much harder than validation pictures; mirroring and shifting do not."""


@dataclass(frozen=True)
class Finding:
    """``rule`` names what was found, ``words`` says it with the numbers, ``advice`` what to try next."""

    rule: str
    words: str
    advice: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.rule}: {self.words}; {self.advice}"


@dataclass(frozen=True)
class Setup:
    """What is known of a training besides its history: epochs planned, patience, and its validation pictures.

    With ``several_labels`` an accuracy is the share of exact matches, which is low wherever there are many labels: a
    low one says nothing by itself.
    """

    epochs: int | None = None
    patience: int | None = None
    val_images: int | None = None
    weak_augmentation: bool = False
    several_labels: bool = False


class _History:
    """The columns of a history (E,), and the mean of its last epochs."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.train = [float(row["train_top1"]) for row in rows]
        self.val = [float(row["val_top1"]) for row in rows]
        self.train_loss = [float(row["train_loss"]) for row in rows]
        self.val_loss = [float(row["val_loss"]) for row in rows]
        self.lr = [float(row["lr"]) for row in rows]
        self.epochs = len(rows)
        self.tail = max(1, round(TAIL * len(rows)))

    def end(self, column: Sequence[float], before: int = 0) -> float:
        """The mean over the last epochs, or over as many of them ``before`` times earlier."""
        stop = len(column) - before * self.tail
        return float(np.mean(column[stop - self.tail : stop]))

    @property
    def best(self) -> int:
        """The epoch, counted from 1, of the highest validation accuracy: the first of equal ones."""
        return self.val.index(max(self.val)) + 1


def setup_of(settings: Mapping[str, Any], val_images: int | None) -> Setup:
    """The setup from a train step's settings."""
    weak = not any(settings.get(name) for name in STRONG)
    several = settings.get("task") == Task.MULTI_LABEL
    return Setup(settings.get("epochs"), settings.get("patience"), val_images, weak, several)


def diagnose(rows: Sequence[Mapping[str, Any]], setup: Setup | None = None) -> list[Finding]:
    """What the rows of a history (``history.COLUMNS``, numbers or their text) say; empty when nothing stands out."""
    if len(rows) < FEWEST_EPOCHS:
        return []
    h, known = _History(rows), setup or Setup()
    found = [wrong_lr(h), overfitting(h, known), patience_exhausted(h, known), not_converged(h, known)]
    found += [leak(h, known)]
    if not any(found) and not known.several_labels:
        found.append(underfitting(h, known))  # the last explanation: nothing else accounts for a low accuracy
    return [finding for finding in found if finding is not None]


def wrong_lr(h: _History) -> Finding | None:
    """The training loss jumps up again and again or never fell (too high), or creeps down (too low)."""
    jumps = [
        epoch
        for epoch, (before, after) in enumerate(pairwise(h.train_loss), start=2)
        if after >= LOSS_JUMP * before and after - before >= LOSS_JUMP_LEAST
    ]
    highest = max(h.lr)
    if len(jumps) >= LOSS_JUMPS:
        words = f"the training loss jumped up in {_epochs(jumps)} (highest rate {highest:.4g})"
        return Finding("learning rate too high", words, f"try {highest / 3:.2g}, or a longer warm-up")
    first, last = h.train_loss[0], h.train_loss[-1]
    if last >= STUCK_LOSS * first and max(h.train[-1], max(h.val)) < STUCK_TOP1:
        if all(after < before for before, after in pairwise(h.train_loss)):
            words = f"the training loss fell every epoch, but from {first:.3f} to {last:.3f} only"
            return Finding("learning rate too low", f"{words} (highest rate {highest:.4g})", f"try {10 * highest:.2g}")
        words = f"the training loss went from {first:.3f} to {last:.3f} only (highest rate {highest:.4g})"
        advice = f"try {highest / 10:.2g}; if that learns no better, look whether the labels fit the pictures"
        return Finding("learning rate too high", words, advice)
    return None


def overfitting(h: _History, setup: Setup) -> Finding | None:
    """Training accuracy far above validation accuracy at the end."""
    train, val = h.end(h.train), h.end(h.val)
    gap, lowest, last = train - val, min(h.val_loss), h.end(h.val_loss)
    rose = last >= OVERFIT_LOSS_RISE * lowest
    if gap < max(OVERFIT_GAP if rose else OVERFIT_GAP_ALONE, STANDARD_ERRORS * _error(val, setup)):
        return None
    words = f"{_percent(train)} right on training pictures, {_percent(val)} on validation pictures"
    if rose:
        epoch = h.val_loss.index(lowest) + 1
        words += f", whose loss rose from {lowest:.3f} (epoch {epoch}) to {last:.3f}"
    advice = "try more pictures, "
    advice += "augmentation (trivial, crop_scale, cutout), " if setup.weak_augmentation else "stronger augmentation, "
    return Finding("overfitting", words, advice + "more weight decay, or a smaller network")


def underfitting(h: _History, setup: Setup) -> Finding | None:
    """Neither part is learned, and the curves have ended."""
    train, val = h.end(h.train), h.end(h.val)
    if val >= UNDERFIT_TOP1 or train - val > UNDERFIT_GAP:
        return None
    words = f"only {_percent(train)} right on training and {_percent(val)} on validation pictures, and no longer rising"
    advice = "try a wider network, larger pictures, pretrained weights or another learning rate"
    return Finding("underfitting", words, advice if setup.weak_augmentation else advice + ", and weaker augmentation")


def not_converged(h: _History, setup: Setup) -> Finding | None:
    """Validation accuracy still rises at the end of the last planned epoch."""
    if patience_exhausted(h, setup) or h.epochs < 2 * h.tail:
        return None
    now, before = h.end(h.val), h.end(h.val, before=1)
    least = max(STILL_GAINING, 2 / setup.val_images if setup.val_images else 0.0)
    falling = h.end(h.train_loss) < h.end(h.train_loss, before=1)
    if now - before < least or not falling or h.best <= h.epochs - h.tail:
        return None
    epochs = "epoch" if h.tail == 1 else f"{h.tail} epochs"
    words = f"validation accuracy still rose in the last {epochs}, from {_percent(before)} to {_percent(now)}"
    return Finding("not converged", words, f"try {2 * h.epochs} epochs")


def leak(h: _History, setup: Setup) -> Finding | None:
    """Validation pictures are too easy: above the training accuracy without a reason, or right from the start."""
    advice = "look for validation pictures that are in the training split too: edgecnn data check --html"
    first = max(h.val[:LEAK_FIRST])
    if first > LEAK_TOP1 and (setup.val_images or 0) >= LEAK_IMAGES:
        words = f"{_percent(first)} of the validation pictures right within {LEAK_FIRST} epochs"
        return Finding("data leak suspected", words, f"an easy task looks like that too, but {advice}")
    if not setup.weak_augmentation or h.epochs < LEAK_EPOCHS:
        return None
    # Of one epoch's end and the whole next epoch: the weights of the training accuracy are the further trained ones.
    ahead = [val - train for val, train in zip(h.val, h.train[1:], strict=False)]
    val, train = h.end(h.val[:-1]), h.end(h.train)
    if h.end(ahead) < max(LEAK_GAP, STANDARD_ERRORS * _error(val, setup)):
        return None
    words = f"{_percent(val)} right on validation pictures but {_percent(train)} on training pictures, hardly augmented"
    return Finding("data leak suspected", words, advice)


def patience_exhausted(h: _History, setup: Setup) -> Finding | None:
    """The training stopped itself before the planned end."""
    if setup.patience is None or setup.epochs is None or h.epochs >= setup.epochs:
        return None
    waited = h.epochs - h.best
    if waited < setup.patience:
        return None
    share = h.lr[-1] / max(h.lr)
    words = (
        f"stopped after epoch {h.epochs} of {setup.epochs}, {waited} epochs after the best ({_percent(max(h.val))}),"
        f" at {_percent(share)} of the highest learning rate"
    )
    advice = (
        f"accuracy mostly rises as the rate falls to zero: try {h.epochs} epochs without patience, or more patience"
    )
    return Finding("patience exhausted", words, advice)


def confused_pairs(confusion: NDArray[np.int64], labels: Sequence[str]) -> list[Finding]:
    """The pairs of classes taken for each other most, from counts (K, K): row = true class, column = answer."""
    total = int(confusion.sum())
    if not total or np.trace(confusion) / total < PAIR_TOP1:
        return []
    pictures = confusion.sum(axis=1)
    wrong = confusion + confusion.T
    found = []
    for a, b in zip(*np.triu_indices(len(labels), k=1), strict=True):
        count, both = int(wrong[a, b]), int(pictures[a] + pictures[b])
        if count >= PAIR_COUNT and count >= PAIR_SHARE * both:
            found.append((count / both, count, both, int(a), int(b)))
    return [_pair(*entry, confusion, labels) for entry in sorted(found, reverse=True)[:PAIRS]]


def _pair(
    share: float, count: int, both: int, a: int, b: int, confusion: NDArray[np.int64], labels: Sequence[str]
) -> Finding:
    words = (
        f"{labels[a]} and {labels[b]}: {count} of their {both} pictures, {_percent(share)}"
        f" ({labels[a]} called {labels[b]} {confusion[a, b]} times, the reverse {confusion[b, a]} times)"
    )
    return Finding("classes confused", words, "look at their labels, and try more or larger pictures of the two")


def _error(val: float, setup: Setup) -> float:
    """The standard error of a validation accuracy; 0 when the number of pictures is not known."""
    return float(np.sqrt(max(val * (1 - val), 0.0) / setup.val_images)) if setup.val_images else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _epochs(numbers: Sequence[int], most: int = 4) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return f"epochs {shown}" + (f" and {len(numbers) - most} more" if len(numbers) > most else "")
