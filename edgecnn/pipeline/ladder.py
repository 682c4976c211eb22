"""One way to int8 after another, judged on the same validation pictures: what a rung is, and who judges it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn import tasks
from edgecnn.compress import equalize
from edgecnn.compress.quantize import Gating, decompose
from edgecnn.data.tensors import ImageTensors
from edgecnn.graph.interpret import GraphModule
from edgecnn.graph.ir import Graph
from edgecnn.measure.parity import divergence
from edgecnn.measure.stats import paired_difference
from edgecnn.pipeline.loading import batched
from edgecnn.spec import Interval, Task


@dataclass(frozen=True)
class Gain:
    """What a rung regained of what the best one before it, ``over``, had lost: nats, and percentage points."""

    over: str
    kl: float
    points: float


@dataclass(frozen=True)
class Rung:
    """One way to int8: its numbers, how the float graph was rewritten for it, and how near it came.

    ``kl``: mean Kullback-Leibler divergence from the float network's answers, in nats; ``agreement``: share of equal
    answers; ``drop``: accuracy lost, a fraction with its 95 % interval, on the same pictures; ``seconds`` it took.
    """

    name: str
    graph: Graph
    changes: dict[str, equalize.Change]
    kl: float
    agreement: float
    drop: Interval
    seconds: float
    gain: Gain | None = None

    def floating(self, graph: Graph, hard_swish: Gating) -> Graph:
        """The float ``graph`` in this rung's terms: the same nodes by name, channels equalized as it has them."""
        return decompose(equalize.rewrite(graph, self.changes), hard_swish=hard_swish)

    def misses(self, max_drop: float) -> bool:
        """Whether it loses more than ``max_drop`` points, by what these pictures say."""
        return 100 * self.drop.value > max_drop

    def surely_misses(self, max_drop: float) -> bool:
        """Whether the whole interval of what it loses lies above ``max_drop`` points."""
        return 100 * self.drop.low > max_drop

    @property
    def surely_loses(self) -> bool:
        """Whether the whole interval of what it loses lies above nothing."""
        return self.drop.low > 0

    def compared(self, before: Rung) -> Rung:
        """This rung with its gain over another, judged on the same pictures."""
        gain = Gain(before.name, before.kl - self.kl, 100 * (before.drop.value - self.drop.value))
        return replace(self, gain=gain)

    def figures(self) -> dict[str, Any]:
        """As a manifest holds it; the drop in percentage points."""
        points = {f"drop{end}": round(100 * value, 3) for end, value in self._ends().items()}
        rounded = {"kl": round(self.kl, 6), "agreement": round(self.agreement, 5), "seconds": round(self.seconds, 1)}
        said: dict[str, Any] = {"rung": self.name, **rounded, **points, "images": self.drop.n}
        if self.gain is not None:
            kl, gained = round(self.gain.kl, 6), round(self.gain.points, 3)
            said |= {"over": self.gain.over, "gain_kl": kl, "gain_points": gained}
        return said

    def __str__(self) -> str:
        """One line for the terminal."""
        gain = self.gain
        gains = f"; gains {gain.kl:.4f} nats and {gain.points:.2f} points over {gain.over}" if gain else ""
        return f"{self.name}: {self.standing}, {self.seconds:.1f} s{gains}"

    @property
    def standing(self) -> str:
        """How near it came, in words."""
        low, value, high = (100 * self._ends()[end] for end in ("_low", "", "_high"))
        near = f"divergence {self.kl:.4f}, agreement {self.agreement:.1%}"
        return f"{near}, drop {value:.2f} points ({low:.2f} to {high:.2f})"

    def _ends(self) -> dict[str, float]:
        return {"": self.drop.value, "_low": self.drop.low, "_high": self.drop.high}


class Judge:
    """Validation pictures and what the float network answers to them."""

    def __init__(self, floating: Graph, val: ImageTensors, task: Task) -> None:
        self._val, self._task = val, task
        self._parent = batched(GraphModule(floating).eval(), val.images)

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._val)

    def divergence(self, wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
        """Mean divergence of logits (N, K) from those that are wanted."""
        return float(divergence(wanted, found, self._task).mean())

    def rung(self, name: str, made: tuple[Graph, dict[str, equalize.Change]], seconds: float) -> Rung:
        """The numbers judged."""
        logits = batched(GraphModule(made[0]).eval(), self._val.images)
        was, now = (tasks.right(self._task, each, self._val.labels) for each in (self._parent, logits))
        return Rung(
            name=name,
            graph=made[0],
            changes=made[1],
            kl=self.divergence(self._parent, logits),
            agreement=tasks.agreement(self._task, self._parent, logits),
            drop=paired_difference(was, now),
            seconds=seconds,
        )

    def again(self, rung: Rung) -> Rung:
        """A rung that others judged, judged here; what it gained is theirs to say."""
        return replace(self.rung(rung.name, (rung.graph, rung.changes), rung.seconds), gain=rung.gain)
