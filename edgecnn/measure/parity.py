"""Whether a child network (folded, pruned, quantized, exported) still is its parent, on the same real pictures.

``compare_logits`` measures, ``check`` judges, ``first_divergence`` finds the layer where it begins and names the fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn import tasks
from edgecnn.errors import UsageError
from edgecnn.spec import Task

Tensor = NDArray[Any]
TINY = 1e-30  # a probability that a logarithm still takes
STEP_ERROR = 1e-3  # relative: two logits are a whole number of float32 steps apart
EXACT_DB = 200.0  # SQNR of equal tensors: finite so that it can be written to JSON, and more than float32 can reach


@dataclass(frozen=True)
class Parity:
    """Agreement of the answers (share in [0, 1]), mean cosine of the logit rows, SQNR in dB, largest difference.

    With several labels the agreement is that of label decisions, and ``equal_sets`` the share of pictures with the same
    set of labels; ``None`` in other tasks. Rows of one logit have no angle: the cosine is then that of all of them.

    Of int8 logits, which lie ``step`` apart: ``max_steps`` is the largest difference in steps, ``near_ties`` the number
    of answers that differ where the parent prefers its own by one step at most. One rounding that goes the other way
    is enough for that, so a near tie is an answer that int8 leaves open, and no miss. ``None`` for other logits.
    """

    agreement: float
    cosine: float
    sqnr_db: float
    max_error: float
    n: int
    equal_sets: float | None = None
    max_steps: float | None = None
    near_ties: int | None = None
    settled: float | None = None
    """Agreement with near ties counted as equal answers: what is judged; ``None``: there are none."""


@dataclass(frozen=True)
class Thresholds:
    """The least that is accepted; ``None`` is not checked.

    Of int8 logits the agreement is judged with near ties as equal answers, and one picture may always differ: of n
    pictures it is more than 0.5 % where n < 200, and no network of 99.5 % would be sure to pass.
    """

    agreement: float | None = None
    cosine: float | None = None
    sqnr_db: float | None = None
    max_error: float | None = None


class StageKind(StrEnum):
    """What a stage does to the numbers, which decides how far child and parent may be apart."""

    SAME_ARITHMETIC = "same_arithmetic"
    QUANTIZING = "quantizing"
    RENDERING_INT8 = "rendering_int8"
    TRAINED_AGAIN = "trained_again"


THRESHOLDS: dict[StageKind, Thresholds] = {
    # folding, capturing, rendering float: only the order of float32 additions may differ
    StageKind.SAME_ARITHMETIC: Thresholds(agreement=0.998, cosine=0.99999, sqnr_db=60.0),
    # float -> int8: each layer adds noise of its own; below this something is broken rather than rounded
    StageKind.QUANTIZING: Thresholds(agreement=0.95, cosine=0.98, sqnr_db=12.0),
    # the same integers in another engine: roundings of half a step may go the other way
    StageKind.RENDERING_INT8: Thresholds(agreement=0.995, cosine=0.999, sqnr_db=25.0),
    # another network, trained again: only its answers are comparable
    StageKind.TRAINED_AGAIN: Thresholds(agreement=0.80),
}


def compare_logits(parent: Tensor, child: Tensor, task: Task = Task.MULTI_CLASS, step: float | None = None) -> Parity:
    """Compare logits (N, K) of the same pictures; int8 ones are multiples of ``step``.

    Raises ``UsageError`` when the shapes differ or are empty.
    """
    if parent.shape != child.shape or parent.ndim != 2 or not parent.size:
        raise UsageError(f"logits {parent.shape} and {child.shape} cannot be compared", hint="wanted: (N, K) twice")
    a, b = parent.astype(np.float64), child.astype(np.float64)
    equal, largest = tasks.answers(task, a) == tasks.answers(task, b), float(np.max(np.abs(a - b)))
    ties = None if step is None else ~equal & (tasks.margins(task, a, b) <= step * (1 + STEP_ERROR))
    return Parity(
        agreement=float(equal.mean()),
        cosine=_cosine(a, b) if a.shape[1] > 1 else _cosine(a.T, b.T),
        sqnr_db=sqnr_db(a, b),
        max_error=largest,
        n=len(a),
        equal_sets=tasks.equal_sets(a, b) if task is Task.MULTI_LABEL else None,
        max_steps=None if step is None else largest / step,
        near_ties=None if ties is None else int(ties.sum()),
        settled=None if ties is None else float((equal | ties).mean()),
    )


def divergence(parent: Tensor, child: Tensor, task: Task = Task.MULTI_CLASS) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of the child's answers from the parent's, in nats, for each picture: two (N, K) ->
    (N,). With several labels each is an answer of its own, and their divergences are summed.
    """
    p, q = (np.clip(tasks.probabilities(task, each), TINY, 1.0) for each in (parent, child))
    per_label = p * np.log(p / q)
    if task is Task.MULTI_LABEL:
        per_label += (1 - p) * np.log(np.clip(1 - p, TINY, 1.0) / np.clip(1 - q, TINY, 1.0))
    total: NDArray[np.float64] = per_label.sum(axis=1)
    return total


def _cosine(a: Tensor, b: Tensor) -> float:
    """Mean cosine of the rows; two rows of zeros count as equal, one as unrelated."""
    lengths_a, lengths_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product = lengths_a * lengths_b
    both_zero = (lengths_a == 0) & (lengths_b == 0)
    cosines = np.divide(np.sum(a * b, axis=1), product, out=np.where(both_zero, 1.0, 0.0), where=product > 0)
    return float(np.mean(cosines))


