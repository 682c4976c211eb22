"""What each operator computes in 8-bit integers, exactly: the specification that exported files are held against.

Tensors hold the int8 values as float32 (whole numbers). With ``real = scale * (q - zero_point)`` for every tensor and
``requantize(v) = clamp(round_half_even(v) + zero_point_out)``, where ``v`` is in steps of the output:

* CONV, LINEAR: ``acc = sum (q_in - zp_in) * w + bias`` over int32, ``v = float32(acc) * m[c]`` with the float32 product
  ``m[c] = scale_in * weight_scale[c] / scale_out``, evaluated left to right. Zero padding is ``q_in = zp_in``. An open
  output is real: ``clamp(float32(acc) * (scale_in * weight_scale[c]))``.
* ADD: ``v = (a - zp_a) * (scale_a / scale_out) + (b - zp_b) * (scale_b / scale_out)`` in float32.
* MUL: ``v = float32((a - zp_a) * (b - zp_b)) * (scale_a * scale_b / scale_out)``.
* MEAN, AVG_POOL over n cells: ``v = float32(sum (q - zp_in)) * (scale_in / (scale_out * n))``.
* AFFINE: ``v = (q - zp_in) * (scale_in * factor / scale_out) + offset / scale_out``.
* SIGMOID, SILU, HARD_SIGMOID, HARD_SWISH: one lookup among 256 values, each dequantized, computed in float64,
  quantized.
* MAX_POOL, FLATTEN, PAD, SLICE, SHUFFLE keep the numbers of their input. CONCAT and CLAMP requantize where scale or
  zero point differ.

Sums are computed in float32 where the largest possible one stays below 2^24, so every partial sum is exact in any
order, and in two halves or float64 otherwise. This is the arithmetic of ONNX Runtime's and XNNPACK's int8 kernels
(requantization in float32, half to even; Jacob et al. 2018, arXiv 1712.05877, equation 4 with the multiplier kept in
floating point).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecnn.graph import real
from edgecnn.graph.ir import Array, Graph, Node, Op, QParams

Kernel = Callable[[Sequence[Tensor], Tensor | None, Tensor | None], Tensor]
INT8 = (-128, 127)
EXACT_IN_FLOAT32 = 2**24


def kernels(graph: Graph) -> dict[str, Kernel]:
    """For each node that computes in integers, but the input: the function from its inputs, weight, bias to its
    output, integers or, where that is open, real values.
    """
    nodes = (node for node in graph.nodes if node.op is not Op.INPUT)
    return {node.name: kernel(graph, node) for node in nodes if graph.is_integer(node) or graph.is_open(node)}


def kernel(graph: Graph, node: Node) -> Kernel:
    """What a node that computes in integers, but not the input, does."""
    return _RULES[node.op](graph, node)


def read_pixels(images: Tensor) -> Tensor:
    """uint8 (N, H, W, C) -> int8 values (N, C, H, W): ``pixel - 128``, as the input's numbers have it."""
    return images.permute(0, 3, 1, 2).float() - 128


def to_steps(values: Tensor, qparams: QParams) -> Tensor:
    """Real values as integers q (whole numbers in float32), rounded half to even."""
    return (values / qparams.scale).round_().add_(qparams.zero_point).clamp_(*qparams.ends)


def on_grid(values: Tensor, qparams: QParams) -> Tensor:
    """Real values as integers represent them (fake quantization: Jacob et al. 2018, arXiv 1712.05877, eq. 12)."""
    return to_steps(values, qparams).sub_(qparams.zero_point).mul_(qparams.scale)


def integer_bounds(qparams: QParams, clamp: Sequence[float | None] | None) -> tuple[int, int]:
    """A clamp in steps of ``qparams``: (lowest, highest) int8 value."""
    low, high = clamp or (None, None)
    ends = [default if end is None else _step(qparams, end) for end, default in zip((low, high), INT8, strict=True)]
    return ends[0], ends[1]


def lookup_table(op: Op, source: QParams, target: QParams) -> Array:
    """The int8 outputs (256,) of an operator of one variable for q = -128 ... 127."""
    x = (np.arange(-128, 128, dtype=np.float64) - source.zero_point) * source.scale
    y = _FUNCTIONS[op](x)
    steps: Array = np.clip(np.rint(y / target.scale) + target.zero_point, *INT8)
    return steps.astype(np.int8)


