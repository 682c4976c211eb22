"""Small graphs written by hand, one or more for every operator, in odd sizes and with odd attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from edgecnn.compress.bits import ALL_8
from edgecnn.compress.quantize import quantize
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, Node, Op

RELU, RELU6, UNIT = [0.0, None], [0.0, 6.0], [0.0, 1.0]
MEAN, STD = 127 / 255, 0.5


class Maker:
    """Adds nodes with random weights; every method returns the name of the new tensor."""

    def __init__(self, size: tuple[int, int] = (9, 11), seed: int = 0, name: str = "input", channels: int = 3) -> None:
        self.random = np.random.default_rng(seed)
        attrs = {"mean": [MEAN] * channels, "std": [STD] * channels}
        self.nodes = [Node(name, Op.INPUT, (), (channels, *size), attrs)]
        self.weights: dict[str, Any] = {}
        self.input = name

    def add(self, op: Op, inputs: list[str], shape: tuple[int, ...], name: str = "", **attrs: Any) -> str:
        name = name or f"block.{len(self.nodes)}.{op}"
        self.nodes.append(Node(name, op, tuple(inputs), shape, attrs))
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return next(node.shape for node in self.nodes if node.name == name)

    def conv(
        self,
        source: str,
        outputs: int,
        kernel: tuple[int, int] = (3, 3),
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        clamp: list[float | None] | None = None,
    ) -> str:
        channels, *size = self.shape(source)
        shape = (outputs, *_windows(size, kernel, stride, padding, dilation))
        attrs = {
            "kernel": list(kernel),
            "stride": list(stride),
            "padding": list(padding),
            "dilation": list(dilation),
            "groups": groups,
            "clamp": clamp,
        }
        name = self.add(Op.CONV, [source], shape, **attrs)
        self._weights(name, (outputs, channels // groups, *kernel))
        return name

    def linear(self, source: str, outputs: int, clamp: list[float | None] | None = None) -> str:
        name = self.add(Op.LINEAR, [source], (outputs,), clamp=clamp)
        self._weights(name, (outputs, *self.shape(source)))
        return name

    def same(self, op: Op, *sources: str, **attrs: Any) -> str:
        """An operator whose output has the shape of its first input."""
        return self.add(op, list(sources), self.shape(sources[0]), **attrs)

    def pool(
        self, op: Op, source: str, kernel: tuple[int, int], stride: tuple[int, int], padding: Any = (0, 0, 0, 0)
    ) -> str:
        channels, *size = self.shape(source)
        shape = (channels, *_windows(size, kernel, stride, padding, (1, 1)))
        more = {"padding": list(padding)} if op is Op.MAX_POOL else {}
        return self.add(op, [source], shape, kernel=list(kernel), stride=list(stride), **more)

    def pad(self, source: str, padding: tuple[int, int, int, int]) -> str:
        channels, height, width = self.shape(source)
        shape = (channels, height + padding[0] + padding[2], width + padding[1] + padding[3])
        return self.add(Op.PAD, [source], shape, padding=list(padding))

    def mean(self, source: str) -> str:
        return self.add(Op.MEAN, [source], (self.shape(source)[0], 1, 1))

    def flatten(self, source: str) -> str:
        return self.add(Op.FLATTEN, [source], (prod(self.shape(source)),))

    def concat(self, *sources: str) -> str:
        channels = sum(self.shape(source)[0] for source in sources)
        return self.add(Op.CONCAT, list(sources), (channels, *self.shape(sources[0])[1:]))

    def slice(self, source: str, start: int, stop: int) -> str:
        return self.add(Op.SLICE, [source], (stop - start, *self.shape(source)[1:]), start=start, stop=stop)

    def classify(self, source: str, classes: int = 5) -> Graph:
        """Flatten (and average first, if that is large) and a linear layer: a whole classifier."""
        return self.finish(self.linear(self.flatten(source), classes))

    def finish(self, output: str) -> Graph:
        return Graph(tuple(self.nodes), output, self.weights)

    def _weights(self, name: str, shape: tuple[int, ...]) -> None:
        spread = np.sqrt(2 / prod(shape[1:]))
        self.weights[f"{name}.weight"] = (self.random.standard_normal(shape) * spread).astype(np.float32)
        self.weights[f"{name}.bias"] = (self.random.standard_normal(shape[0]) * 0.3).astype(np.float32)


def _windows(size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> tuple[int, int]:
    height, width = (
        (size[i] + padding[i] + padding[i + 2] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    return height, width


def pictures(graph: Graph, count: int, seed: int = 7) -> Any:
    """Random uint8 pictures (count, H, W, C), smooth enough not to average out."""
    channels, height, width = graph.input.shape
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 3, 3, channels))
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 3 // width
    noise = random.integers(-40, 41, (count, height, width, channels))
    return np.clip(coarse[:, rows][:, :, columns] + noise, 0, 255).astype(np.uint8)


def quantized(graph: Graph, bits: Mapping[str, int] = ALL_8) -> Graph:
    """The int8 graph, calibrated by minimum and maximum on eight pictures; ``bits`` of the nodes that are not int8."""
    values = run(graph, pictures(graph, 8, seed=3), keep=True)
    return quantize(
        graph, {name: (float(value.min()), float(value.max())) for name, value in values.items()}, bits=bits
    )


def _conv_kinds() -> dict[str, Callable[[Maker], Graph]]:
    """Convolutions after a first one that makes 8 channels."""
    kinds: dict[str, dict[str, Any]] = {
        "valid": {"outputs": 6},
        "same_odd": {"outputs": 6, "padding": (1, 1, 1, 1)},
        "stride2_torch_padding": {"outputs": 6, "stride": (2, 2), "padding": (1, 1, 1, 1)},
        "stride2_tensorflow_padding": {"outputs": 6, "kernel": (3, 3), "stride": (2, 2), "padding": (0, 0, 1, 1)},
        "stride3_wide_kernel": {"outputs": 6, "kernel": (5, 5), "stride": (3, 2), "padding": (2, 2, 2, 2)},
        "asymmetric": {"outputs": 6, "kernel": (3, 2), "stride": (1, 2), "padding": (2, 0, 1, 3)},
        "dilated": {"outputs": 6, "dilation": (2, 2), "padding": (2, 2, 2, 2)},
        "pointwise": {"outputs": 16, "kernel": (1, 1), "clamp": RELU6},
        "pointwise_stride2": {"outputs": 16, "kernel": (1, 1), "stride": (2, 2)},
        "relu": {"outputs": 6, "clamp": RELU},
        "relu6_that_bites": {"outputs": 6, "clamp": [0.0, 0.5]},
        "odd_clamp": {"outputs": 6, "clamp": [-0.3, 0.9]},
        "unit_clamp": {"outputs": 6, "clamp": UNIT},
        "grouped": {"outputs": 12, "groups": 4, "padding": (1, 1, 1, 1)},
        "depthwise": {"outputs": 8, "groups": 8, "padding": (1, 1, 1, 1), "clamp": RELU6},
        "depthwise_stride2": {"outputs": 8, "groups": 8, "stride": (2, 2), "padding": (1, 1, 1, 1)},
        "depthwise_5x5_dilated": {
            "outputs": 8,
            "groups": 8,
            "kernel": (5, 5),
            "dilation": (2, 2),
            "padding": (4, 4, 4, 4),
        },
        "depthwise_multiplier": {"outputs": 16, "groups": 8, "padding": (1, 1, 1, 1)},
    }
    return {f"conv_{name}": lambda m, kind=kind: m.classify(m.conv(_stem(m), **kind)) for name, kind in kinds.items()}


def _stem(m: Maker, clamp: list[float | None] | None = None) -> str:
    return m.conv(m.input, 8, padding=(1, 1, 1, 1), clamp=clamp)


def _squeeze_excite(m: Maker) -> Graph:
    x = m.same(Op.HARD_SWISH, m.conv(_stem(m, RELU), 16, padding=(1, 1, 1, 1)))
    gate = m.conv(m.conv(m.mean(x), 8, (1, 1), clamp=RELU), 16, (1, 1), clamp=UNIT)
    return m.classify(m.same(Op.MUL, x, gate))


def _residual(m: Maker) -> Graph:
    x = _stem(m)
    y = m.conv(m.conv(x, 24, (1, 1), clamp=RELU6), 8, (1, 1))
    return m.classify(m.mean(m.same(Op.ADD, x, y, clamp=RELU)))


def _hard_swish_into_add(m: Maker) -> Graph:
    """The tensors that hard-swish leaves with another declared scale meet others."""
    x = _stem(m)
    y = m.same(Op.HARD_SWISH, x)
    z = m.same(Op.ADD, m.same(Op.ADD, x, y), m.same(Op.HARD_SWISH, m.conv(x, 8, (1, 1))))
    return m.classify(m.same(Op.SIGMOID, m.concat(y, z)))


def _hard_swish_output(m: Maker) -> Graph:
    return m.finish(m.same(Op.HARD_SWISH, m.linear(m.flatten(m.mean(_stem(m))), 5)))


def _big_flatten(m: Maker) -> Graph:
    return m.finish(m.linear(m.linear(m.flatten(m.conv(_stem(m), 4, stride=(2, 2))), 12, clamp=RELU), 5))


def _flatten_read_by_others(m: Maker) -> Graph:
    return m.finish(m.linear(m.same(Op.SIGMOID, m.flatten(m.conv(_stem(m), 4, stride=(2, 2)))), 5))


def _concat(m: Maker) -> Graph:
    x = _stem(m)
    return m.classify(m.concat(m.conv(x, 4, (1, 1)), m.conv(x, 3, (1, 1), clamp=RELU), m.same(Op.SIGMOID, x)))


def _channel_shuffle_unit(m: Maker) -> Graph:
    """ShuffleNetV2's: half of the channels pass, half are worked on, and both are shuffled; twice."""
    x = _stem(m, RELU)
    for _ in range(2):
        worked = m.conv(m.slice(x, 4, 8), 4, (1, 1), clamp=RELU)
        x = m.same(Op.SHUFFLE, m.concat(m.slice(x, 0, 4), worked), groups=2)
    return m.classify(m.mean(x))


