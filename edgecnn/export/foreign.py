"""What can be read off a file that another tool made."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgecnn.spec import Precision

INT8_SHARE = 0.5
"""A file is called int8 when at least this share of its weight numbers are 8-bit integers."""


def precision_of(path: Path) -> Precision:
    """Whether most weights of an ``.onnx`` or ``.tflite`` file are 8-bit integers (then int8) or not (then fp32)."""
    narrow, total = (_onnx_weights if path.suffix.lower() == ".onnx" else _tflite_weights)(path)
    return Precision.INT8 if total and narrow / total >= INT8_SHARE else Precision.FP32


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
