"""How many bits each node of a quantized graph computes in, and so which tensors have how many.

A plan names the nodes that do not compute in 8-bit integers: 32 for float, 16 for int8 weights with 16-bit activations.
What follows for a tensor, which has the same values for all that read it: 8 bits where something reads or computes it
in 8-bit integers; else 16 where something does so in 16; else it stays real. A whole network at 16 but for its picture
is the 16x8 scheme of TensorFlow Lite ("16-bit activations, 8-bit weights").

What a layer makes of its 8-bit sums may stay real too, where all that read it compute in float: such a tensor is
``opened``. A runtime that computes a layer and its reader at once (a convolution and a hard-swish, or a residual sum)
has these sums at hand, and rounding them in between is what stops it from doing so, or what it leaves out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from edgecnn.errors import UsageError
from edgecnn.graph.ir import SHARING, WEIGHTED, Graph, Node, Op

Bits = Mapping[str, int]  # by node; a node that is not named has 8
ALL_8: Bits = MappingProxyType({})
WIDTHS = (8, 16, 32)


@dataclass(frozen=True)
class Plan:
    """What is not 8-bit integers: nodes of more ``bits``, and layers whose output is open (``unrounded``)."""

    bits: Bits = field(default_factory=dict)
    unrounded: frozenset[str] = frozenset()

    def joined(self, other: Plan) -> Plan:
        """Both: of a node the more bits. A layer that gets more than 8 sums no integers, so it is not open."""
        bits = {name: max(each.bits.get(name, 8) for each in (self, other)) for name in (*self.bits, *other.bits)}
        return Plan(bits, (self.unrounded | other.unrounded) - bits.keys())


INT8 = Plan()


def with_bits(graph: Graph, bits: Bits) -> Graph:
    """The float ``graph`` with the plan written into its nodes; the input keeps its 8 bits.

    What moves the values of a tensor that has fewer bits than planned keeps to those: the values are the same.

    Raises ``UsageError`` for a node that is not there or bits other than 8, 16 and 32.
    """
    unknown = bits.keys() - graph.by_name.keys()
    if unknown:
        raise UsageError(f"the graph has no node '{min(unknown)}'", hint="plan for the nodes of this very graph")
    if not set(bits.values()) <= set(WIDTHS):
        raise UsageError(f"bits {sorted(set(bits.values()))} were asked for", hint="a node has 8, 16 or 32 (float)")
    given = {node.name: 8 if node.op is Op.INPUT else bits.get(node.name, 8) for node in graph.nodes}
    for node in graph.nodes:
        if node.op in SHARING and node.op is not Op.AVG_POOL:
            (source,) = node.inputs
            given[node.name] = min(given[name] for name in (source, *(each.name for each in graph.consumers(source))))
    return graph.with_nodes(tuple(replace(node, bits=given[node.name]) for node in graph.nodes))


def bits_of(graph: Graph) -> dict[str, int]:
    """The plan that is written in a graph: the nodes that do not have 8."""
    return {node.name: node.bits for node in graph.nodes if node.bits != 8}


def tensor_bits(graph: Graph) -> dict[str, int]:
    """The bits of every tensor that has numbers."""
    found = {node.name: min(node.bits, *(each.bits for each in graph.consumers(node.name)), 32) for node in graph.nodes}
    return {name: width for name, width in found.items() if width < 32}


def whole(graph: Graph, width: int) -> dict[str, int]:
    """The plan that gives every node but the input the same bits."""
    return {node.name: width for node in graph.nodes if node.op is not Op.INPUT}


def may_open(graph: Graph, node: Node) -> bool:
    """Whether what the node writes could be open: it is a layer of 8 bits that only nodes of 32 read, if any does."""
    return node.op in WEIGHTED and node.bits == 8 and all(reader.bits == 32 for reader in graph.consumers(node.name))


def opened(graph: Graph, names: Collection[str]) -> Graph:
    """The quantized ``graph`` with the outputs of these layers open: see :class:`~edgecnn.graph.ir.Graph`.

    Raises ``UsageError`` for one that cannot be.
    """
    for name in names:
        if name not in graph.by_name or not may_open(graph, graph.node(name)):
            raise UsageError(f"'{name}' cannot stay unrounded", hint="open 8-bit layers that only float nodes read")
    return replace(graph, qparams={name: known for name, known in graph.qparams.items() if name not in names})