def _slice_after_hard_swish(m: Maker) -> Graph:
    """Parts of a tensor with another declared scale."""
    x = m.same(Op.HARD_SWISH, _stem(m))
    return m.classify(m.same(Op.ADD, m.same(Op.SHUFFLE, m.slice(x, 2, 8), groups=3), m.slice(x, 0, 6)))


def _slice_of_a_vector(m: Maker) -> Graph:
    hidden = m.linear(m.flatten(m.mean(_stem(m))), 9)
    return m.finish(m.linear(m.same(Op.SHUFFLE, m.slice(hidden, 1, 7), groups=2), 5))


def _per_channel_normalization(m: Maker) -> Graph:
    node = Node(m.input, Op.INPUT, (), m.nodes[0].shape, {"mean": [0.0] * 3, "std": [1.0] * 3})
    m.nodes[0] = node
    return m.classify(m.conv(m.conv(m.input, 3, (1, 1), groups=3), 8, stride=(2, 2), padding=(1, 1, 1, 1)))


def _reserved_names(m: Maker) -> Graph:
    x = m.add(Op.MEAN, [_stem(m)], (8, 1, 1), name="image")
    flat = m.flatten(x)
    name = m.add(Op.LINEAR, [flat], (5,), name="logits", clamp=None)
    m._weights(name, (5, 8))
    return m.finish(name)


