"""Tiny network files that all compute one known product of the picture, in the layouts and types that engines meet."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.spec import Preprocess

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
onnx = pytest.importorskip("onnx")

SIZE, CLASSES = 4, 5
RNG = np.random.default_rng(0)
WEIGHT = RNG.integers(-20, 21, size=(CLASSES, SIZE, SIZE, 3)).astype(np.int8)
PICTURES = RNG.integers(0, 256, size=(70, SIZE, SIZE, 3)).astype(np.uint8)
PREPROCESS = Preprocess(SIZE, (0.5, 0.25, 0.125), (0.5, 0.25, 1.0))
Pictures = NDArray[np.uint8]


def linear(images: NDArray[Any]) -> NDArray[np.float64]:
    """What every tiny network computes: a product of the picture (N, 4, 4, 3) with WEIGHT."""
    return np.asarray(
        images.reshape(len(images), -1).astype(np.float64) @ WEIGHT.reshape(CLASSES, -1).T.astype(np.float64)
    )


def normalized(images: Pictures) -> NDArray[np.float64]:
    return np.asarray((images / 255.0 - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std))


# --- tiny ONNX files ----------------------------------------------------------------------------------------------


def write_onnx(path: Path, element: int, shape: list[int | str], nodes: list[Any], weights: dict[str, Any]) -> Path:
    values = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info("image", element, shape)],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
        values,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def onnx_pixels(path: Path, element: int, batch: int | str) -> Path:
    """Integer NHWC input: cast, flatten, multiply."""
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["image"], ["real"], to=onnx.TensorProto.FLOAT),
        node("Flatten", ["real"], ["flat"]),
        node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    weight = WEIGHT.reshape(CLASSES, -1).T.astype(np.float32)
    return write_onnx(path, element, [batch, SIZE, SIZE, 3], nodes, {"weight": np.ascontiguousarray(weight)})


def onnx_uint8(path: Path) -> Path:
    return onnx_pixels(path, onnx.TensorProto.UINT8, "batch")


def onnx_uint8_batch4(path: Path) -> Path:
    return onnx_pixels(path, onnx.TensorProto.UINT8, 4)


def onnx_int8(path: Path) -> Path:
    return onnx_pixels(path, onnx.TensorProto.INT8, "batch")


def onnx_float_nchw(path: Path) -> Path:
    """Float NCHW input of batch 1 and an output of shape (1, K, 1, 1), as many zoo files have."""
    weight = np.ascontiguousarray(WEIGHT.transpose(0, 3, 1, 2).astype(np.float32))
    nodes = [onnx.helper.make_node("Conv", ["image", "weight"], ["logits"])]
    return write_onnx(path, onnx.TensorProto.FLOAT, [1, 3, SIZE, SIZE], nodes, {"weight": weight})


def onnx_float16_nhwc(path: Path) -> Path:
    return onnx_pixels(path, onnx.TensorProto.FLOAT16, "batch")


def onnx_saturating(path: Path) -> Path:
    """A quantized 4x4 convolution whose products leave 16 bits: fast kernels without VNNI get it wrong."""
    node, names = onnx.helper.make_node, ("scale", "zero")
    channels = 8  # the picture's three channels spread over eight, so that the dot products are long
    spread = np.zeros((channels, 3, 1, 1), np.float32)
    spread[np.arange(channels), np.arange(channels) % 3] = 1
    nodes = [
        node("Cast", ["image"], ["real"], to=onnx.TensorProto.FLOAT),
        node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "spread"], ["wide"]),
        node("QuantizeLinear", ["wide", *names], ["wide_q"]),
        node("DequantizeLinear", ["wide_q", *names], ["wide_dq"]),
        node("DequantizeLinear", ["weight", "scale", "weight_zero"], ["weight_dq"]),
        node("Conv", ["wide_dq", "weight_dq"], ["sum"]),
        node("QuantizeLinear", ["sum", "out_scale", "zero"], ["sum_q"]),
        node("DequantizeLinear", ["sum_q", "out_scale", "zero"], ["scores"]),
        node("Flatten", ["scores"], ["logits"]),
    ]
    weight = np.full((CLASSES, channels, SIZE, SIZE), 127, np.int8)
    values = {
        "spread": spread,
        "weight": weight,
        "scale": np.float32(1),
        "zero": np.uint8(0),
        "weight_zero": np.int8(0),
        "out_scale": np.float32(127 * channels * SIZE * SIZE),
    }
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return write_onnx(path, onnx.TensorProto.UINT8, ["batch", SIZE, SIZE, 3], nodes, arrays)


# --- tiny TFLite files: one FULLY_CONNECTED on the whole picture ---------------------------------------------------

FLOAT32, UINT8, INT8, INT32 = 0, 3, 9, 2
TFLITE_TYPES = {FLOAT32: np.float32, UINT8: np.uint8, INT8: np.int8, INT32: np.int32}


@dataclass(frozen=True)
class TinyTensor:
    name: str
    shape: tuple[int, ...]
    type: int
    scale: float = 0.0
    zero_point: int = 0
    data: NDArray[Any] | None = None


def write_tflite(path: Path, tensors: list[TinyTensor], operators: list[tuple[int, list[int], list[int]]]) -> Path:
    """``operators``: (builtin code, input indices, output indices). Input is tensor 0, output the last one."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, "tiny"
    model.buffers = [schema.BufferT()]
    graph.tensors = [_tensor(tensor, model.buffers) for tensor in tensors]
    graph.inputs, graph.outputs = [0], [len(tensors) - 1]
    model.operatorCodes, graph.operators = [], []
    for number, (code, inputs, outputs) in enumerate(operators):
        entry, operator = schema.OperatorCodeT(), schema.OperatorT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        entry.version = 4 if code == schema.BuiltinOperator.FULLY_CONNECTED else 1
        operator.opcodeIndex, operator.inputs, operator.outputs = number, inputs, outputs
        if code == schema.BuiltinOperator.FULLY_CONNECTED:
            operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            operator.builtinOptions = schema.FullyConnectedOptionsT()
        model.operatorCodes.append(entry)
        graph.operators.append(operator)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _tensor(tensor: TinyTensor, buffers: list[Any]) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = tensor.name, list(tensor.shape), tensor.type, 0
    if tensor.data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(tensor.data.astype(TFLITE_TYPES[tensor.type]).tobytes(), np.uint8)
        made.buffer = len(buffers)
        buffers.append(buffer)
    if tensor.scale:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [tensor.scale], [tensor.zero_point]
    return made