def accumulator_bound(weight: Array, bias: Array, zero_point: int) -> int:
    """The largest magnitude that any partial sum of a convolution or linear layer can reach."""
    largest = max(zero_point - INT8[0], INT8[1] - zero_point)
    sums = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1) * largest + np.abs(bias.astype(np.int64))
    return int(sums.max())


def _step(qparams: QParams, value: float) -> int:
    return min(INT8[1], max(INT8[0], qparams.zero_point + round(value / qparams.scale)))


def _requantizer(graph: Graph, node: Node) -> Callable[[Tensor], Tensor]:
    """Rounds a fresh tensor of output steps half to even, adds the zero point and clamps, in place."""
    qparams = graph.qparams[node.name]
    low, high = integer_bounds(qparams, node.attrs.get("clamp"))
    return lambda steps: steps.round_().add_(qparams.zero_point).clamp_(low, high)


def _scales(graph: Graph, node: Node) -> tuple[list[np.float32], np.float32]:
    """Scales of the inputs and of the output, float32."""
    inputs = [np.float32(graph.qparams[name].scale) for name in node.inputs]
    return inputs, np.float32(graph.qparams[node.name].scale)


def _weighted(graph: Graph, node: Node) -> Kernel:
    source, target = graph.qparams[node.inputs[0]], graph.qparams.get(node.name)
    zero_point, steps = source.zero_point, np.float32(source.scale) * graph.weight_scales[node.name].astype(np.float32)
    multiplier = torch.from_numpy(steps if target is None else steps / np.float32(target.scale))
    shape = (-1, 1, 1) if node.op is Op.CONV else (-1,)
    weights, biases = graph.weights[f"{node.name}.weight"], graph.weights[f"{node.name}.bias"]
    products = _exact_products(node, accumulator_bound(weights, 0 * biases, zero_point), weights[0].size)
    narrow = accumulator_bound(weights, biases, zero_point) < EXACT_IN_FLOAT32
    finish = _requantizer(graph, node) if target is not None else lambda values: real.clamped(node, values)

    def kernel(tensors: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
        assert weight is not None and bias is not None
        x = tensors[0] - zero_point
        if narrow:  # products and bias together are exact in float32, in whatever order they are added
            total = _products(node, x, weight.float(), bias.float())
        else:
            total = products(x, weight).double().add_(bias.double().view(shape)).float()
        return finish(total.mul_(multiplier.to(total.device).view(shape)))

    return kernel


def _exact_products(node: Node, bound: int, terms: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The sum of products of whole numbers without rounding; ``terms`` is the number of products in a sum.

    Where the sum may leave what float32 holds exactly, the weights are split into ``16 * high + low`` with both halves
    in [-8, 8]; only the largest layers need float64 products, which are slow.
    """

    def split(x: Tensor, weight: Tensor) -> Tensor:
        high = torch.floor((weight.float() + 8) / 16)
        return _products(node, x, high).double().mul_(16).add_(_products(node, x, weight - 16 * high))

    if bound < EXACT_IN_FLOAT32:
        return lambda x, weight: _products(node, x, weight.float())
    if terms * 8 * 255 < EXACT_IN_FLOAT32:
        return split
    return lambda x, weight: _products(node, x.double(), weight.double())


def _products(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    total = real.convolve(node, x, weight, bias) if node.op is Op.CONV else F.linear(x, weight, bias)
    # On a GPU a fast algorithm (Winograd) may leave small fractions on the whole numbers.
    return total.round_() if total.is_cuda else total


def _add(graph: Graph, node: Node) -> Kernel:
    inputs, output = _scales(graph, node)
    ratios = [float(scale / output) for scale in inputs]
    zero_points = [graph.qparams[name].zero_point for name in node.inputs]
    requantize = _requantizer(graph, node)

    def kernel(tensors: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
        terms = [(x - zp).mul_(ratio) for x, zp, ratio in zip(tensors, zero_points, ratios, strict=True)]
        return requantize(terms[0].add_(terms[1]))

    return kernel


def _mul(graph: Graph, node: Node) -> Kernel:
    inputs, output = _scales(graph, node)
    ratio = float(inputs[0] * inputs[1] / output)
    zero_points = [graph.qparams[name].zero_point for name in node.inputs]
    requantize = _requantizer(graph, node)

    def kernel(tensors: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
        first, second = (x - zp for x, zp in zip(tensors, zero_points, strict=True))
        return requantize(first.mul_(second).mul_(ratio))

    return kernel


def _average(graph: Graph, node: Node) -> Kernel:
    """MEAN and AVG_POOL: a sum over cells, scaled."""
    inputs, output = _scales(graph, node)
    _, height, width = graph.node(node.inputs[0]).shape
    kernel_size = (height, width) if node.op is Op.MEAN else tuple(node.attrs["kernel"])
    stride = kernel_size if node.op is Op.MEAN else tuple(node.attrs["stride"])
    cells = kernel_size[0] * kernel_size[1]
    ratio = float(inputs[0] / (output * np.float32(cells)))
    zero_point = graph.qparams[node.inputs[0]].zero_point
    dtype = torch.float32 if cells * 255 < EXACT_IN_FLOAT32 else torch.float64
    requantize = _requantizer(graph, node)

    def kernel(tensors: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
        x = tensors[0].to(dtype) - zero_point
        total = F.avg_pool2d(x, kernel_size, stride, divisor_override=1)
        return requantize(total.float().mul_(ratio))

    return kernel


def _affine(graph: Graph, node: Node) -> Kernel:
    inputs, output = _scales(graph, node)
    ratio = float(inputs[0] * np.float32(node.attrs["factor"]) / output)
    offset = float(np.float32(node.attrs["offset"]) / output)
    zero_point = graph.qparams[node.inputs[0]].zero_point
    requantize = _requantizer(graph, node)

    def kernel(tensors: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return requantize((tensors[0] - zero_point).mul_(ratio).add_(offset))

    return kernel


def _lookup(graph: Graph, node: Node) -> Kernel:
    table = lookup_table(node.op, graph.qparams[node.inputs[0]], graph.qparams[node.name])
    values = torch.from_numpy(table.astype(np.float32))

    def kernel(tensors: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return values.to(tensors[0].device)[(tensors[0] + 128).long()]

    return kernel


def _moved(move: Callable[..., Tensor]) -> Callable[[Graph, Node], Kernel]:
    """Operators that move or choose values: inputs are brought to the output's numbers, then ``move(node, *inputs)``.

    Inside ``move`` zero is the real zero (zero points are subtracted before and added after).
    """

    def build(graph: Graph, node: Node) -> Kernel:
        target = graph.qparams[node.name]
        sources = [graph.qparams[name] for name in node.inputs]
        low, high = integer_bounds(target, node.attrs.get("clamp"))

        def centre(x: Tensor, source: QParams) -> Tensor:
            if source == target:
                return x - source.zero_point
            ratio = float(np.float32(source.scale) / np.float32(target.scale))
            steps = (x - source.zero_point).mul_(ratio).round_()
            return steps.clamp_(INT8[0] - target.zero_point, INT8[1] - target.zero_point)

        def kernel(tensors: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None) -> Tensor:
            moved = move(node, *(centre(x, source) for x, source in zip(tensors, sources, strict=True)))
            return moved.add_(target.zero_point).clamp_(low, high)

        return kernel

    return build


def _concat(node: Node, *tensors: Tensor) -> Tensor:
    return torch.cat(tensors, 1)


_FUNCTIONS: dict[Op, Callable[[Array], Array]] = {
    Op.SIGMOID: lambda x: 1 / (1 + np.exp(-x)),
    Op.SILU: lambda x: x / (1 + np.exp(-x)),
    Op.HARD_SIGMOID: lambda x: np.clip(x / 6 + 0.5, 0, 1),
    Op.HARD_SWISH: lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}

_RULES: dict[Op, Callable[[Graph, Node], Kernel]] = {
    Op.CONV: _weighted,
    Op.LINEAR: _weighted,
    Op.ADD: _add,
    Op.MUL: _mul,
    Op.MEAN: _average,
    Op.AVG_POOL: _average,
    Op.AFFINE: _affine,
    Op.MAX_POOL: _moved(real.max_pool),
    Op.FLATTEN: _moved(lambda node, x: x.flatten(1)),
    Op.SLICE: _moved(real.pick),
    Op.SHUFFLE: _moved(real.shuffle),
    Op.PAD: _moved(lambda node, x: real.pad_zeros(x, node.attrs["padding"])),
    Op.CONCAT: _moved(_concat),
    Op.CLAMP: _moved(lambda node, x: x),
    **dict.fromkeys(_FUNCTIONS, _lookup),
}
