"""Quantization-aware training: the network that int8 computes, in float32 and differentiable.

Every tensor and every weight is rounded onto its int8 grid on the way forward, and the rounding is passed over on the
way back (the straight-through estimator; Jacob et al. 2018, arXiv 1712.05877, section 3); the steps of the grids are
trained too (:mod:`edgecnn.compress.lsq`). It starts from numbers that were decided after training and ends in numbers
of the same kind, so whatever renders, verifies or runs those need not know.

* **Batch normalization is folded before.** A deployed network has none: it computes with weights that hold the
  statistics of the float training, and those are frozen here, as Krishnamoorthi 2018 (arXiv 1806.08342, section 3.2)
  recommends for the end of a training; so the weights that are rounded are the weights that are deployed, which with
  live statistics would be so only after correction terms. The price: weights no longer have the normalization's
  freedom of scale, so a learning rate for training is too high here, by a hundred times or so, and this mends a trained
  network rather than training one.
* **Dropout is gone** for the same reason; regularize with the teacher.
* **What is fixed stays fixed**: the numbers of the input, which are the pixels, those of a sigmoid and of what is
  clamped to [0, 1]. Zero points stay, so zero is exact and a clamp at zero costs nothing. Tensors that must have the
  same numbers share one step.
* **Biases stay real** while they are trained: at int32 their rounding is far below that of the sums they join.
* **The teacher is the float network, and by default the only one**, at temperature 1. A small MobileNetV2 (68 % on
  CIFAR-10 at 32 px), three epochs on 3,000 pictures, KL divergence from the float network and top-1 agreement with it
  on 3,000 others:

      numbers                               KL divergence   top-1 agreement
      calibrated                            0.00063         98.7 %
      rate 0.001, teacher alone             0.00050         98.9 %
      rate 0.01, teacher alone              0.00042         98.8 %
      rate 0.01, a tenth from the labels    0.00134         97.9 %
      rate 0.03, teacher alone              0.29690         64.0 %

  The larger the network and the smaller the batch, the lower the rate: EfficientNet-Lite0 on flowers at 128 px in
  batches of 32 has 94.9 % of 441 validation pictures right as calibrated, 92.5 % after two epochs at rate 0.001, 94.6 %
  after three at 0.0001 or 0.00002.
* **float32 throughout.** In bfloat16, with 8 significant bits, sums would be rounded as coarsely as int8 rounds them,
  but elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from edgecnn.compress.lsq import LearnedStep
from edgecnn.compress.quantize import BIAS_MAX, FINEST_STEP, WEIGHT_MAX, fixed_qparams
from edgecnn.errors import UsageError
from edgecnn.graph import real
from edgecnn.graph.integer import INT8
from edgecnn.graph.ir import SHARING, WEIGHTED, Array, Graph, Node, Op, QParams

EDGE = 0.499
"""How far from the middle of its step, in steps, a real weight may begin."""


class FakeQuantized(nn.Module):
    """Images (N, C, H, W) float32, normalized as the graph's input is -> logits (N, K) float32, as int8 has them.

    The layers are torch's own, under the names of their nodes, because the training loop asks those which weights
    decay; what they compute is :mod:`edgecnn.graph.real`'s to say.
    """

    def __init__(self, floating: Graph, quantized: Graph) -> None:
        """Start from the numbers of ``quantized``, with the weights of ``floating``, which has the same nodes.

        Each real weight is moved by as little as makes it round to the integer that was decided for it. Raises
        ``UsageError`` where the two are not a float graph and its quantized form.
        """
        super().__init__()
        _check(floating, quantized)
        self.graph = replace(quantized, weights={}, weight_scales={})
        self.owners = shared_numbers(quantized)
        for node in quantized.nodes:
            self._add_step(node, quantized)
            if node.op in WEIGHTED:
                self._add_layer(node, floating.weights[f"{node.name}.weight"], quantized)
        self._plan = [
            (_without_idle_clamp(node, quantized.qparams[node.name]), self._rounds(node)) for node in quantized.nodes
        ]
        self._last_use = {name: index for index, node in enumerate(quantized.nodes) for name in node.inputs}

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) float32, normalized -> logits (N, K) float32."""
        sizes = {name: self._step(name).size for name in set(self.owners.values())}
        alive: dict[str, Tensor] = {}
        for index, (node, rounds) in enumerate(self._plan):
            value = images if node.op is Op.INPUT else self._compute(node, [alive[name] for name in node.inputs], sizes)
            alive[node.name] = self._step(node.name)(value, sizes[self.owners[node.name]]) if rounds else value
            for name in node.inputs:
                if self._last_use[name] == index and name != self.graph.output:
                    alive.pop(name, None)
        return alive[self.graph.output]

    def qparams(self, name: str) -> QParams:
        """The numbers of a tensor as they are now."""
        return replace(self.graph.qparams[name], scale=float(self._step(name).size))

    def layer_numbers(self, node: Node) -> tuple[Array, Array, Array]:
        """Of a convolution or linear layer as it is now: weight int8 (O, ...), bias int32 (O,), scales (O,) float32."""
        weight, bias, step = self._layer(node)
        source = self._step(node.inputs[0]).size
        size = self._weight_size(node, source, self._step(node.name).size)
        column = _column(size, weight)
        integers = (step(weight, column) / column).round().to(torch.int8).contiguous()
        offsets = (bias.double() / (size.double() * source.double())).round().clamp(-(2**31), 2**31 - 1)
        return integers.numpy(), offsets.to(torch.int32).numpy(), size.numpy().copy()

    def _compute(self, node: Node, inputs: Sequence[Tensor], sizes: Mapping[str, Tensor]) -> Tensor:
        if node.op not in WEIGHTED:
            return real.compute(node, inputs, None, None)
        weight, bias, step = self._layer(node)
        size = self._weight_size(node, sizes[self.owners[node.inputs[0]]], sizes[self.owners[node.name]])
        return real.compute(node, inputs, step(weight, _column(size, weight)), bias)

    def _weight_size(self, node: Node, source: Tensor, target: Tensor) -> Tensor:
        """The steps (O,) of a layer's weights, not below what ``quantize_layer`` says int32 and the runtimes need."""
        _, bias, step = self._layer(node)
        needed = torch.maximum(bias.abs() / (source * BIAS_MAX), FINEST_STEP * target / source)
        return torch.maximum(step.size, needed.detach())

    def _rounds(self, node: Node) -> bool:
        """Whether the node's output needs rounding: not where it only moves values that are on the output's grid."""
        moves = node.op is Op.CONCAT or (node.op in SHARING and node.op is not Op.AVG_POOL)
        return not moves or any(self.owners[name] != self.owners[node.name] for name in node.inputs)

    def _add_step(self, node: Node, quantized: Graph) -> None:
        """The step of a tensor whose numbers are its own."""
        if self.owners[node.name] != node.name:
            return
        qparams = quantized.qparams[node.name]
        members = [quantized.node(name) for name, owner in self.owners.items() if owner == node.name]
        fixed = any(fixed_qparams(member) is not None for member in members)
        low, high = (end - qparams.zero_point for end in INT8)
        start, values = torch.tensor(qparams.scale, dtype=torch.float32), int(np.prod(node.shape))
        self.add_module(_key(node.name, "step"), LearnedStep(start, low, high, values, fixed=fixed))

    def _add_layer(self, node: Node, weight: Array, quantized: Graph) -> None:
        """A layer that holds the real weights of a node, and their steps."""
        scale = np.asarray(quantized.weight_scales[node.name], np.float32)
        integers = torch.from_numpy(quantized.weights[f"{node.name}.weight"]).float()
        column = _column(torch.from_numpy(scale), integers)
        steps = (torch.from_numpy(np.asarray(weight, np.float32)) / column).clamp(integers - EDGE, integers + EDGE)
        bias = quantized.weights[f"{node.name}.bias"] * (
            scale.astype(np.float64) * quantized.qparams[node.inputs[0]].scale
        )
        layer = _holder(node, integers.shape)
        layer.load_state_dict({"weight": steps * column, "bias": torch.from_numpy(bias)})
        self.add_module(_key(node.name, "layer"), layer)
        step = LearnedStep(torch.from_numpy(scale.copy()), -WEIGHT_MAX, WEIGHT_MAX, integers[0].numel())
        self.add_module(_key(node.name, "weight_step"), step)

    def _layer(self, node: Node) -> tuple[Tensor, Tensor, LearnedStep]:
        """A layer's real weight and bias, and the step of the weight."""
        layer, step = (self.get_submodule(_key(node.name, part)) for part in ("layer", "weight_step"))
        assert isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(step, LearnedStep) and layer.bias is not None
        return layer.weight, layer.bias, step

    def _step(self, name: str) -> LearnedStep:
        step = self.get_submodule(_key(self.owners[name], "step"))
        assert isinstance(step, LearnedStep)
        return step