IMAGE, ROW, MATRIX = (1, SIZE, SIZE, 3), (1, CLASSES), WEIGHT.reshape(CLASSES, -1)


def tflite_float(path: Path) -> Path:
    tensors = [
        TinyTensor("image", IMAGE, FLOAT32),
        TinyTensor("weight", MATRIX.shape, FLOAT32, data=MATRIX),
        TinyTensor("bias", (CLASSES,), FLOAT32, data=np.zeros(CLASSES)),
        TinyTensor("logits", ROW, FLOAT32),
    ]
    return write_tflite(path, tensors, [(schema.BuiltinOperator.FULLY_CONNECTED, [0, 1, 2], [3])])


def int8_tensors(scale: float, zero_point: int, out_scale: float) -> list[TinyTensor]:
    return [
        TinyTensor("image", IMAGE, INT8, scale, zero_point),
        TinyTensor("weight", MATRIX.shape, INT8, 1.0, 0, MATRIX),
        TinyTensor("bias", (CLASSES,), INT32, scale, 0, np.zeros(CLASSES)),
        TinyTensor("logits", ROW, INT8, out_scale, 3),
    ]


def tflite_int8(path: Path) -> Path:
    """Pixels in, int8 logits out, each step of them being 500."""
    return write_tflite(
        path, int8_tensors(1.0, -128, 500.0), [(schema.BuiltinOperator.FULLY_CONNECTED, [0, 1, 2], [3])]
    )


def tflite_int8_normalized(path: Path) -> Path:
    """An int8 input that is not simply pixels: normalization is needed to fill it."""
    return write_tflite(
        path, int8_tensors(1 / 60, -64, 10.0), [(schema.BuiltinOperator.FULLY_CONNECTED, [0, 1, 2], [3])]
    )


def tflite_uint8(path: Path) -> Path:
    """uint8 pixels in and uint8 scores out, as edgecnn's own and Google's published files have."""
    inner = int8_tensors(1.0, -128, 500.0)
    tensors = [
        TinyTensor("pixels", IMAGE, UINT8, 1.0, 0),
        *inner,
        TinyTensor("scores", ROW, UINT8, 500.0, 131),
    ]
    quantize, dense = schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.FULLY_CONNECTED
    return write_tflite(path, tensors, [(quantize, [0], [1]), (dense, [1, 2, 3], [4]), (quantize, [4], [5])])


# --- a tiny ExecuTorch program ------------------------------------------------------------------------------------


def pte_uint8(path: Path) -> Path:
    """uint8 pixels, one picture at a time, without a backend."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exir = pytest.importorskip("executorch.exir")

    class Product(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).float() @ torch.from_numpy(WEIGHT.reshape(CLASSES, -1).T.astype(np.float32))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(Product(), (torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8),))
        path.write_bytes(exir.to_edge_transform_and_lower(exported).to_executorch().buffer)
    return path


# --- the torch runtime reads what its loader reads ----------------------------------------------------------------

LOADER = """
import numpy as np
import torch


def load(path):
    print("this goes to stdout and must not break the frames")
    weight = torch.from_numpy(np.load(path).astype(np.float32))
    return lambda images: (torch.from_numpy(np.array(images)).flatten(1).float() @ weight.T).numpy()
"""


def torch_weights(path: Path) -> Path:
    np.save(path, MATRIX)
    (path.parent / "tiny_loader.py").write_text(LOADER)
    return path


def any_file(path: Path) -> Path:
    path.write_bytes(b"never read")
    return path
