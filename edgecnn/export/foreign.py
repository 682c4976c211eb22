"""What can be read off a file that another tool made."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.spec import Precision

SIGMOIDS = ("Sigmoid", "LOGISTIC")
PASSING = (
    *("Identity", "Reshape", "Squeeze", "Flatten", "Cast", "QuantizeLinear", "DequantizeLinear"),
    *("RESHAPE", "SQUEEZE", "CAST", "QUANTIZE", "DEQUANTIZE"),
)
"""Operators after which a number still means what it did before."""
ROUNDERS = ("QuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm")
"""Operators of an ONNX file whose activations are integers."""


def precision_of(path: Path) -> Precision:
    """What most of an ``.onnx`` or ``.tflite`` file's weight numbers are.

    With 8 bits: int8 where activations are integers too, int8-dynamic where they become so while it runs, else
    int8-weights.
    """
    bits, activations = (_onnx_weights if path.suffix.lower() == ".onnx" else _tflite_weights)(path)
    width = max(bits, key=lambda each: bits[each], default="32")
    return (
        activations if width == "8" else {"4": Precision.INT4_WEIGHTS, "16": Precision.FP16}.get(width, Precision.FP32)
    )


def ends_in_sigmoid(path: Path) -> bool:
    """Whether an ``.onnx`` or ``.tflite`` file's first output comes out of a sigmoid: probabilities, not logits."""
    makers, name = (_onnx_makers if path.suffix.lower() == ".onnx" else _tflite_makers)(path)
    while name in makers:
        kind, name = makers[name]
        if kind not in PASSING:
            return kind in SIGMOIDS
    return False


def _onnx_makers(path: Path) -> tuple[dict[Any, tuple[str, Any]], Any]:
    """Tensor -> the operator that makes it and that one's first input; and the first output."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    makers = {output: (node.op_type, node.input[0]) for node in graph.node if node.input for output in node.output}
    return makers, graph.output[0].name


def _tflite_makers(path: Path) -> tuple[dict[Any, tuple[str, Any]], Any]:
    """The same of a TFLite file, whose tensors have numbers."""
    from edgecnn.export.tflite_builder import schema, unpack

    words = {value: name for name, value in vars(schema().BuiltinOperator).items() if isinstance(value, int)}
    model = unpack(path.read_bytes())
    kinds = [words[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    graph = model.subgraphs[0]
    makers = {
        int(output): (kinds[operator.opcodeIndex], int(operator.inputs[0]))
        for operator in graph.operators
        for output in operator.outputs
    }
    return makers, int(graph.outputs[0])


def _onnx_weights(path: Path) -> tuple[Counter[str], Precision]:
    """How many numbers the initializers hold by their bits, and what 8-bit ones of them make of the file."""
    import onnx

    kinds = onnx.TensorProto
    widths = {kinds.INT4: "4", kinds.UINT4: "4", kinds.INT8: "8", kinds.UINT8: "8", kinds.FLOAT16: "16"}
    graph, found = onnx.load(path).graph, Counter[str]()
    for each in graph.initializer:
        found[widths.get(each.data_type, "32")] += int(np.prod(each.dims))
    operators = {node.op_type for node in graph.node}
    if operators & set(ROUNDERS):
        return found, Precision.INT8
    dynamic = "DynamicQuantizeLinear" in operators
    return found, Precision.INT8_DYNAMIC if dynamic else Precision.INT8_WEIGHTS


def _tflite_weights(path: Path) -> tuple[Counter[str], Precision]:
    """The same of a TFLite file's constant tensors; hybrid kernels read int8 weights without a DEQUANTIZE."""
    from edgecnn.export.tflite_builder import schema, unpack

    model, types = unpack(path.read_bytes()), schema().TensorType
    widths = {types.INT4: "4", types.INT8: "8", types.UINT8: "8", types.FLOAT16: "16"}
    graph, found = model.subgraphs[0], Counter[str]()
    constant = [model.buffers[tensor.buffer].data is not None for tensor in graph.tensors]
    for tensor in itertools.compress(graph.tensors, constant):
        found[widths.get(tensor.type, "32")] += int(np.prod(tensor.shape))
    computed = {int(index) for operator in graph.operators for index in operator.outputs}
    if any(graph.tensors[index].type in (types.INT8, types.UINT8) for index in computed):
        return found, Precision.INT8
    kinds = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    dequantize = schema().BuiltinOperator.DEQUANTIZE
    opened = [each for each in graph.operators if kinds[each.opcodeIndex] == dequantize and constant[each.inputs[0]]]
    return found, Precision.INT8_WEIGHTS if opened else Precision.INT8_DYNAMIC
