"""The real numbers that stored weights stand for: the one place where the ones become the others.

    stored               scale            real
    float32              none             itself
    float16              none             itself, widened
    int8 [-127, 127]     (O,)             ``scale[c] * q``: one scale per output channel
    int8 [-7, 7]         (O, G)           ``scale[c, g] * q``: each row of D weights is G groups of D / G neighbours
    int32, a bias        (O,)             ``input_scale * scale[c] * q``

The shape of the scales says how many bits a weight has on disk: with (O, G) it has 4. A row is what one output reads,
flattened: (I / groups, kh, kw) of a convolution, (I,) of a linear layer. Products are rounded to float32 once, so that
every file that multiplies in float32 has the same bits.
"""

from __future__ import annotations

import numpy as np

from edgecnn.graph.ir import Array, Graph

INT4_MAX = 7  # symmetric: -8 is not used


def real(weight: Array, scale: Array | None) -> Array:
    """A stored weight (O, ...) as float32."""
    if scale is None:
        return weight.astype(np.float32, copy=False)
    rows = weight.reshape(*(scale.shape if scale.ndim == 2 else (len(scale),)), -1).astype(np.float64)
    found: Array = (rows * scale.astype(np.float64)[..., None]).astype(np.float32).reshape(weight.shape)
    return found


def real_weights(graph: Graph) -> dict[str, Array]:
    """All weights and biases of a graph, float32, by their keys."""
    return {key: real_weight(graph, key) for key in graph.weights}


def real_weight(graph: Graph, key: str) -> Array:
    """One of them, float32."""
    return real(graph.weights[key], _scale(graph, key))


def _scale(graph: Graph, key: str) -> Array | None:
    """What a stored array is in steps of; of an integer bias that is its input's step times its weight's."""
    name, _, part = key.rpartition(".")
    if part == "weight":
        return graph.weight_scales.get(name)
    if graph.weights[key].dtype != np.int32:
        return None
    step: Array = graph.weight_scales[name].astype(np.float64) * graph.qparams[graph.node(name).inputs[0]].scale
    return step


def is_int4(graph: Graph, name: str) -> bool:
    """Whether the weight of the node ``name`` has 4 bits."""
    scale = graph.weight_scales.get(name)
    return scale is not None and scale.ndim == 2


def pack_int4(values: Array) -> Array:
    """Integers in [-8, 7], flat, two to a byte, the first in the low half: uint8 (ceil(n / 2),).

    The order of ONNX's and TFLite's 4-bit tensors; an odd number is filled up with 0.
    """
    flat = np.zeros(values.size + values.size % 2, np.uint8)
    flat[: values.size] = values.reshape(-1).astype(np.uint8) & 15
    packed: Array = flat[0::2] | flat[1::2] << 4
    return packed


def unpack_int4(packed: Array, shape: tuple[int, ...]) -> Array:
    """What ``pack_int4`` packed, int8 of that shape."""
    halves = np.stack([packed & 15, packed >> 4], 1).reshape(-1)[: int(np.prod(shape))]
    values: Array = ((halves ^ 8).astype(np.int8) - 8).reshape(shape)
    return values
