"""Collects IR nodes while a torch graph is walked: names, shapes and weights of what has been translated so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgecnn.errors import ModelError
from edgecnn.graph.ir import Array, Graph, Node, Op
from edgecnn.spec import Preprocess

IMAGE = "image"
NORMALIZE = "normalize"


@dataclass(frozen=True)
class Grouped:
    """A tensor (C, H, W) seen as (groups, C / groups, H, W), or, ``swapped``, as (C / groups, groups, H, W)."""

    tensor: str
    groups: int
    swapped: bool = False


class GraphBuilder:
    """Grows a list of nodes; knows which tensor of ours each value of the torch graph has become."""

    def __init__(self, constants: dict[str, torch.Tensor], leaves: set[str]) -> None:
        """``constants``: placeholder name -> parameter or buffer; ``leaves``: paths of modules without children."""
        self._constants = constants
        self._leaves = leaves
        self._names: dict[torch.fx.Node, str] = {}
        self._nodes: dict[str, Node] = {}
        self._weights: dict[str, Array] = {}
        self.grouped: dict[torch.fx.Node, Grouped] = {}
        self.parts: dict[torch.fx.Node, list[tuple[str, int, int]]] = {}  # of a split: tensor, first channel, end

    def start(self, image_size: int, preprocess: Preprocess) -> str:
        """Add the input and, where the input's scale cannot hold the normalization, a 1x1 convolution that does it."""
        channels = preprocess.channels
        shape = (channels, image_size, image_size)
        if preprocess.uniform:
            attrs = {"mean": list(preprocess.mean), "std": list(preprocess.std)}
            return self._add(Node(IMAGE, Op.INPUT, (), shape, attrs))
        self._add(Node(IMAGE, Op.INPUT, (), shape, {"mean": [0.0] * channels, "std": [1.0] * channels}))
        mean, std = np.array(preprocess.mean), np.array(preprocess.std)
        return self.scale_shift(NORMALIZE, IMAGE, 1.0 / std, -mean / std)

    def emit(
        self,
        source: torch.fx.Node,
        op: Op,
        inputs: tuple[str, ...],
        attrs: dict[str, Any] | None = None,
        *,
        shape: tuple[int, ...] | None = None,
        weights: dict[str, Array] | None = None,
    ) -> str:
        """Add the node that ``source`` becomes and return its name. ``shape`` is taken from ``source`` unless given."""
        name = self.fresh_name(source, op)
        self._add(Node(name, op, inputs, shape or value_shape(source), attrs or {}))
        for key, array in (weights or {}).items():
            self._weights[f"{name}.{key}"] = array
        self._names[source] = name
        return name

    def scale_shift(self, name: str, tensor: str, scale: Array, shift: Array) -> str:
        """Add ``scale[c] * x[c] + shift[c]``: a 1x1 depthwise convolution, which every format has. Returns its name."""
        channels = len(scale)
        attrs: dict[str, Any] = {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1]}
        attrs |= {"groups": channels, "clamp": None}
        self._add(Node(name, Op.CONV, (tensor,), self.shape(tensor), attrs))
        self._weights[f"{name}.weight"] = scale.astype(np.float32).reshape(channels, 1, 1, 1)
        self._weights[f"{name}.bias"] = shift.astype(np.float32)
        return name

    def alias(self, source: torch.fx.Node, name: str) -> None:
        """From now on ``source`` means the tensor ``name`` (dropout in evaluation, contiguous, ...)."""
        self._names[source] = name

    def overwrite(self, old: str, new: str) -> None:
        """An in-place operator has put ``new`` where ``old`` was: whoever held ``old`` holds ``new`` from now on."""
        for source, name in self._names.items():
            if name == old:
                self._names[source] = new

    def tensor(self, value: object) -> str:
        """The name of our tensor for a value of the torch graph."""
        if isinstance(value, torch.fx.Node) and value in self._names:
            return self._names[value]
        if value in self.grouped or value in self.parts:
            raise ModelError(
                f"{value}, whose channels are in groups or parts, is read as a whole",
                hint="channels may be split, taken apart and shuffled, but nothing is computed in between",
            )
        raise ModelError(
            f"{value} is not computed from the picture", hint="only the picture may be an input of the model"
        )

    def constant(self, value: object) -> Array | None:
        """The array behind a parameter or buffer of the torch graph; ``None`` stays ``None``."""
        if value is None:
            return None
        if isinstance(value, torch.fx.Node) and value.name in self._constants:
            return np.ascontiguousarray(self._constants[value.name].detach().cpu().float().numpy())
        raise ModelError(
            f"{value} should be a parameter but is computed", hint="weights must be constants of the model"
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without the batch dimension."""
        return self._nodes[name].shape

    def op(self, name: str) -> Op:
        """What computes a tensor."""
        return self._nodes[name].op

    def fresh_name(self, source: torch.fx.Node, op: Op) -> str:
        """Path of the module that computes ``source``, plus the operator's name where that module holds others."""
        path = module_path(source)
        # A padding inside a convolution's module must not take the convolution's name.
        own = path in self._leaves and op is not Op.PAD
        base = path if own else ".".join(part for part in (path, op.value) if part)
        name, count = base, 1
        while name in self._nodes:
            name, count = f"{base}_{count}", count + 1
        return name

    def finish(self, output: str) -> Graph:
        """The graph of everything added."""
        return Graph(tuple(self._nodes.values()), output, dict(self._weights))

    def _add(self, node: Node) -> str:
        self._nodes[node.name] = node
        return node.name


def module_path(source: torch.fx.Node) -> str:
    """Path of the innermost module that computes ``source``, ``""`` for the model itself."""
    stack = source.meta.get("nn_module_stack") or {}
    path: str = list(stack.values())[-1][0] if stack else ""
    return path.split("@")[0]


def value_shape(source: torch.fx.Node) -> tuple[int, ...]:
    """Shape of what ``source`` computes, without the batch dimension."""
    return tuple(int(size) for size in source.meta["val"].shape[1:])
