"""ONNX, written straight from the graph: float32, or int8 as quantize-dequantize (QDQ) pairs that runtimes fuse.

Weights that are stored in fewer bits and computed in float32 are constants of int8, INT4 (opset 21) or float16 behind a
Cast and a Mul. ONNX Runtime folds these when it loads the file, so that it runs as a float32 file does. Behind a
DequantizeLinear, which it does not fold, weights are made real again at every call and convolutions lose their fast
layout: a stack of MobileNetV2 blocks took 34 ms so, 8 ms with Cast and Mul, 10 ms in float32; 4-bit weights behind a
blocked DequantizeLinear 16 ms.

Choices, each because ONNX Runtime's CPU kernels want it so (the result is valid ONNX for every other runtime):

* Activations are **uint8** (the graph's int8 plus 128), weights int8 per output channel, biases int32 dequantized at
  ``input_scale * weight_scale``: the one combination that becomes QLinearConv with fast kernels on x86 and arm64.
  On x86 **without VNNI** those kernels saturate pairs of products at 16 bits (``vpmaddubsw``). That is no detail:
  EfficientNet-Lite0 then agrees with its own int8 simulation on 84 % of 64 photos, and on 100 %, to the last bit, with
  the session option ``session.x64quantprecision`` = "1", which costs 1.25 to 1.4 times the time there. Weights written
  as uint8 would be exact everywhere without the option, and as slow; but CPUs with VNNI or AMX have their fast kernels
  for int8 weights only. So the file has int8 weights, and who runs it sets the option where VNNI is missing.
* A clamp that the output's quantized range already implies is not written; one that it does not imply follows the
  QuantizeLinear as an integer Clip, where it does not keep the convolution from fusing.
* Where a node computes in float, its operator stands between what its inputs and its output are: a tensor with numbers
  is dequantized and quantized, one without is plain float. 16-bit tensors are int16, which opset 21 has; ONNX Runtime's
  CPU kernels compute what lies between them in float32.
* The first convolution reads several columns of padded pixels at once: :mod:`edgecnn.export.columns`,
  :mod:`edgecnn.export.onnx_picture`.
* ``factor * x + offset`` becomes one quantized addition: ``x + offset / factor`` is quantized at ``scale / factor`` and
  dequantized at ``scale``. Hard-swish then runs as an integer addition and an integer multiplication.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from edgecnn.bundle import write_atomically
from edgecnn.errors import ModelError
from edgecnn.export.columns import group_columns
from edgecnn.export.lowering import lower
from edgecnn.export.onnx_emit import EMITTERS
from edgecnn.export.onnx_ops import ONNXWriter
from edgecnn.export.onnx_picture import pad_picture
from edgecnn.export.onnx_trace import trace
from edgecnn.graph.ir import Graph
from edgecnn.graph.weights import is_int4

__all__ = ["build", "render", "trace"]

META_PREFIX = "edgecnn."  # of metadata keys: other tools write into the same table
OPSET = 17
IR_VERSION = 8  # what opset 17 came with: readable by ONNX Runtime 1.12 and later
OPSET_21 = 21, 10  # and its file version: they brought 4-bit integers and int16 numbers; ONNX Runtime 1.20 and later


def render(graph: Graph, path: Path, *, meta: dict[str, str]) -> None:
    """Write ``graph`` to ``path`` as ONNX.

    Input ``image`` uint8 (batch, H, W, C), output ``logits`` float32 (batch, classes); intermediate tensors are NCHW
    and carry the graph's names (in an int8 file: the uint8 tensors). ``meta`` goes into the model's metadata. Raises
    ``ModelError`` when the graph holds something that has no ONNX counterpart.
    """
    write_atomically(path, build(graph, meta=meta).SerializeToString())


def build(graph: Graph, *, meta: dict[str, str]) -> onnx.ModelProto:
    """The same as :func:`render`, as a checked model in memory."""
    if any(node.attrs.get("dynamic") for node in graph.nodes):
        raise ModelError(
            "the network's activations are quantized while it runs, picture by picture; ONNX's DynamicQuantizeLinear "
            "takes one range for all pictures of a batch",
            hint="quantize with the scheme int8 or int8-weights, or write TFLite",
        )
    channels, height, width = graph.input.shape
    graph = pad_picture(group_columns(lower(graph)))
    writer = ONNXWriter(graph)
    for node in graph.nodes:
        EMITTERS[node.op](writer, node)
    writer.op("Identity", [writer.real(graph.output)], "logits")
    wide = any(qparams.bits == 16 for qparams in graph.qparams.values())
    newer = wide or any(is_int4(graph, node.name) for node in graph.nodes)
    opset, ir_version = OPSET_21 if newer else (OPSET, IR_VERSION)
    (classes,) = graph.node(graph.output).shape
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            "edgecnn",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", height, width, channels])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
            writer.constants,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir_version,
        producer_name="edgecnn",
    )
    helper.set_model_props(model, {META_PREFIX + key: value for key, value in meta.items()})
    onnx.checker.check_model(model)
    return model
