"""Which pictures do the ranges of an int8 graph come from: those that the network is given, read as it reads them?

The ranges of the first tensors are taken again with the float network, on the calibration pictures if these are known.
Numbers that were decided on the same pictures come out the same. Where they do not, other ways to read the pictures are
tried (red and blue exchanged, the usual normalizations), and the one that explains the ranges is named. Without the
calibration pictures a wrong normalization still stands out; exchanged colours, which move ranges by a few percent only,
do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.layer_facts import GATE, grid_of, reach, span
from edgecnn.compress.observer import Range
from edgecnn.compress.ranges import Method
from edgecnn.graph.interpret import Images
from edgecnn.graph.ir import SHARING, WEIGHTED, Graph, Node, Op
from edgecnn.graph.weights import real_weights

EARLY = 8  # tensors that are compared: deeper ones say more of the network than of the picture
SAME = 0.01  # ranges so near are the same: what rounding to a zero point leaves is a part of it
AS_IS, SWAPPED = "as the network reads them", "red and blue exchanged"
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mean 0, std 1 (pixels in [0, 1])": ((0.0,) * 3, (1.0,) * 3),
    "mean 0.5, std 0.5 (pixels in [-1, 1])": ((0.5,) * 3, (0.5,) * 3),
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "ImageNet's mean, std 1/255 (Caffe)": ((0.485, 0.456, 0.406), (1 / 255,) * 3),
    "mean 0, std 1/255 (pixels in [0, 255])": ((0.0,) * 3, (1 / 255,) * 3),
}


@dataclass(frozen=True)
class Origin:
    """How far the int8 graph's first ranges are from the float network's, in widths of the range (0: the same).

    ``as_is``: on the pictures as the network reads them, root mean square over tensors, and ``median`` the median;
    ``nearest``: as ``as_is``, with pictures read in the other way that comes nearest.
    """

    as_is: float
    median: float
    nearest: float
    reading: str


def origin(real: Graph, integer: Graph, images: Images, method: Method = "minmax") -> Origin:
    """Compare the first ranges of ``integer`` with those of ``real`` on images (N, H, W, C) uint8.

    Other readings are tried where they are not the ``SAME``.
    """
    pixels = np.asarray(images)
    names = _telling(real)
    if not names:  # all ranges are shared or fixed: nothing can be told
        return Origin(0.0, 0.0, 0.0, AS_IS)
    # Up to their readers, since these decide which range is best.
    last = max(index for index, node in enumerate(real.nodes) if {node.name, *node.inputs} & set(names))
    begin = replace(real, nodes=real.nodes[: last + 1], output=real.nodes[last].name)

    def distances(graph: Graph, pictures: Images) -> list[float]:
        found = calibrate(graph, [np.asarray(pictures)], method)
        return [_apart(_needed(real, real.node(name), found[name]), grid_of(integer, name)) for name in names]

    own = distances(begin, pixels)
    if _rms(own) < SAME:
        return Origin(_rms(own), float(np.median(own)), _rms(own), AS_IS)
    others = {reading: _rms(distances(graph, pictures)) for reading, graph, pictures in _readings(begin, pixels)}
    nearest = min(others, key=others.__getitem__, default=AS_IS)
    return Origin(_rms(own), float(np.median(own)), others.get(nearest, _rms(own)), nearest)


def reads_alike(real: Graph, integer: Graph) -> bool:
    """Whether both graphs read a pixel as the same number: mean and std of the input, and of "normalize" behind it."""
    ours, theirs = real.input.attrs, integer.input.attrs
    normalize = normalization_of(real)
    if normalize is None or ours != theirs:
        return bool(ours == theirs)
    numbers, keys = real_weights(integer), (f"{normalize.name}.{part}" for part in ("weight", "bias"))
    return all(np.allclose(real.weights[key], numbers[key], rtol=0.02, atol=0.02) for key in keys)


def normalization_of(graph: Graph) -> Node | None:
    """The 1x1 depthwise convolution that normalizes the picture, where the input itself does not."""
    readers = graph.consumers(graph.input.name)
    first = readers[0] if len(readers) == 1 else None
    return first if first is not None and is_depthwise(first) and first.attrs["kernel"] == [1, 1] else None


def is_depthwise(node: Node) -> bool:
    """Whether each output channel of a convolution reads one input channel."""
    return node.op is Op.CONV and 1 < node.attrs["groups"] == node.shape[0]


def _readings(
    graph: Graph, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> Iterator[tuple[str, Graph, Images]]:
    """Other ways in which the pictures may have been read: in words, as a graph, as pictures."""
    if graph.input.shape[0] != 3:
        return
    yield SWAPPED, graph, np.ascontiguousarray(pixels[..., ::-1])
    for words, (mean, std) in NORMALIZATIONS.items():
        yield words, _normalizing(graph, mean, std), pixels


def _normalizing(graph: Graph, mean: tuple[float, ...], std: tuple[float, ...]) -> Graph:
    """The graph with another mean and std of the picture."""
    node = normalization_of(graph)
    if node is None:
        first = replace(graph.input, attrs={"mean": list(mean), "std": list(std)})
        return replace(graph, nodes=(first, *graph.nodes[1:]))
    scale, shift = (np.asarray(each, np.float32) for each in (1 / np.array(std), -np.array(mean) / np.array(std)))
    changed = {f"{node.name}.weight": scale.reshape(-1, 1, 1, 1), f"{node.name}.bias": shift}
    return replace(graph, weights={**graph.weights, **changed})


def _telling(graph: Graph) -> list[str]:
    """The first tensors whose numbers follow from their own range alone."""
    shared = {name for node in graph.nodes if node.op in (*SHARING, Op.CONCAT) for name in (node.name, *node.inputs)}
    own = [
        node.name
        for node in graph.nodes
        if node.op in (*WEIGHTED, Op.ADD, Op.MUL) and node.name not in shared and node.attrs.get("clamp") != GATE
    ]
    return own[:EARLY]


def _needed(graph: Graph, node: Node, observed: Range) -> Range:
    """The range that numbers are decided for: what was seen, as far as readers can tell it apart, with 0 inside."""
    low, high = reach(graph, node)
    return min(0.0, max(observed[0], low)), max(0.0, min(observed[1], high))


def _apart(one: Range, other: Range) -> float:
    """The larger distance of two ranges' ends, in widths of the wider range: 0 ... 1."""
    wider = max(span(one), span(other))
    return max(abs(one[0] - other[0]), abs(one[1] - other[1])) / wider if wider else 0.0


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