GRAPHS: dict[str, Callable[[Maker], Graph]] = {
    **_conv_kinds(),
    # Stems: these read the picture itself, whose few channels writers may treat specially.
    "stem_torch": lambda m: m.classify(m.conv(m.input, 8, stride=(2, 2), padding=(1, 1, 1, 1), clamp=RELU6)),
    "stem_tensorflow": lambda m: m.classify(m.conv(m.input, 8, stride=(2, 2), padding=(0, 0, 1, 1))),
    "stem_wide": lambda m: m.classify(m.conv(m.input, 8, (5, 4), stride=(1, 2), padding=(2, 2, 1, 3))),
    "stem_odd_padding": lambda m: m.classify(m.conv(m.input, 8, (3, 7), stride=(2, 2), padding=(0, 3, 0, 3))),
    "stem_gated": lambda m: m.classify(m.same(Op.HARD_SWISH, m.conv(m.input, 8, stride=(2, 2), padding=(1, 1, 1, 1)))),
    "stem_2x2": lambda m: m.classify(m.conv(m.input, 8, (2, 2), stride=(2, 2))),
    "linear_relu6": lambda m: m.finish(m.linear(m.linear(m.flatten(m.mean(_stem(m))), 9, clamp=RELU6), 5)),
    "add": lambda m: m.classify(m.same(Op.ADD, _stem(m), m.conv(m.input, 8, padding=(1, 1, 1, 1)))),
    "add_clamped": lambda m: m.classify(m.same(Op.ADD, _stem(m), _stem(m), clamp=[-0.5, 0.8])),
    "residual": _residual,
    "mul": lambda m: m.classify(m.same(Op.MUL, _stem(m), _stem(m))),
    "squeeze_excite": _squeeze_excite,
    "mean": lambda m: m.classify(m.mean(_stem(m, RELU6))),
    "max_pool": lambda m: m.classify(m.pool(Op.MAX_POOL, _stem(m), (2, 2), (2, 2))),
    "max_pool_padded": lambda m: m.classify(m.pool(Op.MAX_POOL, _stem(m), (3, 3), (2, 2), (1, 1, 1, 1))),
    "max_pool_explicit_padding": lambda m: m.classify(m.pool(Op.MAX_POOL, _stem(m), (3, 3), (2, 2), (0, 1, 1, 0))),
    "max_pool_after_relu": lambda m: m.classify(m.pool(Op.MAX_POOL, _stem(m, RELU), (3, 3), (2, 2), (0, 1, 1, 0))),
    "avg_pool": lambda m: m.classify(m.pool(Op.AVG_POOL, _stem(m), (2, 3), (2, 2))),
    "flatten": _big_flatten,
    "flatten_read_by_others": _flatten_read_by_others,
    "concat": _concat,
    "slice": lambda m: m.classify(m.slice(_stem(m), 3, 7)),
    "shuffle": lambda m: m.classify(m.same(Op.SHUFFLE, m.conv(_stem(m), 6), groups=3)),
    "channel_shuffle_unit": _channel_shuffle_unit,
    "slice_after_hard_swish": _slice_after_hard_swish,
    "slice_of_a_vector": _slice_of_a_vector,
    "max_pool_ceil": lambda m: m.classify(m.pool(Op.MAX_POOL, _stem(m), (3, 3), (2, 2), (0, 0, 1, 1))),
    "pad": lambda m: m.classify(m.pad(_stem(m), (1, 2, 0, 1))),
    "clamp": lambda m: m.classify(m.same(Op.CLAMP, _stem(m), clamp=[-0.4, 0.6])),
    "clamp_relu": lambda m: m.classify(m.same(Op.CLAMP, _stem(m), clamp=RELU)),
    "clamp_unit": lambda m: m.classify(m.same(Op.CLAMP, _stem(m), clamp=UNIT)),
    "affine": lambda m: m.classify(m.same(Op.AFFINE, _stem(m), factor=0.7, offset=-0.4)),
    "affine_gate": lambda m: m.classify(m.same(Op.AFFINE, _stem(m), factor=1 / 6, offset=0.5, clamp=UNIT)),
    "affine_negative": lambda m: m.classify(m.same(Op.AFFINE, _stem(m), factor=-1.5, offset=0.3)),
    "affine_scaling": lambda m: m.classify(m.same(Op.AFFINE, _stem(m), factor=2.5, offset=0.0, clamp=RELU)),
    "affine_shift": lambda m: m.classify(m.same(Op.AFFINE, _stem(m), factor=1.0, offset=1.0)),
    "hard_swish": lambda m: m.classify(m.same(Op.HARD_SWISH, _stem(m))),
    "hard_swish_mean": lambda m: m.classify(m.conv(m.mean(m.same(Op.HARD_SWISH, _stem(m))), 8, (1, 1))),
    "hard_swish_into_add": _hard_swish_into_add,
    "hard_swish_output": _hard_swish_output,
    "hard_sigmoid": lambda m: m.classify(m.same(Op.HARD_SIGMOID, _stem(m))),
    "sigmoid": lambda m: m.classify(m.same(Op.SIGMOID, _stem(m))),
    "silu": lambda m: m.classify(m.same(Op.SILU, _stem(m))),
    "per_channel_normalization": _per_channel_normalization,
    "reserved_names": _reserved_names,
}
