"""Learn which way to round each weight, layer by layer, from what the quantized network feeds the layer (AdaRound).

Nagel et al. 2020, arXiv 2004.10568. Each weight has two whole numbers to choose from, ``low`` and ``low + 1``, and a
variable V that says how far up it is, while it is trained:

    h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1),   zeta = 1.1, gamma = -0.1        (equation 23)
    R(V) = sum 1 - |2 h(V) - 1|^beta                                                        (equation 24)
    min  |f(W x) - f(W~ x^)|^2 + lambda R(V),   W~ = scale (low + h(V))                     (equations 22 and 25)

``x`` is what the layer reads in the float network, ``x^`` what it reads in the quantized one, in which all layers
before it are reconstructed already, and ``f`` its fused activation: so a layer makes good what earlier ones lost. R is
left out at first and then pulls every h to 0 or 1, as ``beta`` falls. The bias is trained along.

What differs from the paper, and why:

* It starts from numbers that were decided already, most often by second order (:mod:`~edgecnn.compress.rounding`), and
  V starts near these: ``low`` and ``low + 1`` are the neighbours of the real weight, or, where such a weight left
  these, it and the next one towards the real weight. So nothing moves by more than one step.
* The error is divided by that of the start, so that one lambda suits all layers.
* The outputs are looked at in some places per picture, other ones in each, not in all.
* A quarter of the pictures is held back. An output channel is changed only where its error is less on those: rounding
  for inputs that are noisy themselves is easily fitted to the pictures.

Mean KL divergence from the float network on other pictures (488 photos, 1,000 of CIFAR-10), 512 pictures at hand, and
the CPU seconds it takes (idle - beside other work):

    network, bits of the weights, how they were rounded       before     after    seconds
    MCUNet-320kB at 176 px, 8, to nearest                     0.0736    0.0209      31-57
    MCUNet-320kB at 176 px, 8, by second order                0.0137    0.0111      35-60
    MobileNetV3-small for CIFAR-10, 8, to nearest             0.2439    0.0521      10-21
    MobileNetV3-small for CIFAR-10, 8, by second order        0.0012    0.0012      11-17
    ResNet-20, 4, one scale per tensor, to nearest            0.1201    0.0088       6-10
    ResNet-20, 4, one scale per tensor, by second order       0.0080    0.0044       6-11
    ResNet-20, 3, one scale per tensor, to nearest            1.8877    0.0658       6-9
    ResNet-20, 3, one scale per tensor, by second order       0.0749    0.0350       6-9

So it gains where weights lose much, and next to nothing over second-order rounding at 8 bits; from nearest weights it
does not get as far as that does with channels equalized.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from edgecnn.compress.quantize import WEIGHT_MAX
from edgecnn.compress.rounding import LARGEST, POSITIONS, bias_steps, patches
from edgecnn.compress.simulate import BATCH, check_twins, walk
from edgecnn.errors import UsageError
from edgecnn.graph import integer as integers
from edgecnn.graph.interpret import GraphModule, Images
from edgecnn.graph.ir import WEIGHTED, Array, Graph, Node, Op

PICTURES = 512  # at most; fewer where their int8 tensors would take more than
HELD_BYTES = 2**27
SAMPLES = 4096  # outputs of a layer that are looked at, all pictures together; fewer where what they read has more than
MET_VALUES = 2**23  # values
FEWEST = 32  # outputs: with less a layer stays as it is
HELD_BACK = 4  # one of so many samples judges
STEPS, MINIBATCH, RATE = 200, 64, 0.05  # of Adam
ZETA, GAMMA = 1.1, -0.1
PULL = 1.0  # lambda, beside an error that is 1 at the start
FREE = 0.2  # of the steps: without R
BETAS = 20.0, 2.0  # at the end of those, and at the end
LEAN = 0.8  # of V's start towards what was decided; the rest towards the real weight
MARGIN = 0.05  # that h keeps from 0 and 1 at the start, where its gradient is 0


def reconstructed(real: Graph, integer: Graph, images: Images, *, largest: int = WEIGHT_MAX, seed: int = 0) -> Graph:
    """The ``integer`` graph with weights and biases rounded by what learning on pictures (N, H, W, C) uint8 says.

    The same scales and ranges. A layer of more than ``rounding.LARGEST`` inputs per output stays as it is.

    Args:
        real: the float graph that it was made from, of the same nodes.
        integer: in integers throughout.
        images: those of calibration; the first ``PICTURES`` are used, or fewer where they are large.
        largest: integers lie in [-largest, largest].
        seed: of the order in which samples are looked at.

    Raises ``UsageError`` where the graphs do not belong together or a node does not compute in integers.
    """
    check_twins(real, integer)
    wide = [node.name for node in integer.nodes if not integer.is_integer(node)]
    if wide:
        raise UsageError(f"'{wide[0]}' does not compute in integers", hint="reconstruct before layers are kept wide")
    count = max(1, min(PICTURES, HELD_BYTES // _largest_alive(integer)))
    pictures = torch.as_tensor(images[:count])
    wanted = _float_outputs(real, pictures)
    random = torch.Generator().manual_seed(seed)
    weights = dict(integer.weights)
    graph = replace(integer, weights=weights)

    def compute(node: Node, inputs: list[Tensor]) -> Tensor:
        if node.op is Op.INPUT:
            return torch.cat([integers.read_pixels(part).to(torch.int8) for part in torch.split(pictures, BATCH)])
        if node.name in wanted:
            met = _met(graph, node, inputs[0])
            layer = _Layer.of(real, graph, node, met, wanted.pop(node.name), largest)
            weight, bias = layer.learned(random)
            weights[f"{node.name}.weight"] = weight.to(torch.int8).numpy().reshape(weights[f"{node.name}.weight"].shape)
            weights[f"{node.name}.bias"] = bias_steps(bias, graph.weight_scales[node.name], layer.source_scale)
        return _advanced(graph, node, inputs)

    walk(integer, compute)
    return graph


@dataclass(frozen=True)
class _Layer:
    """A layer's samples and numbers; G groups of R outputs and D inputs each, S samples.

    ``met`` (G, S, D) what it reads in the quantized network; ``wanted`` (G, S, R) what it gives in the float one;
    ``scale`` (G, R, 1); ``start`` (G, R, D) integers; ``low`` likewise, the lower of the two to choose from; ``real``
    weights in steps; ``bias`` (G, 1, R); ``ends`` of its output's range.
    """

    met: Tensor
    wanted: Tensor
    scale: Tensor
    start: Tensor
    low: Tensor
    real: Tensor
    bias: Tensor
    ends: tuple[float, float]
    source_scale: float

    @classmethod
    def of(cls, real: Graph, graph: Graph, node: Node, met: Tensor, wanted: Tensor, largest: int) -> _Layer:
        groups, _, size = met.shape
        weight, bias = f"{node.name}.weight", f"{node.name}.bias"
        source, target = graph.qparams[node.inputs[0]].scale, graph.qparams[node.name]
        scale = torch.from_numpy(np.array(graph.weight_scales[node.name], np.float32)).view(groups, -1, 1)
        start = torch.from_numpy(graph.weights[weight]).float().view(groups, -1, size)
        steps = torch.from_numpy(np.array(real.weights[weight])).view(groups, -1, size) / scale
        low = steps.floor().clamp(start - 1, start).clamp(-largest, largest - 1)
        offsets = torch.from_numpy(graph.weights[bias].astype(np.float64) * source).view(groups, -1, 1) * scale
        bounds = integers.integer_bounds(target, node.attrs.get("clamp"))
        lowest, highest = ((end - target.zero_point) * target.scale for end in bounds)
        return cls(
            met=met,
            wanted=wanted.clamp_(lowest, highest),
            scale=scale,
            start=start,
            low=low,
            real=steps,
            bias=offsets.float().transpose(1, 2),
            ends=(lowest, highest),
            source_scale=source,
        )

    def learned(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Integers (G, R, D) and biases (G, 1, R), changed in the outputs that are nearer on the samples held back."""
        used = self.met.shape[1] - self.met.shape[1] // HELD_BACK
        with torch.no_grad():
            fitted, judged = slice(0, used), slice(used, None)
            error, before = (self._errors(self.start, self.bias, part) for part in (fitted, judged))
        integers, bias = self._fit(error, used, random)
        with torch.no_grad():
            better = self._errors(integers, bias, judged) < before
            return (
                torch.where(better[:, :, None], integers, self.start),
                torch.where(better[:, None], bias, self.bias),
            )

    def _fit(self, error: Tensor, used: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Adam on the first ``used`` samples; ``error`` (G, R): what the start errs by there."""
        fraction = LEAN * (self.start - self.low) + (1 - LEAN) * (self.real - self.low).clamp(0, 1)
        v = torch.logit((fraction.clamp(MARGIN, 1 - MARGIN) - GAMMA) / (ZETA - GAMMA)).requires_grad_()
        shift = torch.zeros_like(self.bias).requires_grad_()
        unit, norm = error.sqrt()[:, None], error.mean().clamp(min=torch.finfo(torch.float32).tiny)
        optimizer = torch.optim.Adam([v, shift], lr=RATE)
        for beta in _betas():
            some = torch.randint(used, (MINIBATCH,), generator=random)
            up = _rectified_sigmoid(v)
            loss = self._errors(self.low + up, self.bias + shift * unit, some).mean() / norm
            if beta is not None:
                loss = loss + PULL * (1 - (2 * up - 1).abs().pow(beta)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            return self.low + (_rectified_sigmoid(v) >= 0.5), self.bias + shift * unit

    def _errors(self, integers: Tensor, bias: Tensor, samples: slice | Tensor) -> Tensor:
        """Mean squared error of each output (G, R) on some samples."""
        found = torch.baddbmm(bias, self.met[:, samples], (integers * self.scale).transpose(1, 2))
        return (found.clamp(*self.ends) - self.wanted[:, samples]).square().mean(1)


def _rectified_sigmoid(v: Tensor) -> Tensor:
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def _betas() -> Iterator[float | None]:
    """Beta of each step, falling as a half cosine; ``None``: R is left out."""
    for step in range(STEPS):
        passed = (step / STEPS - FREE) / (1 - FREE)
        first, last = BETAS
        yield None if passed < 0 else last + (first - last) * (1 + math.cos(math.pi * passed)) / 2


def _float_outputs(real: Graph, pictures: Tensor) -> dict[str, Tensor]:
    """By layer: outputs (G, S, R) of the float network, after the layer's clamp, at some places of each picture."""
    readers: dict[str, list[Node]] = {}
    for node in real.nodes:
        if node.op in WEIGHTED and real.weights[f"{node.name}.weight"][0].size <= LARGEST:
            places = min(_places(node, real.weights[f"{node.name}.weight"], len(pictures)), math.prod(node.shape[1:]))
            if places * len(pictures) >= FEWEST:
                readers.setdefault(node.inputs[0], []).append(node)
    found: dict[str, list[Tensor]] = {node.name: [] for nodes in readers.values() for node in nodes}
    module = GraphModule(real)
    for number, part in enumerate(torch.split(pictures, BATCH)):

        def see(name: str, values: Tensor, seen: int = number * BATCH) -> None:
            for node in readers.get(name, ()):
                weight, bias = (real.weights[f"{node.name}.{key}"] for key in ("weight", "bias"))
                met = _read(node, values, weight, seen, len(pictures))
                rows = torch.from_numpy(weight).view(len(met), -1, met.shape[2])
                outputs = torch.baddbmm(torch.from_numpy(bias).view(len(met), 1, -1), met, rows.transpose(1, 2))
                low, high = node.attrs.get("clamp") or (None, None)
                found[node.name].append(outputs if low is None and high is None else outputs.clamp(low, high))

        module.evaluate(part, see)
    return {name: torch.cat(found.pop(name), 1) for name in tuple(found)}


def _met(graph: Graph, node: Node, values: Tensor) -> Tensor:
    """What a layer reads (G, S, D) of an int8 tensor (N, *shape), as real values, at the same places."""
    numbers, weight = graph.qparams[node.inputs[0]], graph.weights[f"{node.name}.weight"]
    parts = []
    for number, part in enumerate(torch.split(values, BATCH)):
        exact = (part.float() - numbers.zero_point) * numbers.scale
        parts.append(_read(node, exact, weight, number * BATCH, len(values)))
    return torch.cat(parts, 1)


def _read(node: Node, values: Tensor, weight: Array, seen: int, pictures: int) -> Tensor:
    """What a layer reads (G, S, D) of some of so many pictures, of which ``seen`` were before."""
    if node.op is Op.LINEAR:
        return values[None]
    return patches(node, values, weight.shape[2:], seen, _places(node, weight, pictures))


def _places(node: Node, weight: Array, pictures: int) -> int:
    """In how many places a layer is looked at in each of so many pictures."""
    values = math.prod(weight.shape[1:]) * int(node.attrs.get("groups", 1))  # that it reads at one
    return max(1, min(POSITIONS, SAMPLES // pictures, MET_VALUES // (pictures * values)))


def _advanced(graph: Graph, node: Node, inputs: list[Tensor]) -> Tensor:
    """The node's int8 output (N, *shape) from its inputs, some pictures at a time."""
    kernel = integers.kernel(graph, node)
    weight, bias = (
        torch.from_numpy(graph.weights[f"{node.name}.{key}"]) if node.op in WEIGHTED else None
        for key in ("weight", "bias")
    )
    output = torch.empty((len(inputs[0]), *node.shape), dtype=torch.int8)
    with torch.no_grad():
        for at in range(0, len(output), BATCH):
            output[at : at + BATCH] = kernel([each[at : at + BATCH].float() for each in inputs], weight, bias)
    return output


def _largest_alive(graph: Graph) -> int:
    """The most values of a picture that are held at once on a walk through the graph."""
    last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    ends = [(math.prod(node.shape), start, last_use.get(node.name, start)) for start, node in enumerate(graph.nodes)]
    return max(sum(size for size, start, end in ends if start <= at <= end) for at in range(len(graph.nodes)))
