"""Groups of alike nodes that a runtime may compute faster, or only otherwise, than in 8-bit integers.

Runtimes compute a convolution and what follows it at once where they can, and then no rounding takes place in between.
OpenVINO does so with a hard-swish, if that reads the convolution's real output, and with a residual sum, whatever is
asked for. Where the numbers say the same (the convolution's output open, the reader in float, its own output rounded),
the first is computed at once, and the second is what the specification says. Which groups gain anything is for the
caller to measure, in the runtime that it is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from edgecnn.compress.bits import INT8, Plan, may_open, with_bits
from edgecnn.graph.ir import WEIGHTED, Graph, Node, Op

ACTIVATIONS = (Op.HARD_SWISH, Op.SILU, Op.HARD_SIGMOID, Op.SIGMOID)


def groups(real: Graph) -> dict[str, Plan]:
    """What can be changed together in the int8 network of the float graph ``real``, by name, the likeliest first."""
    squeezed = frozenset(_squeeze_excite(real))
    found = {
        "activations on unrounded sums": _reading_layers(real, [n for n in real.nodes if n.op in ACTIVATIONS]),
        "gates per channel on unrounded sums": _reading_layers(real, *_channel_gates(real)),
        "additions of unrounded branches": _reading_layers(real, [n for n in real.nodes if n.op is Op.ADD]),
        "unrounded answers": Plan({}, frozenset({real.output} & set(_layers(real)))),
        "activations in float": _in_float(node.name for node in real.nodes if node.op in ACTIVATIONS),
        "squeeze-and-excitation in float": _in_float(squeezed),
        "averages in float": _in_float(
            node.name for node in real.nodes if node.op in (Op.MEAN, Op.AVG_POOL) and node.name not in squeezed
        ),
        "the first layer in float": _in_float(_layers(real)[:1]),
    }
    return {name: plan for name, plan in found.items() if plan != INT8}


def _in_float(names: Iterable[str]) -> Plan:
    return Plan(dict.fromkeys(names, 32))


def _layers(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op in WEIGHTED]


def _reading_layers(graph: Graph, nodes: list[Node], beside: Mapping[str, str] | None = None) -> Plan:
    """Those of the ``nodes`` that read a layer which nothing else reads, in float, and these layers open.

    ``beside`` has nodes that go with them, by name.
    """
    beside = beside or {}
    chosen: dict[str, int] = {}
    unrounded: set[str] = set()
    for node in nodes:
        together = dict.fromkeys({node.name, beside.get(node.name, node.name)}, 32)
        planned = with_bits(graph, together)
        open_ = {name for name in node.inputs if name not in together and may_open(planned, planned.node(name))}
        if open_:
            chosen |= together
            unrounded |= open_
    return Plan(chosen, frozenset(unrounded))


def _channel_gates(graph: Graph) -> tuple[list[Node], dict[str, str]]:
    """Products ``x * gate(x)`` with a layer as the gate (:mod:`~edgecnn.compress.gates`), and their gates by name."""
    gates = {
        node.name: gate
        for node in graph.nodes
        if node.op is Op.MUL
        for gate in node.inputs[1:]
        if graph.node(gate).op in WEIGHTED and graph.node(gate).inputs == node.inputs[:1]
    }
    return [graph.node(name) for name in gates], gates


def _squeeze_excite(graph: Graph) -> Iterator[str]:
    """What lies between a map and its product with a vector: an average, two layers, their activations."""
    for node in graph.nodes:
        if node.op is Op.MUL and graph.node(node.inputs[1]).shape[1:] == (1, 1) != node.shape[1:]:
            inner = graph.node(node.inputs[1])
            while inner.shape[1:] == (1, 1) and inner.op is not Op.INPUT:
                yield inner.name
                if inner.op is Op.MEAN:
                    break
                inner = graph.node(inner.inputs[0])