def sqnr_db(parent: Tensor, child: Tensor) -> float:
    """Signal to noise, ``10 log10(sum parent^2 / sum (parent - child)^2)`` in dB, at most 200 either way."""
    a, b = parent.astype(np.float64), child.astype(np.float64)
    signal, noise = float(np.sum(a * a)), float(np.sum((a - b) ** 2))
    if not math.isfinite(signal + noise):
        return -EXACT_DB
    if noise == 0:
        return EXACT_DB
    if signal == 0:
        return -EXACT_DB
    return max(-EXACT_DB, min(EXACT_DB, 10 * math.log10(signal / noise)))


def check(parity: Parity, thresholds: Thresholds) -> list[str]:
    """What was missed, in words; empty when nothing was. A figure that is not a number misses."""
    misses = []
    if parity.settled is not None and thresholds.agreement is not None:
        parity = replace(parity, agreement=parity.settled)
        thresholds = replace(thresholds, agreement=min(thresholds.agreement, 1 - 1 / parity.n))
    for name, unit in (("agreement", ""), ("cosine", ""), ("sqnr_db", " dB")):
        found, wanted = getattr(parity, name), getattr(thresholds, name)
        if wanted is not None and not found >= wanted:
            misses.append(f"{name.removesuffix('_db')} {found:.5g}{unit}, wanted at least {wanted:g}{unit}")
    if thresholds.max_error is not None and not parity.max_error <= thresholds.max_error:
        misses.append(f"largest error {parity.max_error:.5g}, wanted at most {thresholds.max_error:g}")
    return misses


@dataclass(frozen=True)
class Divergence:
    """A layer whose SQNR is too low, and the kind of fault in words."""

    name: str
    sqnr_db: float
    fault: str


def first_divergence(
    parent: Mapping[str, Tensor], child: Mapping[str, Tensor], *, below_db: float = 15.0
) -> Divergence | None:
    """The first layer, in the parent's order, whose SQNR is below ``below_db``; ``None`` when there is none.

    Both are name -> real values (N, C, H, W) or (N, K); layers that the child does not have are passed over (an engine
    may have fused them away).
    """
    for name, found, a, b in _layers(parent, child):
        if not found >= below_db:
            return Divergence(name, found, fault_of(a, b))
    return None


def layer_sqnr(parent: Mapping[str, Tensor], child: Mapping[str, Tensor]) -> dict[str, float]:
    """SQNR in dB of every layer that both have, in the parent's order."""
    return {name: found for name, found, _, _ in _layers(parent, child)}


def _layers(parent: Mapping[str, Tensor], child: Mapping[str, Tensor]) -> Iterator[tuple[str, float, Tensor, Tensor]]:
    for name, a in parent.items():
        if name not in child:
            continue
        b = child[name].reshape(a.shape) if child[name].size == a.size else child[name]
        yield name, (sqnr_db(a, b) if a.shape == b.shape else -EXACT_DB), a, b


def fault_of(parent: Tensor, child: Tensor) -> str:
    """What kind of difference this is; values (N, C, ...) of one layer.

    Tried in the order in which one explains the next: shape, not a number, constant, permuted channels, wrong scale or
    offset (a straight line maps one to the other), saturated, noise.
    """
    if parent.shape != child.shape:
        return f"other shape: {parent.shape} became {child.shape}"
    a, b = parent.astype(np.float64), child.astype(np.float64)
    if not np.isfinite(b).all():
        return "not a number"
    if np.ptp(b) == 0 and np.ptp(a) > 0:
        return f"constant: every value is {b.flat[0]:.4g}"
    before = sqnr_db(a, b)
    if _permuted(a, b, before):
        return "permuted channels"
    slope, offset = np.polyfit(b.ravel(), a.ravel(), 1) if np.ptp(b) > 0 else (1.0, 0.0)
    if sqnr_db(a, slope * b + offset) > before + 6:
        return f"scale or zero point: parent = {slope:.4g} * child + {offset:.4g}"
    return _saturated(a, b) or "noise"


def _permuted(a: Tensor, b: Tensor, before: float) -> bool:
    """Whether giving every channel of ``a`` its most similar channel of ``b`` explains most of the difference."""
    if a.ndim < 2 or a.shape[1] < 2:
        return False
    rows_a, rows_b = (np.moveaxis(x, 1, 0).reshape(x.shape[1], -1) for x in (a, b))
    squares = (rows_a**2).sum(1)[:, None] + (rows_b**2).sum(1)[None, :]
    nearest = np.argmin(squares - 2 * rows_a @ rows_b.T, axis=1)
    moved = np.count_nonzero(nearest != np.arange(len(nearest)))
    return bool(
        moved >= 2 and len(np.unique(nearest)) > len(nearest) / 2 and sqnr_db(rows_a, rows_b[nearest]) > before + 6
    )


def _saturated(a: Tensor, b: Tensor) -> str | None:
    """The share of values that the child keeps at its largest or smallest value while the parent goes on."""
    span = np.ptp(b)
    above = (b >= b.max() - 1e-6 * span) & (a > b.max() + 0.01 * span)
    below = (b <= b.min() + 1e-6 * span) & (a < b.min() - 0.01 * span)
    noise = (a - b) ** 2
    if noise[above | below].sum() <= 0.5 * noise.sum():
        return None
    return f"saturated: {np.mean(above | below):.1%} of the values are cut at [{b.min():.4g}, {b.max():.4g}]"
