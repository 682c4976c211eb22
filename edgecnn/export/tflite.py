"""TFLite, written straight from the graph: float32, or with the graph's own numbers.

Input ``image`` uint8 (batch, H, W, C), output ``logits`` float32 (batch, classes). The batch is dynamic: the shapes
say 1, the shape signature says -1, and ``resize_tensor_input`` takes any. :mod:`edgecnn.export.tflite_ops` explains
the int8 choices.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgecnn.bundle import write_atomically
from edgecnn.errors import ModelError
from edgecnn.export.borders import with_borders
from edgecnn.export.columns import group_columns
from edgecnn.export.lowering import graph_name, lower
from edgecnn.export.tflite_builder import META_ENTRY
from edgecnn.export.tflite_emit import EMITTERS
from edgecnn.export.tflite_ops import TFLiteWriter
from edgecnn.export.tflite_trace import TRACE_ENTRY, trace
from edgecnn.graph.ir import Graph

__all__ = ["build", "render", "trace"]


def render(graph: Graph, path: Path, *, meta: dict[str, str]) -> None:
    """Write ``graph`` to ``path`` as TFLite; ``meta`` goes into its metadata.

    Raises ``ModelError`` when the graph holds something that has no counterpart (groups of 4-bit weights with scales of
    their own are that), ``MissingPackageError`` without
    ai-edge-litert.
    """
    write_atomically(path, build(graph, meta=meta))


def build(graph: Graph, *, meta: dict[str, str]) -> bytes:
    """The same as :func:`render`, as the file's bytes."""
    grouped = [name for name, scale in graph.weight_scales.items() if scale.ndim == 2 and scale.shape[1] > 1]
    if grouped:
        raise ModelError(
            f"'{grouped[0]}' has {graph.weight_scales[grouped[0]].shape[1]} scales per output channel; TFLite has one",
            hint="quantize it with weight_group=0",
        )
    graph = group_columns(with_borders(lower(graph)))
    writer = TFLiteWriter(graph)
    for node in graph.nodes:
        EMITTERS[node.op](writer, node)
    output = writer.true(graph.output)
    if graph.output in graph.qparams:
        logits = writer.builder.activation("logits", graph.node(graph.output).shape, "float32")
        output = writer.operator("DEQUANTIZE", [output], logits, table="DequantizeOptions")
    else:
        writer.builder.tensors[output].name = "logits"
    notes = {"output": graph_name(graph.output), "ratio": writer.ratio, "flattened": writer.flattened}
    content = {META_ENTRY: json.dumps(meta).encode(), TRACE_ENTRY: json.dumps(notes).encode()}
    return writer.builder.finish({"image": writer.index["image"]}, {"logits": output}, content)
