"""How pixels enter an int8 ONNX file, so that every runtime computes the first convolution in integers.

The graph's numbers of the picture are ``scale * (pixel - zero_point)``. OpenVINO recognises an integer tensor by what
quantizes it: pixels that are only dequantized make the first convolution run in float32, and so does a zero point
beside padding. So the pixels are dequantized, turned to channels first and quantized again, which ONNX Runtime leaves
out; and where the picture's one reader is a convolution that pads, the padding is put around the pixels (of the value
``zero_point``), and the zero point goes into its bias: ``sum w (q - z) + b = sum w q + (b - z sum w)``. The integers
are the same. All of this is done with channels last, where grouping columns and padding are cheap.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from edgecnn.export.lowering import graph_name
from edgecnn.export.numbers import pixel_qparams
from edgecnn.export.onnx_ops import ONNXWriter, zero_point
from edgecnn.graph.ir import Array, Graph, Node, Op, QParams

PADDED = "/padded"  # after the input's name: of the padded pixels, whose zero point is 0
BLACK = "/black"  # after that: of the pixel that stands for zero


def pad_picture(graph: Graph) -> Graph:
    """The lowered int8 graph with the padding of the picture's one reader, if it is a convolution, around the pixels.

    The input node then is the padded picture: its ``columns`` at once, its ``padding`` and the pixel that stands for
    zero, ``black``, say how it is made.
    """
    source, readers = graph.input, graph.consumers(graph.input.name)
    groups = readers[0] if len(readers) == 1 and readers[0].op is Op.FLATTEN and len(readers[0].shape) == 3 else None
    if groups is not None:
        readers = graph.consumers(groups.name)
    if len(readers) != 1 or readers[0].op is not Op.CONV:
        return graph
    conv = readers[0]
    if not graph.is_integer(conv) and not graph.is_open(conv):
        return graph
    top, left, bottom, right = padding = conv.attrs["padding"]
    if not any(padding):
        return graph
    channels, height, width = (groups or source).shape
    shape = (channels, height + top + bottom, width + left + right)
    _, black = pixel_qparams(graph)
    attrs = source.attrs | {"padding": padding, "columns": channels // source.shape[0], "black": black}
    picture = dataclasses.replace(source, name=source.name + PADDED, shape=shape, attrs=attrs)
    unpadded = dataclasses.replace(conv, inputs=(picture.name,), attrs=conv.attrs | {"padding": [0, 0, 0, 0]})

    numbers, weight = graph.qparams[source.name], graph.weights[f"{conv.name}.weight"]
    sums = weight.astype(np.int64).reshape(len(weight), -1).sum(1)
    bias = graph.weights[f"{conv.name}.bias"] - (numbers.zero_point + 128) * sums
    nodes = [unpadded if node is conv else node for node in graph.nodes if node not in (source, groups)]
    return graph.with_nodes(
        (picture, *nodes),
        qparams=graph.qparams | {picture.name: QParams(numbers.scale, -128)},
        weights=graph.weights | {f"{conv.name}.bias": bias.astype(np.int32)},
    )


def emit_picture(w: ONNXWriter, node: Node) -> None:
    """The pixels as the quantized tensor that they are."""
    qparams, pixels = w.graph.qparams[node.name], "image"
    numbers = w.numbers(f"{node.name}/pixel", qparams.scale, zero_point(qparams))
    if node.name.endswith(PADDED):
        pixels = _padded(w, node)
    else:
        pixel_qparams(w.graph)  # the pixels are the quantized tensor; this checks that
    real = w.op("DequantizeLinear", [pixels, *numbers], f"{node.name}/pixels/real")
    planes = w.op("Transpose", [real], f"{node.name}/planes/real", perm=[0, 3, 1, 2])
    w.op("QuantizeLinear", [planes, *numbers], node.name)


def traced_picture(constants: dict[str, Array], images: NDArray[np.uint8]) -> dict[str, Array]:
    """The input tensor (N, C, H, W) of a file that holds only its padded pixels, by the graph's name."""
    blacks = [name for name in constants if name.endswith(BLACK)]
    if not blacks:
        return {}
    (black,) = blacks
    name = black.removesuffix(BLACK)
    values = (images.transpose(0, 3, 1, 2).astype(np.float32) - constants[black]) * constants[f"{name}/pixel/scale"]
    return {str(graph_name(name.removesuffix(PADDED))): np.ascontiguousarray(values)}


def _padded(w: ONNXWriter, node: Node) -> str:
    channels, height, width = node.shape
    top, left, bottom, right = node.attrs["padding"]
    pixels = "image"
    if node.attrs["columns"] > 1:
        shape = np.array([0, height - top - bottom, width - left - right, channels], np.int64)
        pixels = w.op("Reshape", [pixels, w.constant(f"{node.name}/shape", shape)], f"{node.name}/groups")
    pads = w.constant(f"{node.name}/pads", np.array([0, top, left, 0, 0, bottom, right, 0], np.int64))
    black = w.constant(node.name + BLACK, np.array(node.attrs["black"], np.uint8))
    return w.op("Pad", [pixels, pads, black], f"{node.name}/pixels")