@torch.no_grad()
def to_numbers(module: FakeQuantized) -> Graph:
    """The int8 graph that ``module``, which is on the CPU, computes as it is now."""
    graph = module.graph
    weights: dict[str, Array] = {}
    scales: dict[str, Array] = {}
    for node in graph.nodes:
        if node.op in WEIGHTED:
            weight, bias, scales[node.name] = module.layer_numbers(node)
            weights |= {f"{node.name}.weight": weight, f"{node.name}.bias": bias}
    qparams = {node.name: module.qparams(node.name) for node in graph.nodes}
    return replace(graph, weights=weights, qparams=qparams, weight_scales=scales)


def shared_numbers(quantized: Graph) -> dict[str, str]:
    """For every tensor the one whose numbers it has: its own name, or that of the first which must have the same."""
    owners: dict[str, str] = {}
    for node in quantized.nodes:
        owners[node.name] = owners[node.inputs[0]] if node.op in SHARING else node.name
        joined = [name for name in node.inputs if quantized.qparams[name] == quantized.qparams[node.name]]
        if node.op is Op.CONCAT and joined:
            first, others = owners[joined[0]], {owners[name] for name in joined} | {node.name}
            owners = {name: first if owner in others else owner for name, owner in owners.items()}
    return owners


def _check(floating: Graph, quantized: Graph) -> None:
    if floating.quantized or not quantized.quantized:
        raise UsageError("a float graph and its int8 form are needed", hint="give them in this order")
    theirs, ours = ([(node.name, node.op) for node in graph.nodes] for graph in (floating, quantized))
    if theirs != ours:
        lost = sorted({name for name, _ in set(theirs) ^ set(ours)})
        raise UsageError(
            f"the float graph is not in the terms of the int8 graph: they differ in {', '.join(lost[:3])}",
            hint="decompose the float graph with the settings of its quantization",
        )


def _without_idle_clamp(node: Node, qparams: QParams) -> Node:
    """The node without a lower clamp at zero where its grid begins there, and clips what lies below itself."""
    low, high = node.attrs.get("clamp") or (None, None)
    if low != 0 or qparams.zero_point != INT8[0]:
        return node
    return replace(node, attrs={**node.attrs, "clamp": None if high is None else [None, high]})


def _holder(node: Node, shape: Sequence[int]) -> nn.Conv2d | nn.Linear:
    """torch's layer for the weights of a node, which are (O, I / groups, kh, kw) or (O, I)."""
    if node.op is Op.LINEAR:
        return nn.Linear(shape[1], shape[0])
    outputs, inputs, height, width = shape
    groups = node.attrs["groups"]
    return nn.Conv2d(inputs * groups, outputs, (height, width), groups=groups)


def _column(sizes: Tensor, weight: Tensor) -> Tensor:
    """Steps (O,) in the shape that broadcasts over a weight (O, ...)."""
    return sizes.view(-1, *([1] * (weight.dim() - 1)))


def _key(name: str, part: str) -> str:
    """A module name for something of a node (torch allows no dots)."""
    return f"{name}/{part}".replace(".", "/")
