"""Every intermediate tensor of a TFLite file, as LiteRT computes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.catalog import require
from edgecnn.errors import UsageError
from edgecnn.export.columns import ungrouped
from edgecnn.export.lowering import GROUPED, graph_name
from edgecnn.export.tflite_builder import metadata, pack, unpack
from edgecnn.graph.ir import Array

TRACE_ENTRY = "edgecnn.trace"  # metadata: what :func:`trace` must know beyond the tensors' names


def trace(path: Path, images: NDArray[np.uint8]) -> dict[str, Array]:
    """Run images (N, H, W, C) uint8 through a file that :func:`edgecnn.export.tflite.render` wrote.

    Returns, by the graph's tensor names, real values float32 (N, C, H, W) or (N, C). All tensors are made outputs of
    the file in memory, so they are what the default delegate (XNNPACK) computes, not what the reference kernels would.
    Raises ``UsageError`` for files of other tools.
    """
    module: Any = require("ai_edge_litert.interpreter", extra="litert")
    model = unpack(path.read_bytes())
    entry = metadata(model, TRACE_ENTRY)
    if entry is None:
        raise UsageError(f"{path.name} was not written by edgecnn", hint="only exported bundles can be traced by layer")
    notes: dict[str, Any] = json.loads(entry)
    names = _make_outputs(model, notes["output"])
    interpreter = module.Interpreter(model_content=pack(model), num_threads=1)
    source = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(source["index"], images.shape)
    interpreter.allocate_tensors()
    taken = images if source["dtype"] is np.uint8 else (images ^ 0x80).view(np.int8)
    interpreter.set_tensor(source["index"], taken)
    interpreter.invoke()
    details = {detail["index"]: detail for detail in interpreter.get_output_details()}
    return {
        name: _as_in_graph(name, details[index]["name"], _real(interpreter.get_tensor(index), details[index]), notes)
        for index, name in names.items()
    }


def _make_outputs(model: Any, output: str) -> dict[int, str]:
    """Make all tensors that the graph names outputs of the file; returns their names."""
    subgraph = model.subgraphs[0]
    names: dict[int, str] = {}
    for operator in subgraph.operators:
        index = int(operator.outputs[0])
        tensor = subgraph.tensors[index].name.decode()
        name = output if index in subgraph.outputs and output not in names.values() else graph_name(tensor)
        if name is not None and name not in names.values():
            names[index] = name
    subgraph.outputs = list(names)
    model.signatureDefs = None
    return names


def _real(value: Array, detail: dict[str, Any]) -> Array:
    if value.dtype == np.float32:
        return value
    scale, zero_point = detail["quantization"]
    return (value.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _as_in_graph(name: str, tensor: str, value: Array, notes: dict[str, Any]) -> Array:
    """Undo the writer's ratios, groups of columns and (H, W, C) order of flattened pictures; pictures become channels
    first. ``tensor`` is the name in the file.
    """
    value = value / np.float32(notes["ratio"].get(tensor if GROUPED in tensor else name, 1.0))
    if name in notes["flattened"]:
        channels, height, width = notes["flattened"][name]
        planes = value.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(planes).reshape(len(value), -1)
    return np.ascontiguousarray(ungrouped(tensor, value).transpose(0, 3, 1, 2)) if value.ndim == 4 else value
