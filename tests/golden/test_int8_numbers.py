"""Numbers that must not drift: the same float graph and ranges give the same integers and the same answers."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgecnn.compress.quantize import activation_qparams, quantize
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, Node, Op

SIZE = 8

GOLDEN_QPARAMS = {
    "image": (0.007843138, -1),
    "stem": (0.02, -128),
    "pool": (0.01, -128),
    "flat": (0.01, -128),
    "head": (0.029999999, -28),
}
GOLDEN_WEIGHTS = {
    "stem.weight": "0f6fde1adaf103b8",
    "stem.bias": "fb95d00a17fd10e3",
    "head.weight": "588e85071b039c1f",
    "head.bias": "cc6a577495ae4a66",
}
GOLDEN_LOGIT_STEPS = [[-50, -27, 3], [-54, -31, 6]]


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def ramp(*shape: int, step: float) -> np.ndarray:
    """Weights without a random generator: a saw-tooth in [-1, 1]."""
    count = int(np.prod(shape))
    return (((np.arange(count) * step) % 2.0) - 1.0).reshape(shape).astype(np.float32)


@pytest.fixture(scope="module")
def int8() -> Graph:
    conv = {
        "kernel": [3, 3],
        "stride": [2, 2],
        "padding": [1, 1, 1, 1],
        "dilation": [1, 1],
        "groups": 1,
        "clamp": [0, 6],
    }
    nodes = (
        Node("image", Op.INPUT, (), (3, SIZE, SIZE), {"mean": [127 / 255] * 3, "std": [0.5] * 3}),
        Node("stem", Op.CONV, ("image",), (4, 4, 4), conv),
        Node("pool", Op.MEAN, ("stem",), (4, 1, 1)),
        Node("flat", Op.FLATTEN, ("pool",), (4,)),
        Node("head", Op.LINEAR, ("flat",), (3,), {"clamp": None}),
    )
    weights = {
        "stem.weight": ramp(4, 3, 3, 3, step=0.37),
        "stem.bias": ramp(4, step=0.5),
        "head.weight": ramp(3, 4, step=0.71),
        "head.bias": ramp(3, step=0.3),
    }
    ranges = {"image": (-1.0, 1.0), "stem": (0.0, 5.1), "pool": (0.0, 2.55), "flat": (0.0, 2.55), "head": (-3.0, 4.65)}
    return quantize(Graph(nodes, "head", weights), ranges)


def test_scales_and_zero_points(int8: Graph) -> None:
    found = {name: (round(float(q.scale), 9), q.zero_point) for name, q in int8.qparams.items()}
    assert found == GOLDEN_QPARAMS


def test_integer_weights_and_biases(int8: Graph) -> None:
    assert {name: digest(value) for name, value in int8.weights.items()} == GOLDEN_WEIGHTS


def test_logits(int8: Graph) -> None:
    images = (np.arange(2 * SIZE * SIZE * 3) * 7 % 256).astype(np.uint8).reshape(2, SIZE, SIZE, 3)
    logits = run(int8, images).numpy()
    steps = np.rint(logits / int8.qparams["head"].scale).astype(int)
    assert steps.tolist() == GOLDEN_LOGIT_STEPS


def test_a_range_always_holds_zero_exactly() -> None:
    q = activation_qparams(0.5, 2.55)
    assert (round(float(q.scale), 9), q.zero_point) == (0.01, -128)
