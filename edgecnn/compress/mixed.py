"""Mixed precision: which layers of an int8 network to keep in float, by what the answers regain.

A layer loses by its weights and by the tensor it writes. So two things are tried for each: the layer with the operators
behind it in float, and these with whatever reads what they write, since a tensor stays real only if nothing reads it in
8 bits. Each is measured as the mean Kullback-Leibler divergence of the answers from the float network's, with all else
in int8 (the per-layer sensitivity of Cai et al. 2020, arXiv 2001.00281, equation 2, measured the other way round:
nothing here is an estimate). What regains most per share of the budget comes first; as gains do not add up, how many
of them are needed is for the caller to try.

The numbers of everything that stays int8 are those that were decided for it: the network is loosened, not calibrated
again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecnn.compress.bits import Bits, opened, tensor_bits, with_bits
from edgecnn.compress.quantize import Gating, decompose, fixed_qparams
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import WEIGHTED, Graph, Node

Divergence = Callable[[NDArray[np.float32], NDArray[np.float32]], float]
"""How far logits (N, K) are from the float network's, which come first."""
PICTURES = 16  # on which sensitivity is measured
CHEAP = 0.1  # of the budget
FLOAT_BYTES = 3  # that a weight takes more in float32 than in int8


@dataclass(frozen=True)
class Cost:
    """What keeping nodes wide costs: bytes of weights more than in int8, and multiply-adds that are not int8."""

    size_bytes: int
    macs: int

    def share_of(self, budget: Cost) -> float:
        """The larger share of the two budgets; infinite where there is none."""
        return max(_share(self.size_bytes, budget.size_bytes), _share(self.macs, budget.macs))


@dataclass(frozen=True)
class Candidate:
    """Nodes that are kept wide together, named after the layer, and what the answers regain: a divergence in nats."""

    layer: str
    nodes: frozenset[str]
    gain: float


def loosened(
    real: Graph, integer: Graph, bits: Bits, hard_swish: Gating = "decompose", unrounded: Collection[str] = ()
) -> Graph:
    """The ``integer`` graph with the nodes of a plan in more bits, all other numbers as they are.

    ``unrounded``: layers whose output is opened (:func:`~edgecnn.compress.bits.opened`).

    ``real``: the float graph that it was made from, its operators as captured, and channels equalized as ``integer``
    has them. Raises as ``with_bits``.
    """
    graph = decompose(with_bits(real, bits), hard_swish=hard_swish)
    kept = {node.name: node.bits for node in graph.nodes if node.op in WEIGHTED}
    weights = {}
    for key, array in real.weights.items():
        name, _, part = key.rpartition(".")
        weights[key] = array if kept[name] == 32 or (kept[name] == 16 and part == "bias") else integer.weights[key]
    qparams = {}
    for name, width in tensor_bits(graph).items():
        known = integer.qparams[name]
        qparams[name] = known if width == 8 else fixed_qparams(graph.node(name), 16) or known.widened
    scales = {name: scale for name, scale in integer.weight_scales.items() if kept[name] < 32}
    return opened(replace(graph, weights=weights, qparams=qparams, weight_scales=scales), unrounded)


def candidates(
    real: Graph,
    integer: Graph,
    images: NDArray[np.uint8],
    divergence: Divergence,
    width: int = 32,
    *,
    hard_swish: Gating = "decompose",
    tell: Callable[[str], None] = lambda line: None,
) -> list[Candidate]:
    """What can be kept ``width`` bits wide, each measured on images (N, H, W, C) uint8 by ``divergence``.

    Twice as many passes over the pictures as there are layers. Graphs as for ``loosened``.
    """
    wanted = run(real, images).numpy()

    def apart(bits: Bits) -> float:
        return divergence(wanted, run(loosened(real, integer, bits, hard_swish), images).numpy())

    found, most = [], apart({})
    choices = _choices(real)
    for number, (layer, nodes) in enumerate(choices):
        tell(f"sensitivity {number + 1}/{len(choices)}: {layer}")
        found.append(Candidate(layer, nodes, most - apart(dict.fromkeys(nodes, width))))
    return found


def plans(graph: Graph, found: Sequence[Candidate], budget: Cost, width: int = 32) -> list[frozenset[str]]:
    """Ever larger sets of nodes to keep wide, each with the one before in it, within the budget.

    The next candidate is the one with the most gain per share of the budget; one that no longer fits is passed over. A
    share below ``CHEAP`` counts as that, lest many that regain next to nothing leave no room for what regains most.
    """
    worth = {each: each.gain / max(cost(graph, each.nodes, width).share_of(budget), CHEAP) for each in found}
    kept: frozenset[str] = frozenset()
    grown: list[frozenset[str]] = []
    for each in sorted((each for each in found if each.gain > 0), key=worth.__getitem__, reverse=True):
        wider = kept | each.nodes
        if wider != kept and cost(graph, wider, width).share_of(budget) <= 1:
            kept = wider
            grown.append(kept)
    return grown


def cost(graph: Graph, nodes: frozenset[str], width: int = 32) -> Cost:
    """What it costs to keep these nodes ``width`` bits wide; 16 bits cost no weights."""
    kept = [node for node in graph.nodes if node.name in nodes]
    weights = {node.name: graph.weights[f"{node.name}.weight"].size for node in kept if node.op in WEIGHTED}
    macs = sum(_macs(node, weights.get(node.name)) for node in kept)
    return Cost(FLOAT_BYTES * sum(weights.values()) if width == 32 else 0, macs)


def whole_cost(graph: Graph) -> Cost:
    """Bytes of the int8 network's weights, and all of its multiply-adds."""
    everything = cost(graph, frozenset(node.name for node in graph.nodes))
    return Cost(everything.size_bytes // FLOAT_BYTES, everything.macs)


def _macs(node: Node, weights: int | None) -> int:
    """Multiply-adds of a layer; an operator without weights counts one for each of its values."""
    values = int(np.prod(node.shape))
    return values if weights is None else weights * values // node.shape[0]


def _choices(graph: Graph) -> list[tuple[str, frozenset[str]]]:
    """For each layer: it and what follows it up to the next layers; and these with all that reads what they write."""
    owner: dict[str, str] = {}
    order = {node.name: at for at, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        before = [owner[name] for name in node.inputs if name in owner]
        if node.op in WEIGHTED:
            owner[node.name] = node.name
        elif before:
            owner[node.name] = max(before, key=order.__getitem__)
    blocks: dict[str, set[str]] = {}
    for name, layer in owner.items():
        blocks.setdefault(layer, set()).add(name)
    chosen: dict[frozenset[str], str] = {}
    for layer, block in blocks.items():
        readers = {reader.name for name in block for reader in graph.consumers(name)}
        chosen.setdefault(frozenset(block), layer)
        chosen.setdefault(frozenset(block | readers), layer)
    return [(layer, nodes) for nodes, layer in chosen.items()]


def _share(part: int, whole: int) -> float:
    if not part:
        return 0.0
    return part / whole if whole else float("inf")
