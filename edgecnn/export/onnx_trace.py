"""Every intermediate tensor of an ONNX file, as ONNX Runtime computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgecnn.catalog import require
from edgecnn.export.columns import ungrouped
from edgecnn.export.lowering import graph_name
from edgecnn.export.onnx_ops import MOVED, SOURCE
from edgecnn.export.onnx_picture import traced_picture
from edgecnn.graph.ir import Array

MOVES = ("Pad", "Slice", "Gather")  # written on the integers


def trace(path: Path, images: NDArray[np.uint8]) -> dict[str, Array]:
    """Run images (N, H, W, C) uint8 through a file that :func:`edgecnn.export.onnx.render` wrote.

    Returns, by the graph's tensor names, real values float32 (N, C, H, W) or (N, C): in an int8 file the dequantized
    integers that the integer kernels produce. The session optimizes as usual, with every tensor kept as an output.
    """
    ort: Any = require("onnxruntime", extra="onnxruntime")
    model = onnx.load(path)
    tensors = {output: graph_name(output) for node in model.graph.node for output in node.output}
    kept = {tensor: name for tensor, name in tensors.items() if name is not None}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in kept)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums on x86 without VNNI, see the writer
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(list(kept), {"image": images})
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    numbers = _numbers(model.graph, constants)
    found = traced_picture(constants, images)
    for (tensor, name), value in zip(kept.items(), values, strict=True):
        plain = _real(value, *numbers[tensor]) if tensor in numbers else value
        found[name] = planes(ungrouped(tensor, plain.transpose(0, 2, 3, 1))) if value.ndim == 4 else plain
    return found


def planes(value: Array) -> Array:
    """(N, H, W, C) -> (N, C, H, W)."""
    return np.ascontiguousarray(value.transpose(0, 3, 1, 2))


def _numbers(graph: Any, constants: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    """Scale and zero point of every integer tensor: those of what makes it real, or of what is moved out of it."""
    found: dict[str, tuple[Array, Array]] = {}
    for node in reversed(graph.node):
        moved = node.output[0].removesuffix(MOVED)
        if (node.op_type in MOVES or moved != node.output[0]) and moved in found:
            found[node.input[0]] = found[moved]
        elif node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            found[node.input[0]] = (constants[node.input[1]], constants[node.input[2]])
        elif node.op_type == "Cast" and (view := node.output[0].removesuffix("/whole")).endswith(SOURCE):
            found[node.input[0]] = (constants[f"{view}/scale"], constants[f"{view}/zero"])
    return found


def _real(value: Array, scale: Array, zero_point: Array) -> Array:
    return (value.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
