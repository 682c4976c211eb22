"""Round weights so that the errors cancel in what the layer computes, not each weight to its nearest neighbour.

The error of a layer's output is ``(W - Q) x``, and its expected square is ``(w - q)^T H (w - q)`` for each row, with
``H = E[x x^T]`` over calibration pictures. Neighbouring pixels are alike and so are many channels, so rounding one
weight up can be made good by rounding others down. Weights are rounded one after the other, and each one's error
``e_j = (w_j - q_j) / U_jj`` is taken up by those not yet rounded: ``w_k -= e_j U_jk`` for ``k > j``, where ``U`` is the
upper Cholesky factor of ``H^-1``. This is optimal brain quantization in a fixed order: Frantar et al. 2022 (arXiv
2208.11580, equations 3 and 7) and GPTQ (arXiv 2210.17323, equations 2 and 3), here for convolutions of any grouping.
It minimizes the objective of AdaRound (Nagel et al. 2020, arXiv 2004.10568, equation 13) without its thousands of
gradient steps, and it may leave the two nearest neighbours.

The bias is one more weight whose input is 1, rounded last: it takes up the mean of what is left, which is the bias
correction of Nagel et al. 2019 (arXiv 1906.04721, section 4.3), measured instead of assumed.

MCUNet-320kB at 176 px, 512 photos, 488 others: mean KL divergence to the float network with weights alone in int8
0.0468 rounded to nearest, 0.0020 so; EfficientNet-Lite0 at 224 px 0.0072 and 0.0005. Weights chosen for the *quantized*
inputs, to make good what earlier layers lost, were tried: on other pictures they lost more than they gained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecnn.compress.quantize import WEIGHT_MAX, LayerNumbers
from edgecnn.graph.ir import WEIGHTED, Array, Graph, Node, Op
from edgecnn.graph.weights import INT4_MAX, is_int4

POSITIONS = 16  # of a map per picture: places where what the weights meet is looked at
LARGEST = 5000  # inputs of one output: beyond, H would take 100 MB and the layer is rounded to nearest
DAMPING = 0.01  # of H's mean diagonal, added to it (GPTQ, section 3.4)
SPREAD = (0.7548776662466927, 0.5698402909980532)  # multiples of these fill a square evenly (Roberts' R2 sequence)
BLOCK = 64  # weights whose corrections of later ones are applied together


class InputMoments:
    """``E[x x^T]`` of what each layer's weights meet, the last element of ``x`` being 1, over any number of pictures.

    Each picture is looked at in ``POSITIONS`` places of the layer's output, other ones for the next picture; which ones
    depends on its number alone.
    """

    def __init__(self, graph: Graph) -> None:
        self._readers: dict[str, list[Node]] = {}
        self._kernels: dict[str, tuple[int, ...]] = {}
        for node in graph.nodes:
            if node.op in WEIGHTED:
                shape = graph.weights[f"{node.name}.weight"].shape
                if int(np.prod(shape[1:])) <= LARGEST:
                    self._readers.setdefault(node.inputs[0], []).append(node)
                    self._kernels[node.name] = shape[2:]
        self._sums: dict[str, Tensor] = {}
        self._seen: dict[str, int] = {}

    def see(self, name: str, values: Tensor) -> None:
        """Take in a tensor (N, C, H, W) or (N, C), once per pass of pictures."""
        for node in self._readers.get(name, ()):
            seen = self._seen.get(node.name, 0)
            met = values[None] if node.op is Op.LINEAR else patches(node, values, self._kernels[node.name], seen)
            met = F.pad(met, (0, 1), value=1.0)
            products = torch.bmm(met.transpose(1, 2), met) / (met.shape[1] / len(values))
            self._sums[node.name] = products + self._sums[node.name] if seen else products
            self._seen[node.name] = seen + len(values)

    def matrices(self) -> dict[str, Tensor]:
        """By layer: (groups, D + 1, D + 1) float32, D inputs per output."""
        return {name: total / self._seen[name] for name, total in self._sums.items()}


def rounded(graph: Graph, quantized: Graph, moments: Mapping[str, Tensor], largest: int = WEIGHT_MAX) -> Graph:
    """The ``quantized`` graph with the weights and biases of the float ``graph`` rounded by second order.

    ``moments`` by layer, of what the float graph's layers meet; a layer without stays as it is. The same scales.
    A layer whose weights stay real is passed over; a bias that is real stays so. ``largest``: integers lie in
    [-largest, largest]; 4-bit ones in [-7, 7].
    """
    weights = dict(quantized.weights)
    for name, matrix in moments.items():
        if name not in quantized.weight_scales:
            continue
        weight, bias = f"{name}.weight", f"{name}.bias"
        was = LayerNumbers(weights[weight], weights[bias], quantized.weight_scales[name])
        whole = weights[bias].dtype == np.int32
        source = quantized.qparams[graph.node(name).inputs[0]].scale if whole else None
        most = INT4_MAX if is_int4(quantized, name) else largest
        numbers = round_weights(was, graph.weights[weight], graph.weights[bias], matrix, source, most)
        weights |= {weight: numbers.weight, bias: numbers.bias}
    return replace(quantized, weights=weights)


def round_weights(
    numbers: LayerNumbers,
    weight: Array,
    bias: Array,
    moments: Tensor,
    source_scale: float | None,
    largest: int = WEIGHT_MAX,
) -> LayerNumbers:
    """The layer's integers by second-order rounding, at the scales of ``numbers``.

    Args:
        numbers: the layer as rounded to nearest; its scales, (O,) or (O, G), are kept.
        weight: real (O, I / groups, ...); ``bias`` (O,).
        moments: (groups, D + 1, D + 1), from ``InputMoments.matrices``.
        source_scale: of the layer's input: the bias has steps of ``source_scale * scale[channel]``. ``None``: it is
            real, and takes up all of the mean.
        largest: integers lie in [-largest, largest].
    """
    groups, size = moments.shape[:2]
    rows = torch.from_numpy(weight).double().reshape(groups, -1, size - 1)
    offsets = torch.from_numpy(bias).double().reshape(groups, -1, 1)
    steps = torch.from_numpy(numbers.scale).double().reshape(len(weight), -1)
    steps = steps.repeat_interleave((size - 1) // steps.shape[1], 1).reshape(rows.shape)
    order = torch.cat(
        [
            torch.diagonal(moments, dim1=1, dim2=2)[:, :-1].argsort(1, descending=True),
            torch.full((groups, 1), size - 1),
        ],
        1,
    )
    inverse = _inverse_factor(moments.double(), order)
    real = torch.cat([rows, offsets], 2).gather(2, order[:, None].expand(-1, rows.shape[1], -1))
    places = order[:, None, :-1].expand_as(rows)
    integers, left = _round_in_order(real, steps.gather(2, places), largest, inverse)
    placed = torch.empty_like(integers).scatter_(2, places, integers)
    return LayerNumbers(
        placed.reshape(weight.shape).to(torch.int8).numpy(),
        bias_steps(left, numbers.scale, source_scale),
        numbers.scale,
    )


def bias_steps(real: Tensor, scale: Array, source_scale: float | None) -> Array:
    """Biases (O,) in steps of ``source_scale * scale``, int32, or real ones, float32."""
    if source_scale is None:
        return real.reshape(-1).float().numpy()
    steps = np.rint(real.reshape(-1).double().numpy() / (scale.astype(np.float64) * source_scale))
    return np.clip(steps, 1 - 2.0**31, 2.0**31 - 1).astype(np.int32)


def _round_in_order(real: Tensor, steps: Tensor, largest: int, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Integers (G, R, D) for real weights, rounded from left to right, and what that makes of the bias (G, R).

    ``real`` (G, R, D + 1) is used up; its last column is the bias. ``steps``: (G, R, D).
    """
    size = steps.shape[2]
    integers = torch.empty_like(steps)
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        errors = torch.empty_like(real[:, :, start:end])
        for column in range(start, end):
            step = steps[:, :, column]
            rounded = (real[:, :, column] / step).round().clamp(-largest, largest)
            integers[:, :, column] = rounded
            error = (real[:, :, column] - rounded * step) / factor[:, column, column, None]
            real[:, :, column:end] -= error[:, :, None] * factor[:, None, column, column:end]
            errors[:, :, column - start] = error
        real[:, :, end:] -= torch.bmm(errors, factor[:, start:end, end:])
    return integers, real[:, :, -1]


