"""Each pass leaves the function as it is and the graph as it should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgecnn.errors import ModelError
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, Node, Op
from edgecnn.graph.simplify import (
    decompose_hard_sigmoid,
    decompose_hard_swish,
    decompose_silu,
    drop_unused,
    fold_hard_sigmoid,
    fold_scale_shift,
    fuse_clamp,
    intersect,
    merge_padding,
    recognise_gated,
    recognise_hard_sigmoid,
    simplify,
)

SIZE = 6
INPUT = Node("image", Op.INPUT, (), (3, SIZE, SIZE), {"mean": [0.5] * 3, "std": [0.25] * 3})


def conv(name: str, source: str, channels: int, **changes: Any) -> Node:
    attrs = {
        "kernel": [3, 3],
        "stride": [1, 1],
        "padding": [1, 1, 1, 1],
        "dilation": [1, 1],
        "groups": 1,
        "clamp": None,
    }
    return Node(name, Op.CONV, (source,), (channels, SIZE, SIZE), {**attrs, **changes})


def scale_shift(name: str, source: str, channels: int) -> Node:
    return conv(name, source, channels, kernel=[1, 1], padding=[0, 0, 0, 0], groups=channels)


def simple(name: str, op: Op, *sources: str, **attrs: Any) -> Node:
    return Node(name, op, sources, (4, SIZE, SIZE), attrs)


def graph_of(*nodes: Node, output: str = "") -> Graph:
    """A graph whose weights are random, of the shapes that the nodes ask for."""
    random = np.random.default_rng(0)
    channels = {"image": 3} | {node.name: node.shape[0] for node in nodes}
    weights = {}
    for node in nodes:
        if node.op is Op.CONV:
            shape = (node.shape[0], channels[node.inputs[0]] // node.attrs["groups"], *node.attrs["kernel"])
            weights[f"{node.name}.weight"] = random.normal(size=shape).astype(np.float32)
            weights[f"{node.name}.bias"] = random.normal(size=shape[0]).astype(np.float32)
    return Graph((INPUT, *nodes), output or nodes[-1].name, weights)


def pictures() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def same(before: Graph, after: Graph) -> None:
    torch.testing.assert_close(run(after, pictures()), run(before, pictures()), rtol=1e-5, atol=1e-5)


def test_padding_goes_into_the_convolution() -> None:
    pad = Node("pad", Op.PAD, ("image",), (3, SIZE + 1, SIZE + 3), {"padding": [0, 1, 1, 2]})
    body = Node("c", Op.CONV, ("pad",), (4, SIZE + 1, SIZE + 3), conv("c", "pad", 4).attrs)
    before = graph_of(pad, body)
    after = merge_padding(before)
    assert names(after) == ["image", "c"]
    assert after.node("c").attrs["padding"] == [1, 2, 2, 3]
    same(before, after)


def test_padding_stays_for_other_readers() -> None:
    pad = Node("pad", Op.PAD, ("image",), (3, SIZE, SIZE), {"padding": [0, 0, 0, 0]})
    before = graph_of(pad, conv("c", "pad", 3), Node("sum", Op.ADD, ("pad", "c"), (3, SIZE, SIZE), {"clamp": None}))
    after = merge_padding(before)
    assert names(after) == ["image", "pad", "c", "sum"]
    same(before, after)


def test_scale_and_shift_go_into_the_convolution_before() -> None:
    before = graph_of(conv("c", "image", 4), scale_shift("bn", "c", 4), scale_shift("bn2", "bn", 4))
    after = fold_scale_shift(before)
    assert names(after) == ["image", "c"]
    assert set(after.weights) == {"c.weight", "c.bias"}
    assert after.output == "c"
    same(before, after)


@pytest.mark.parametrize("reason", ["first", "activation between", "second reader"])
def test_scale_and_shift_stay_where_they_cannot_move(reason: str) -> None:
    if reason == "first":
        before = graph_of(scale_shift("bn", "image", 3))
    elif reason == "activation between":
        before = graph_of(conv("c", "image", 4, clamp=[0.0, None]), scale_shift("bn", "c", 4))
    else:
        both = Node("sum", Op.ADD, ("bn", "c"), (4, SIZE, SIZE), {"clamp": None})
        before = graph_of(conv("c", "image", 4), scale_shift("bn", "c", 4), both)
    after = fold_scale_shift(before)
    assert names(after) == names(before)
    same(before, after)


def test_clamps_join_the_operator_before() -> None:
    relu6, narrow = (
        simple("relu6", Op.CLAMP, "c", clamp=[0.0, 6.0]),
        simple("narrow", Op.CLAMP, "relu6", clamp=[-1.0, 2.0]),
    )
    before = graph_of(conv("c", "image", 4), relu6, narrow)
    after = fuse_clamp(before)
    assert names(after) == ["image", "c"]
    assert after.node("c").attrs["clamp"] == [0.0, 2.0]
    same(before, after)


def test_a_clamp_stays_when_the_unclamped_value_is_read_too() -> None:
    relu = simple("relu", Op.CLAMP, "c", clamp=[0.0, None])
    both = Node("sum", Op.ADD, ("relu", "c"), (4, SIZE, SIZE), {"clamp": None})
    before = graph_of(conv("c", "image", 4), relu, both)
    after = fuse_clamp(before)
    assert names(after) == names(before)
    same(before, after)


def test_a_value_added_to_itself_has_two_readers() -> None:
    twice = Node("sum", Op.ADD, ("relu", "relu"), (4, SIZE, SIZE), {"clamp": None})
    before = graph_of(conv("c", "image", 4), simple("relu", Op.CLAMP, "c", clamp=[0.0, None]), twice)
    after = simplify(before)
    assert names(after) == ["image", "c", "sum"]
    same(before, after)


def test_intersect() -> None:
    assert intersect(None, [0.0, None]) == [0.0, None]
    assert intersect([0.0, None], [None, 6.0]) == [0.0, 6.0]
    assert intersect([0.0, 6.0], [-1.0, 4.0]) == [0.0, 4.0]
    assert intersect([0.0, 1.0], [2.0, 3.0]) is None


def test_disjoint_clamps_stay_apart() -> None:
    late = simple("late", Op.CLAMP, "c", clamp=[2.0, 3.0])
    before = graph_of(conv("c", "image", 4, clamp=[0.0, 1.0]), late)
    after = fuse_clamp(before)
    assert names(after) == ["image", "c", "late"]
    assert float(run(after, pictures()).unique()) == 2.0


def test_hard_sigmoid_goes_into_the_weights() -> None:
    before = graph_of(conv("c", "image", 4), simple("gate", Op.HARD_SIGMOID, "c"))
    after = fold_hard_sigmoid(before)
    assert names(after) == ["image", "c"]
    assert after.node("c").attrs["clamp"] == [0.0, 1.0]
    same(before, after)


def test_hard_sigmoid_stays_behind_an_activation() -> None:
    before = graph_of(conv("c", "image", 4, clamp=[0.0, None]), simple("gate", Op.HARD_SIGMOID, "c"))
    after = fold_hard_sigmoid(before)
    assert names(after) == names(before)


def test_handwritten_hard_swish_is_recognised() -> None:
    before = graph_of(
        conv("c", "image", 4),
        simple("plus", Op.AFFINE, "c", factor=1.0, offset=3.0, clamp=None),
        simple("relu6", Op.CLAMP, "plus", clamp=[0.0, 6.0]),
        simple("sixth", Op.AFFINE, "relu6", factor=1 / 6, offset=0.0, clamp=None),
        simple("product", Op.MUL, "sixth", "c"),
    )
    after = recognise_gated(recognise_hard_sigmoid(before))
    assert [node.op for node in after.nodes] == [Op.INPUT, Op.CONV, Op.HARD_SWISH]
    assert after.output == "product"
    same(before, after)


def test_a_gate_from_elsewhere_is_not_a_swish() -> None:
    before = graph_of(
        conv("c", "image", 4),
        conv("d", "image", 4),
        simple("gate", Op.SIGMOID, "d"),
        simple("product", Op.MUL, "c", "gate"),
    )
    assert names(recognise_gated(before)) == names(before)


def test_sigmoid_times_its_input_is_silu() -> None:
    before = graph_of(conv("c", "image", 4), simple("g", Op.SIGMOID, "c"), simple("product", Op.MUL, "c", "g"))
    after = recognise_gated(before)
    assert [node.op for node in after.nodes] == [Op.INPUT, Op.CONV, Op.SILU]
    same(before, after)


@pytest.mark.parametrize(
    ("op", "decompose", "wanted"),
    [
        (Op.HARD_SWISH, decompose_hard_swish, [Op.AFFINE, Op.MUL]),
        (Op.SILU, decompose_silu, [Op.SIGMOID, Op.MUL]),
        (Op.HARD_SIGMOID, decompose_hard_sigmoid, [Op.AFFINE]),
    ],
)
def test_decomposition_keeps_the_function_and_the_name(op: Op, decompose: Any, wanted: list[Op]) -> None:
    before = graph_of(conv("c", "image", 4), simple("act", op, "c"))
    after = decompose(before)
    assert [node.op for node in after.nodes[2:]] == wanted
    assert after.output == "act"
    assert names(after)[2:] == (["act.gate", "act"] if len(wanted) == 2 else ["act"])
    same(before, after)


def test_unused_nodes_and_weights_go() -> None:
    before = graph_of(conv("c", "image", 4), conv("dead", "image", 4), output="c")
    after = drop_unused(before)
    assert names(after) == ["image", "c"]
    assert set(after.weights) == {"c.weight", "c.bias"}


def test_normalization_of_a_vector_needs_a_linear_layer_before() -> None:
    pooled = Node("mean", Op.MEAN, ("c",), (4, 1, 1))
    flat = Node("flat", Op.FLATTEN, ("mean",), (4,))
    attrs = scale_shift("bn", "flat", 4).attrs
    graph = graph_of(conv("c", "image", 4), pooled, flat, Node("bn", Op.CONV, ("flat",), (4,), attrs))
    with pytest.raises(ModelError, match="'bn'"):
        simplify(graph)
