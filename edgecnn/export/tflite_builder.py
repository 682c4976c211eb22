"""A TFLite flatbuffer, put together tensor by tensor and operator by operator.

The schema's Python classes come with ai-edge-litert; nothing else of it is used for writing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np

from edgecnn.catalog import require
from edgecnn.errors import UsageError
from edgecnn.graph.ir import Array
from edgecnn.graph.weights import pack_int4

IDENTIFIER = b"TFL3"
META_ENTRY = "edgecnn"  # metadata: what the caller says about the file, one JSON object of strings
BUFFER_ALIGNMENT = 16  # what the schema demands of constant data; kernels read it in place

_TYPE_CODES = {
    "float32": "FLOAT32",
    "float16": "FLOAT16",
    "uint8": "UINT8",
    "int8": "INT8",
    "int4": "INT4",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
}
_LAST_OLD_OPERATOR = 127  # codes beyond this do not fit the schema's first, one-byte field


def schema() -> Any:
    """The generated schema module (untyped). Raises ``MissingPackageError``."""
    return require("ai_edge_litert.schema_py_generated", extra="litert")


@dataclass(frozen=True)
class Quantization:
    """How a tensor's integers are read: ``scale * (q - zero_point)``, per tensor, or per slice of ``axis``."""

    scale: Array
    zero_point: Array
    axis: int = 0


