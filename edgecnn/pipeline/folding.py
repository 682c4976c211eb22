"""Cross-validation: train once for each fold, and say what top-1 is and how much it varies.

Each fold in turn is the test split, which has no say in anything before its figure is taken; a tenth of the other
pictures is val and chooses the epoch (``data.source.one_fold``). Fold k is the run ``fold-k``, whose data is called
``SOURCE#fold=k/K``: its bundle can be evaluated, compressed and made again by itself like any other. What is there
already is skipped, so a cross-validation that was stopped goes on.

The t-interval takes the folds for independent. They share training pictures, and no unbiased estimate of their
variance exists (Bengio and Grandvalet 2004): the true interval is somewhat wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from edgecnn.bundle import Bundle, dump_json, write_atomically
from edgecnn.data.source import FOLD_VAL_SHARE, name_fold, parse_fold, place_of
from edgecnn.errors import UsageError
from edgecnn.pipeline.context import Context, opened
from edgecnn.pipeline.teaching import FOREIGN
from edgecnn.pipeline.training import train
from edgecnn.recipe import Recipe
from edgecnn.spec import RIGHT, Interval, Task
from edgecnn.steps import TrainStep

FOLDS = "folds.json"


@dataclass(frozen=True)
class CrossValidation:
    """The bundle of each fold, in their order, and what was divided into folds."""

    run: Path
    source: str
    seed: int
    bundles: tuple[Bundle, ...]

    @property
    def word(self) -> str:
        """What the share of pictures answered right is called in this task."""
        return RIGHT[self.bundles[0].task]

    @property
    def several(self) -> bool:
        """Whether pictures have several labels: then there is a mean average precision beside top-1."""
        return self.bundles[0].task is Task.MULTI_LABEL

    def on_each(self, name: str) -> list[float]:
        """A figure of the test split on each fold, as fractions."""
        return [float(bundle.manifest.figures[name]) for bundle in self.bundles]

    @property
    def top1(self) -> list[float]:
        """Top-1 on each fold, as fractions."""
        return self.on_each("test_top1")

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        summed = ("test_top1", "test_map") if self.several else ("test_top1",)
        told = (*summed, "test_images", "val_top1", *(("val_map",) if self.several else ()))
        return {
            "source": self.source,
            "data_seed": self.seed,
            "folds": len(self.bundles),
            "val_share": FOLD_VAL_SHARE,
            **{name: spread(self.on_each(name)) for name in summed},
            "each": [
                {
                    "bundle": bundle.path.relative_to(self.run).as_posix(),
                    "fingerprint": bundle.manifest.fingerprint,
                    **{name: bundle.manifest.figures[name] for name in told if name in bundle.manifest.figures},
                }
                for bundle in self.bundles
            ],
        }

    def lines(self) -> list[str]:
        """The figures in words."""
        mean = t_interval(self.top1)
        told = [
            f"fold {number}: test {self.word} {100 * top1:.2f} % of {bundle.manifest.figures['test_images']} pictures"
            for number, (top1, bundle) in enumerate(zip(self.top1, self.bundles, strict=True), 1)
        ]
        return [
            *told,
            f"{mean.n} folds: test {self.word} {100 * mean.value:.2f} % (95 % t-interval {100 * mean.low:.2f} to "
            f"{100 * mean.high:.2f}), standard deviation {100 * stdev(self.top1):.2f}",
            *([f"test mAP {100 * fmean(self.on_each('test_map')):.2f} % on average"] if self.several else []),
        ]


def cross_validate(context: Context, recipe: Recipe, folds: int) -> CrossValidation:
    """Do the recipe's one training for each of so many folds, in ``fold-1`` and so on, and write ``folds.json``.

    Raises ``UsageError`` for what cannot be cross-validated, ``DataError`` when a class cannot be in every fold, and
    what a training raises.
    """
    step, source = _training_of(recipe), context.data or recipe.data
    if parse_fold(source)[2]:
        raise UsageError(f"{source} is a fold already", hint="name the whole set")
    named = [name_fold(source, number, folds) for number in range(1, folds + 1)]
    for fold in named:  # before the first training starts, so that the last one is not refused hours later
        opened(fold, context.data_seed, step.task)
    made = []
    for number, fold in enumerate(named, 1):
        context.tell(f"fold {number} of {folds}")
        made.append(train(replace(context, run=context.run / f"fold-{number}", data=fold), step))
    found = CrossValidation(context.run, place_of(source), context.data_seed, tuple(made))
    if context.world is None or context.world.leader:
        write_atomically(context.run / FOLDS, dump_json(found.as_dict()))
    return found


def _training_of(recipe: Recipe) -> TrainStep:
    """The recipe's only step. Raises ``UsageError`` when there are others, or when its teacher has seen the folds."""
    (step, *others) = recipe.steps
    if others or not isinstance(step, TrainStep):
        raise UsageError("only a training can be cross-validated", hint="leave --folds out, or all steps but train")
    if step.teacher is not None and not step.teacher.startswith(FOREIGN):
        raise UsageError(
            f"the teacher {step.teacher} was trained on pictures that the folds test on",
            hint="cross-validate without it, or train a teacher for each fold: edgecnn train 'DATA#fold=1/5'",
        )
    return step


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and interval of a figure over the folds, as plain JSON values."""
    mean = t_interval(values)
    return {
        "mean": mean.value,
        "standard_deviation": stdev(values),
        "low": mean.low,
        "high": mean.high,
        "interval": f"95 %, Student's t with {mean.n - 1} degrees of freedom, folds taken as independent",
    }


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of two or more fractions with its 95 % interval by Student's t, cut off at 0 and 1."""
    from scipy.special import stdtrit  # scikit-learn brings scipy

    mean, n = fmean(values), len(values)
    half = float(stdtrit(n - 1, 0.975)) * stdev(values) / math.sqrt(n)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), n)
