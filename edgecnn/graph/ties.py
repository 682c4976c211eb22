"""Which tensors of a graph must share something: groups that grow together (union-find)."""

from __future__ import annotations

from collections.abc import Sequence

from edgecnn.graph.ir import Graph


class Ties:
    """Every tensor of a graph in exactly one group; alone at first."""

    def __init__(self, graph: Graph) -> None:
        self._group = {node.name: [node.name] for node in graph.nodes}

    def join(self, name: str, others: Sequence[str]) -> None:
        """Make one group of those of ``name`` and of each of the ``others``."""
        for other in others:
            group, joined = self._group[name], self._group[other]
            if group is not joined:
                group += joined
                self._group |= dict.fromkeys(joined, group)

    def group(self, name: str) -> tuple[str, ...]:
        """All that share with ``name``, itself included."""
        return tuple(self._group[name])

    def groups(self) -> list[tuple[str, ...]]:
        """Every group once."""
        return [tuple(group) for group in {id(group): group for group in self._group.values()}.values()]