@dataclass
class TFLiteBuilder:
    """Collects tensors and operators of one subgraph; ``finish`` gives the file's bytes."""

    tensors: list[Any] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)  # of the tensors
    operators: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=lambda: [schema().BufferT()])  # number 0 is the empty one
    codes: dict[tuple[str, int], int] = field(default_factory=dict)
    schema: Any = field(default_factory=schema)

    def activation(
        self, name: str, shape: tuple[int, ...], dtype: str, quantization: Quantization | None = None
    ) -> int:
        """A tensor that an operator computes; ``shape`` without the batch, which stays dynamic. Returns its index."""
        return self._tensor(name, [1, *shape], dtype, quantization, buffer=0, signature=[-1, *shape])

    def constant(self, name: str, value: Array, quantization: Quantization | None = None) -> int:
        """A tensor whose value is in the file. Returns its index."""
        buffer = self._buffer(np.asarray(value, order="C").reshape(-1).view(np.uint8))
        return self._tensor(name, list(value.shape), value.dtype.name, quantization, buffer=buffer)

    def constant_int4(self, name: str, value: Array, quantization: Quantization | None = None) -> int:
        """A constant of integers in [-8, 7], two to a byte in the file. Returns its index."""
        return self._tensor(name, list(value.shape), "int4", quantization, buffer=self._buffer(pack_int4(value)))

    def computed(self, name: str, shape: tuple[int, ...]) -> int:
        """A float32 tensor that is computed from constants alone, so without a batch. Returns its index."""
        return self._tensor(name, list(shape), "float32", None, buffer=0)

    def operator(
        self,
        kind: str,
        inputs: list[int],
        output: int,
        options: dict[str, Any] | None = None,
        *,
        table: str = "",
        version: int = 1,
    ) -> int:
        """An operator ``kind`` (the schema's word); ``table`` names its options table. Returns ``output``."""
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self.codes.setdefault((kind, version), len(self.codes))
        operator.inputs, operator.outputs = inputs, [output]
        if table:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, table)
            operator.builtinOptions = getattr(self.schema, f"{table}T")()
            for key, value in (options or {}).items():
                setattr(operator.builtinOptions, key, value)
        self.operators.append(operator)
        return output

    def finish(self, inputs: dict[str, int], outputs: dict[str, int], meta: dict[str, bytes]) -> bytes:
        """The file: ``inputs`` and ``outputs`` by their name in the signature, ``meta`` as named metadata buffers."""
        model = self.schema.ModelT()
        model.version, model.description = 3, "edgecnn"
        subgraph = self.schema.SubGraphT()
        subgraph.name, subgraph.tensors, subgraph.operators = "main", self.tensors, self.operators
        subgraph.inputs, subgraph.outputs = list(inputs.values()), list(outputs.values())
        model.subgraphs = [subgraph]
        model.operatorCodes = [self._code(kind, version) for kind, version in self.codes]
        model.metadata = [self._metadata(name, content) for name, content in meta.items()]
        model.signatureDefs = [self._signature(inputs, outputs)]
        model.buffers = self.buffers
        return pack(model)

    def _tensor(
        self,
        name: str,
        shape: list[int],
        dtype: str,
        quantization: Quantization | None,
        *,
        buffer: int,
        signature: Any = None,
    ) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.buffer, tensor.hasRank = name, buffer, True
        tensor.type = getattr(self.schema.TensorType, _TYPE_CODES[dtype])
        tensor.shape = np.array(shape, np.int32)
        tensor.shapeSignature = None if signature is None else np.array(signature, np.int32)
        if quantization is not None:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale = np.asarray(quantization.scale, np.float32).reshape(-1)
            tensor.quantization.zeroPoint = np.asarray(quantization.zero_point, np.int64).reshape(-1)
            tensor.quantization.quantizedDimension = quantization.axis
        self.tensors.append(tensor)
        self.dtypes.append(dtype)
        return len(self.tensors) - 1

    def _buffer(self, content: Array) -> int:
        buffer = self.schema.BufferT()
        buffer.data = content
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def _code(self, kind: str, version: int) -> Any:
        code = self.schema.OperatorCodeT()
        code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, _LAST_OLD_OPERATOR)
        code.version = version
        return code

    def _metadata(self, name: str, content: bytes) -> Any:
        entry = self.schema.MetadataT()
        entry.name, entry.buffer = name, self._buffer(np.frombuffer(content, np.uint8))
        return entry

    def _signature(self, inputs: dict[str, int], outputs: dict[str, int]) -> Any:
        signature = self.schema.SignatureDefT()
        signature.signatureKey = "serving_default"
        signature.inputs = [self._named(name, index) for name, index in inputs.items()]
        signature.outputs = [self._named(name, index) for name, index in outputs.items()]
        return signature

    def _named(self, name: str, index: int) -> Any:
        entry = self.schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        return entry


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    """Writes equal vectors once, and byte vectors on 16-byte boundaries.

    A flatbuffer may refer to one vector from many places. Each channel's zero point, which is 0, takes 8 bytes beside a
    weight and 8 beside a bias: more than half of what a small network's numbers cost. And the stock builder aligns by
    element, so that weights could start anywhere.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: Array) -> int:
        key = x.dtype.str, x.tobytes()
        if key not in self._written:
            self._written[key] = self._bytes(x) if x.dtype == np.uint8 else int(super().CreateNumpyVector(x))
        return self._written[key]

    def _bytes(self, x: Array) -> int:
        self.head: int
        self.StartVector(1, x.size, BUFFER_ALIGNMENT)
        self.head = self.head - x.size
        self.Bytes[self.head : self.head + x.size] = x.tobytes()
        return int(self.EndVector())


def pack(model: Any) -> bytes:
    """The bytes of a schema ``ModelT``."""
    builder = _Builder(sum(0 if b.data is None else len(b.data) for b in model.buffers) + 65536)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def unpack(content: bytes) -> Any:
    """The schema ``ModelT`` in a file's bytes. Raises ``UsageError`` when they are no TFLite file or damaged."""
    try:
        if content[4:8] != IDENTIFIER:
            raise ValueError(f"it does not say {IDENTIFIER.decode()}")
        return schema().ModelT.InitFromPackedBuf(content, 0)
    except (struct.error, ValueError, TypeError, IndexError) as error:
        raise UsageError(f"this is not a TFLite file: {error}", hint="export it, or download it, again") from error


def metadata(model: Any, name: str) -> bytes | None:
    """The content of a model's metadata entry, ``None`` if it has none of that name."""
    for entry in model.metadata or []:
        if entry.name == name.encode():
            return bytes(model.buffers[entry.buffer].data)
    return None
