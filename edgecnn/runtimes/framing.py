"""The wire format between a session and its worker: one frame is a JSON header and some raw arrays.

::

    "ECNN" | header length, uint32 little-endian | header, UTF-8 JSON | array bytes, one after the other, C order

The header's ``arrays`` lists name, dtype and shape of what follows. Only plain number types travel, nothing is pickled.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MAGIC = b"ECNN"
PREFIX = struct.Struct("<4sI")
MAX_HEADER_BYTES = 16 * 2**20
DTYPES = ("uint8", "int8", "int32", "int64", "float32", "float64")


class FramingError(Exception):
    """The stream holds something else than frames, or ends in the middle of one."""


@dataclass(frozen=True)
class Frame:
    """One message: plain values in ``header``, numbers in ``arrays``."""

    header: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


def write_frame(stream: BinaryIO, frame: Frame) -> None:
    """Send one frame and flush. Raises ``FramingError`` for an array type that does not travel."""
    arrays = {name: np.ascontiguousarray(array) for name, array in frame.arrays.items()}
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise FramingError(f"array {name!r} is {array.dtype.name}; only {', '.join(DTYPES)} travel")
    listed = [
        {"name": name, "dtype": array.dtype.name, "shape": list(frame.arrays[name].shape)}
        for name, array in arrays.items()
    ]
    header = json.dumps({**frame.header, "arrays": listed}).encode()
    stream.write(PREFIX.pack(MAGIC, len(header)))
    stream.write(header)
    for array in arrays.values():
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def read_frame(stream: BinaryIO) -> Frame | None:
    """The next frame, or ``None`` when the other side closed the stream between frames.

    Raises ``FramingError`` when the bytes are not a frame or stop half-way.
    """
    first = stream.read(1)
    if not first:
        return None
    magic, length = PREFIX.unpack(first + _exactly(stream, PREFIX.size - 1))
    if magic != MAGIC or length > MAX_HEADER_BYTES:
        raise FramingError(f"expected a frame, got {magic!r}: something else is writing to this stream")
    header = json.loads(_exactly(stream, length))
    return Frame(header, {entry["name"]: _read_array(stream, entry) for entry in header.pop("arrays")})


def _read_array(stream: BinaryIO, entry: Mapping[str, Any]) -> NDArray[Any]:
    if entry["dtype"] not in DTYPES:
        raise FramingError(f"array type {entry['dtype']!r} is not one of {', '.join(DTYPES)}")
    dtype = np.dtype(entry["dtype"])
    data = _exactly(stream, math.prod(entry["shape"]) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(entry["shape"])


def _exactly(stream: BinaryIO, count: int) -> bytearray:
    """``count`` bytes; a pipe may give them in several pieces."""
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        piece = stream.read(min(count - done, 2**20))
        if not piece:
            raise FramingError(f"the stream ended after {done} of {count} bytes")
        view[done : done + len(piece)] = piece
        done += len(piece)
    return data
