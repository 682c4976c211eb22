"""A range test for the learning rate: how far it can rise before the loss does (Smith, arXiv:1506.01186, section 3.3).

A copy of the network is trained for some hundred steps while the rate rises exponentially; the loss falls, is lowest,
and runs away. The suggestion is a third of the rate at which the smoothed loss is lowest. (With a running average in
the place of the centred one here, which reaches its minimum some ten steps late, others take a tenth.)
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from edgecnn import disk
from edgecnn.catalog import require
from edgecnn.errors import InconclusiveError
from edgecnn.spec import Preprocess
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.distributed import World
from edgecnn.train.feed import Batch, Pictures
from edgecnn.train.freezing import set_training
from edgecnn.train.machine import own_settings
from edgecnn.train.optimizer import set_rate
from edgecnn.train.run import Run

LOW, HIGH, STEPS = 1e-6, 10.0, 100
REACH = 3  # the smoothed loss is the mean over so many steps before and behind
DIVERGED = 4.0  # the loss of the last steps is so many times the lowest, and above the first
FALL = 0.98  # a lowest loss above so much of the first one is none
SHARE = 1 / 3
RULE = "a third of the rate at which the smoothed loss is lowest"


@dataclass(frozen=True)
class RateCurve:
    """The loss at each rate; ``diverged``: whether it ran away before the highest rate was reached."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: bool

    @property
    def smoothed(self) -> tuple[float, ...]:
        """The mean loss around each step."""
        return tuple(fmean(self.losses[max(0, at - REACH) : at + REACH + 1]) for at in range(len(self.losses)))

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest. Raises InconclusiveError where the loss never falls."""
        smoothed = self.smoothed
        if not smoothed or min(smoothed) > FALL * smoothed[0]:
            raise InconclusiveError(
                f"the loss never falls, between the rates {self.rates[0]:g} and {self.rates[-1]:g}",
                hint="look at the pictures and their labels (edgecnn data check), try a larger batch or less "
                "augmentation",
            )
        return self.rates[smoothed.index(min(smoothed))]

    @property
    def suggested(self) -> float:
        """The highest rate to train with: see ``RULE``. Raises InconclusiveError."""
        return SHARE * self.lowest

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values. Raises InconclusiveError."""
        found = {"suggested": self.suggested, "lowest": self.lowest, "rule": RULE, "diverged": self.diverged}
        return {**found, "rates": self.rates, "losses": self.losses, "smoothed": self.smoothed}


def find_lr(
    model: nn.Module,
    train: Pictures,
    p: Preprocess,
    config: TrainConfig,
    *,
    teacher: Teacher | None = None,
    on_step: Callable[[int, int, int], None] | None = None,
) -> RateCurve:
    """The range test with the steps of ``loop.fit``: its batches, augmentation, loss and optimizer, at full size.

    ``model`` is not changed, and nothing is written. ``on_step`` is called with (1, step, steps).
    """
    settings = replace(config, ema=None, views=0, low_size=None)
    with own_settings(settings):
        run = Run(copy.deepcopy(model), train, p, settings, teacher, World())
        run.resume_or_prepare(None, Path(), "")
        set_training(run.model, frozen_bn=run.config.frozen_bn)
        batches = _batches(run)

        def step(rate: float) -> float:
            set_rate(run.optimizer, rate)
            taken, (chosen, generator) = next(batches)
            if on_step is not None:
                on_step(1, taken + 1, STEPS)
            return run.step(chosen, taken, generator)[0]

        with run.faster():
            return sweep(step)


def sweep(step: Callable[[float], float], low: float = LOW, high: float = HIGH, steps: int = STEPS) -> RateCurve:
    """Take ``step``, which trains with a rate and returns its loss, with rates from ``low`` to ``high``."""
    rates: list[float] = []
    losses: list[float] = []
    best, diverged = math.inf, False
    for number in range(steps):
        rate = low * (high / low) ** (number / (steps - 1))
        loss = step(rate)
        diverged = not math.isfinite(loss)
        if diverged:
            break
        rates.append(rate)
        losses.append(loss)
        last = fmean(losses[-REACH:])
        best = min(best, last)
        diverged = last > DIVERGED * best and last > losses[0]
        if diverged:
            break
    return RateCurve(tuple(rates), tuple(losses), diverged)


def draw(path: Path, curve: RateCurve) -> bool:
    """The curve with the suggestion as a PNG; False where matplotlib is not installed. Raises WriteError."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    figure = require("matplotlib.figure", extra="plots").Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, alpha=0.3, label="loss")
    axes.plot(curve.rates, curve.smoothed, label="smoothed")
    axes.axvline(curve.lowest, color="grey", linestyle=":", label=f"lowest: {curve.lowest:.2g}")
    axes.axvline(curve.suggested, color="black", linestyle="--", label=f"suggested: {curve.suggested:.2g}")
    top = max(curve.smoothed[0], max(curve.losses[: curve.rates.index(curve.lowest) + 1]))
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(None, 1.2 * top))
    axes.grid(alpha=0.3)
    axes.legend()
    with disk.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return True


def _batches(run: Run) -> Iterator[tuple[int, tuple[Batch, torch.Generator]]]:
    """The batches of one epoch after the other, numbered."""
    return enumerate(itertools.chain.from_iterable(run.batches(epoch) for epoch in itertools.count()))
