"""TFLite, written straight from the graph: float32, or with the graph's own numbers.

Input ``image`` uint8 (batch, H, W, C), output ``logits`` float32 (batch, classes), or what ``io`` says. The batch is
dynamic: the shapes say 1, the shape signature says -1, and ``resize_tensor_input`` takes any.
:mod:`edgecnn.export.tflite_ops` explains the int8 choices.
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
from edgecnn.export.tflite_emit import EMITTERS, emit_logits
from edgecnn.export.tflite_ops import TFLiteWriter
from edgecnn.export.tflite_trace import TRACE_ENTRY, trace
from edgecnn.graph.ir import Graph
from edgecnn.spec import IO

__all__ = ["build", "render", "trace"]


def render(graph: Graph, path: Path, *, meta: dict[str, str], io: IO = IO.PICTURE) -> None:
    """Write ``graph`` to ``path`` as TFLite; ``meta`` goes into its metadata.

    Raises ``ModelError`` when the graph holds something that has no counterpart (groups of 4-bit weights with scales of
    their own are that), ``MissingPackageError`` without
    ai-edge-litert.
    """
    write_atomically(path, build(graph, meta=meta, io=io))


def build(graph: Graph, *, meta: dict[str, str], io: IO = IO.PICTURE) -> bytes:
    """The same as :func:`render`, as the file's bytes."""
    grouped = [name for name, scale in graph.weight_scales.items() if scale.ndim == 2 and scale.shape[1] > 1]
    if grouped:
        raise ModelError(
            f"'{grouped[0]}' has {graph.weight_scales[grouped[0]].shape[1]} scales per output channel; TFLite has one",
            hint="quantize it with weight_group=0",
        )
    if io is not IO.PICTURE and not _ends_in_int8(graph):
        raise ModelError(
            f"the graph does not end in 8-bit integers, and {io} was asked for", hint="quantize it to int8"
        )
    graph = group_columns(with_borders(lower(graph)))
    writer = TFLiteWriter(graph, io)
    for node in graph.nodes:
        EMITTERS[node.op](writer, node)
    output = emit_logits(writer, writer.true(graph.output))
    notes = {"output": graph_name(graph.output), "ratio": writer.ratio, "flattened": writer.flattened}
    content = {META_ENTRY: json.dumps(meta).encode(), TRACE_ENTRY: json.dumps(notes).encode()}
    return writer.builder.finish({"image": writer.index["image"]}, {"logits": output}, content)


def _ends_in_int8(graph: Graph) -> bool:
    numbers = graph.qparams.get(graph.output)
    return numbers is not None and numbers.bits == 8
