"""Groups of columns: when they are made, and what is computed on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgecnn.export.columns import group_columns, ungrouped
from edgecnn.export.onnx_picture import pad_picture
from edgecnn.graph.ir import Graph, Node, Op, QParams
from edgecnn.graph.real import convolve


def stem(width: int, padding: list[int], kernel: int = 3, channels: int = 3, bits: int = 8) -> Graph:
    """An int8 convolution of stride 2 on a picture 8 rows high, then x * clamp(x / 6 + 1/2)."""
    places = ((8 + padding[0] + padding[2] - 3) // 2 + 1, (width + padding[1] + padding[3] - kernel) // 2 + 1)
    attrs = {"kernel": [3, kernel], "stride": [2, 2], "padding": padding, "dilation": [1, 1], "groups": 1}
    rng = np.random.default_rng(0)
    nodes = (
        Node("input", Op.INPUT, (), (channels, 8, width), {"mean": [127 / 255] * channels, "std": [0.5] * channels}),
        Node("conv", Op.CONV, ("input",), (4, *places), attrs | {"clamp": None}, bits),
        Node("gate", Op.AFFINE, ("conv",), (4, *places), {"factor": 1 / 6, "offset": 0.5, "clamp": [0.0, 1.0]}),
        Node("act", Op.MUL, ("conv", "gate"), (4, *places)),
    )
    return Graph(
        nodes,
        "act",
        {
            "conv.weight": rng.integers(-127, 128, (4, channels, 3, kernel)).astype(np.int8),
            "conv.bias": rng.integers(-999, 999, 4).astype(np.int32),
        },
        qparams={node.name: QParams(0.1, -1) for node in nodes} | {"input": QParams(1 / 127.5, -1)},
        weight_scales={"conv": np.full(4, 0.1, np.float32)},
    )


def sums(graph: Graph, rows: torch.Tensor) -> np.ndarray:
    """The integer sums of the graph's convolution for pixels (1, H, W, C), channels last, as the file's reader sees."""
    conv = next(node for node in graph.nodes if node.op is Op.CONV)
    source = graph.node(conv.inputs[0])
    channels, height, width = source.shape
    zero = graph.qparams[source.name].zero_point + 128
    if "black" in source.attrs:
        top, left, bottom, right = source.attrs["padding"]
        rows = rows.reshape(1, height - top - bottom, width - left - right, channels)
        rows = torch.nn.functional.pad(rows, (0, 0, left, right, top, bottom), value=source.attrs["black"])
    planes = rows.reshape(1, height, width, channels).permute(0, 3, 1, 2).double() - zero
    weight, bias = (torch.from_numpy(graph.weights[f"{conv.name}.{word}"]).double() for word in ("weight", "bias"))
    return ungrouped(conv.name, convolve(conv, planes, weight, bias).permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    ("width", "padding", "kernel", "columns"),
    [
        (16, [1, 1, 1, 1], 3, 4),
        (16, [0, 0, 1, 1], 3, 4),
        (16, [2, 3, 1, 2], 7, 4),
        (18, [1, 1, 1, 1], 3, 2),  # not a multiple of four
        (16, [0, 0, 0, 0], 3, 2),  # fewer places than pairs of columns
    ],
)
def test_sums_stay_the_same(width: int, padding: list[int], kernel: int, columns: int) -> None:
    graph = stem(width, padding, kernel)
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 8, width, 3)))
    wanted = sums(graph, pixels)
    grouped = group_columns(graph)
    assert max(node.shape[0] for node in grouped.nodes if node.op is Op.FLATTEN) == max(3 * columns, 4)
    for changed in (grouped, pad_picture(grouped), pad_picture(graph)):
        np.testing.assert_array_equal(sums(changed, pixels), wanted)


def test_what_is_computed_value_by_value_is_computed_on_groups() -> None:
    grouped = group_columns(stem(16, [1, 1, 1, 1]))
    assert [node.name for node in grouped.nodes] == [
        "input", "conv/groups", "conv/columns2", "gate/columns2", "act/grouped", "act",
    ]  # fmt: skip
    assert grouped.node("act/grouped").inputs == ("conv/columns2", "gate/columns2")
    assert grouped.node("act").shape == (4, 4, 8) and grouped.output == "act"


def test_a_tensor_that_others_read_is_taken_apart_at_once() -> None:
    graph = stem(16, [1, 1, 1, 1])
    reader = Node("pool", Op.MEAN, ("conv",), (4, 1, 1))
    graph = graph.with_nodes((*graph.nodes, reader), qparams=graph.qparams | {"pool": QParams(0.1, 0)})
    assert [node.name for node in group_columns(graph).nodes][1:4] == ["conv/groups", "conv/grouped", "conv"]


@pytest.mark.parametrize("change", [{"channels": 8}, {"bits": 32}])
def test_other_convolutions_are_left_alone(change: dict[str, int]) -> None:
    graph = stem(16, [1, 1, 1, 1], **change)
    assert group_columns(graph) == graph
    strided = replace(graph.node("conv"), attrs=graph.node("conv").attrs | {"dilation": [1, 2]})
    again = graph.with_nodes((graph.input, strided))
    assert group_columns(again) == again