def _inverse_factor(moments: Tensor, order: Tensor) -> Tensor:
    """The upper Cholesky factor of each damped and reordered ``H^-1``, (G, D + 1, D + 1)."""
    diagonal = torch.diagonal(moments, dim1=1, dim2=2)
    damping = DAMPING * diagonal[:, :-1].mean(1, keepdim=True) + 1e-12
    damped = moments + torch.diag_embed(F.pad(damping.expand(-1, moments.shape[1] - 1), (0, 1), value=1e-9))
    rows = order[:, :, None].expand_as(damped)
    ordered = damped.gather(1, rows).gather(2, order[:, None].expand_as(damped))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ordered))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def patches(node: Node, values: Tensor, kernel: tuple[int, ...], seen: int, positions: int = POSITIONS) -> Tensor:
    """What a convolution's weights meet: (groups, N * positions, D), one draw of places per picture.

    ``values`` (N, C, H, W) is its input, ``kernel`` (height, width); ``seen``: pictures before these.
    """
    height, width = node.shape[1:]
    count = min(positions, height * width)
    numbers = np.arange(seen * count, (seen + len(values)) * count).reshape(len(values), count)
    rows, columns = (
        torch.from_numpy((numbers * step % 1.0 * side).astype(np.int64))
        for step, side in zip(SPREAD, (height, width), strict=True)
    )
    offsets = [torch.arange(size) * step for size, step in zip(kernel, node.attrs["dilation"], strict=True)]
    top, left = node.attrs["padding"][:2]
    y = (rows * node.attrs["stride"][0] - top)[:, :, None, None] + offsets[0][:, None]
    x = (columns * node.attrs["stride"][1] - left)[:, :, None, None] + offsets[1]
    picture = torch.arange(len(values))[:, None, None, None]
    bottom, right = (side - 1 for side in values.shape[2:])
    # (N, positions, kernel height, kernel width, C); what lies outside the map is zero
    met = values.permute(0, 2, 3, 1)[picture, y.clamp(0, bottom), x.clamp(0, right)]
    if any(node.attrs["padding"]):
        met *= ((y >= 0) & (y <= bottom) & (x >= 0) & (x <= right))[..., None]
    groups = int(node.attrs["groups"])
    split = met.reshape(-1, kernel[0] * kernel[1], groups, met.shape[-1] // groups)
    return split.permute(2, 0, 3, 1).reshape(groups, len(split), -1)
