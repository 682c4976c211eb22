"""What can be read off a file that another tool made."""

from __future__ import annotations

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
INT8_SHARE = 0.5
"""A file is called int8 when at least this share of its weight numbers are 8-bit integers."""


def precision_of(path: Path) -> Precision:
    """Whether most weights of an ``.onnx`` or ``.tflite`` file are 8-bit integers (then int8) or not (then fp32)."""
    narrow, total = (_onnx_weights if path.suffix.lower() == ".onnx" else _tflite_weights)(path)
    return Precision.INT8 if total and narrow / total >= INT8_SHARE else Precision.FP32


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


def _onnx_weights(path: Path) -> tuple[int, int]:
    """How many numbers the initializers hold in 8 bits, and in all."""
    import onnx

    found = [(each.data_type, int(np.prod(each.dims))) for each in onnx.load(path).graph.initializer]
    narrow = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return sum(count for kind, count in found if kind in narrow), sum(count for _, count in found)


def _tflite_weights(path: Path) -> tuple[int, int]:
    """How many numbers the constant tensors hold in 8 bits, and in all."""
    from edgecnn.export.tflite_builder import schema, unpack

    model = unpack(path.read_bytes())
    narrow = (schema().TensorType.INT8, schema().TensorType.UINT8)
    found = [
        (tensor.type, int(np.prod(tensor.shape)))
        for tensor in model.subgraphs[0].tensors
        if model.buffers[tensor.buffer].data is not None
    ]
    return sum(count for kind, count in found if kind in narrow), sum(count for _, count in found)
