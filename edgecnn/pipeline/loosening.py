"""The rung of mixed precision: as few layers of an int8 network in float as the gate needs, within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from edgecnn.compress import equalize, mixed, ptq
from edgecnn.graph.ir import WEIGHTED, Graph
from edgecnn.pipeline.context import Context
from edgecnn.pipeline.ladder import Judge, Rung
from edgecnn.steps import QuantizeStep

Kept = frozenset[str]


def loosen(
    context: Context,
    graph: Graph,
    start: Rung,
    pictures: ptq.Pictures,
    judge: Judge,
    step: QuantizeStep,
) -> tuple[Rung | None, dict[str, Any]]:
    """What keeping layers of ``start``, an int8 rung of the float ``graph``, in more bits makes of it; and its figures.

    ``None`` where nothing regains anything within the budget.
    """
    began = time.perf_counter()
    real = equalize.rewrite(graph, start.changes)
    whole = mixed.whole_cost(real)
    budget = mixed.Cost(round(step.max_growth * whole.size_bytes), round(step.max_float * whole.macs))

    def rung(nodes: Kept) -> Rung:
        numbers = mixed.loosened(real, start.graph, dict.fromkeys(nodes, step.kept_bits), step.hard_swish)
        return judge.rung("mixed", (numbers, start.changes), time.perf_counter() - began)

    some = ptq.first(pictures, mixed.PICTURES)
    context.tell(f"{step.output}: what each layer costs in int8, on {len(some)} pictures")
    found = mixed.candidates(real, start.graph, some, judge.divergence, step.kept_bits, hard_swish=step.hard_swish)
    plans = mixed.plans(real, found, budget, step.kept_bits)
    if not plans:
        return None, {}
    nodes, best = _fewest(plans, rung, step.max_drop)
    spent = mixed.cost(real, nodes, step.kept_bits)
    figures = {
        "kept_bits": step.kept_bits,
        "kept": [node.name for node in real.nodes if node.name in nodes and node.op in WEIGHTED],
        "growth": round(spent.size_bytes / whole.size_bytes, 4),
        "float_macs": round(spent.macs / whole.macs, 4),
    }
    return best, figures


def told(figures: dict[str, Any]) -> str:
    """The figures of ``loosen`` in a line."""
    what = "in float" if figures["kept_bits"] == 32 else "at 16 bits"
    share = f"weights {figures['growth']:+.1%}, {figures['float_macs']:.1%} of the multiply-adds"
    return f"kept {what} ({share}): {', '.join(figures['kept'])}"


def _fewest(plans: Sequence[Kept], rung: Callable[[Kept], Rung], max_drop: float) -> tuple[Kept, Rung]:
    """The first of ever larger plans that meets the gate, by bisection; the last where none does."""
    low, high = 0, len(plans) - 1
    best = rung(plans[high])
    while low < high and not best.misses(max_drop):
        middle = (low + high) // 2
        tried = rung(plans[middle])
        if tried.misses(max_drop):
            low = middle + 1
        else:
            high, best = middle, tried
    return plans[high], best
