"""Microseconds of every operator that LiteRT runs, those inside XNNPACK included.

The Python interface has no profiler; the C interface in the same package has one (``LiteRtCompiledModelGetProfiler``),
called here through ctypes. Profiling is asked for in the one form that the library's settings have: a text of TOML.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from pathlib import Path

import ai_edge_litert
import numpy as np
from numpy.typing import NDArray

CPU = 1  # kLiteRtHwAcceleratorCpu
WRITE = 1  # kLiteRtTensorBufferLockModeWrite
UINT8 = 3  # kLiteRtElementTypeUInt8, as in TfLiteType
OPERATORS = (2, 8)  # events of operators: run by TFLite itself, run inside a delegate
EVENTS = 4096  # how many the profiler keeps of one call


class _Layout(Structure):
    _fields_ = [("rank", ctypes.c_uint), ("dimensions", ctypes.c_int32 * 8), ("strides", ctypes.c_uint32 * 8)]


class _TensorType(Structure):
    _fields_ = [("element", c_int), ("layout", _Layout)]


class _Event(Structure):
    _fields_ = [
        ("tag", c_char_p),
        ("kind", c_int),
        ("start_us", c_uint64),
        ("elapsed_us", c_uint64),
        ("memory", c_size_t * 6),
        ("first", c_uint64),
        ("second", c_uint64),
        ("source", c_int),
    ]


class LiteRTProfiler:
    """One TFLite file with one uint8 input, compiled for one thread of the CPU."""

    def __init__(self, file: Path) -> None:
        folder = Path(ai_edge_litert.__file__).parent
        self._library = ctypes.CDLL(str(folder / "libLiteRt.so"))
        environment = self._made("CreateEnvironment", c_int(0), None)
        model = self._made("CreateModelFromFile", environment, c_char_p(str(file).encode()))
        options = self._made("CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, c_int(CPU))
        self._texts = [
            ctypes.create_string_buffer(text) for text in (b"enable_profiling = true\n", b"num_threads = 1\n")
        ]
        for name, text in zip((b"runtime_options_string", b"xnnpack"), self._texts, strict=True):
            self._call("AddOpaqueOptions", options, self._made("CreateOpaqueOptions", c_char_p(name), text, _KEEP))
        self._model = self._made("CreateCompiledModel", environment, model, options)
        self._profiler = self._made("CompiledModelGetProfiler", self._model)
        self._buffers = [self._buffer(environment, side) for side in ("Input", "Output")]

    def run(self, image: NDArray[np.uint8]) -> list[tuple[str, float]]:
        """Operators of one call in the order they ran, each with its microseconds."""
        source, target = self._buffers
        place = c_void_p()
        self._call("LockTensorBuffer", source, byref(place), c_int(WRITE))
        assert place.value is not None
        ctypes.memmove(place.value, image.ctypes.data, image.nbytes)
        self._call("UnlockTensorBuffer", source)
        self._call("ResetProfiler", self._profiler)
        self._call("StartProfiler", self._profiler)
        one = c_void_p * 1
        self._call("RunCompiledModel", self._model, c_size_t(0), c_size_t(1), one(source), c_size_t(1), one(target))
        self._call("StopProfiler", self._profiler)
        count = c_int()
        self._call("GetNumProfilerEvents", self._profiler, byref(count))
        events = (_Event * count.value)()
        self._call("GetProfilerEvents", self._profiler, count, events)
        return [(event.tag.decode(), event.elapsed_us, event.kind, event.source) for event in events]

    def _buffer(self, environment: c_void_p, side: str) -> c_void_p:
        wanted = self._made(f"GetCompiledModel{side}BufferRequirements", self._model, c_size_t(0), c_size_t(0))
        kind = _TensorType(UINT8 if side == "Input" else 1)
        if side == "Input":
            self._call("GetCompiledModelInputTensorLayout", self._model, c_size_t(0), c_size_t(0), byref(kind.layout))
        else:
            self._call(
                "GetCompiledModelOutputTensorLayouts",
                self._model,
                c_size_t(0),
                c_size_t(1),
                byref(kind.layout),
                ctypes.c_bool(False),
            )
        return self._made("CreateManagedTensorBufferFromRequirements", environment, byref(kind), wanted)

    def _made(self, name: str, *arguments: object) -> c_void_p:
        """Call a function whose last parameter is where its result goes."""
        result = c_void_p()
        self._call(name, *arguments, byref(result))
        return result

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, f"LiteRt{name}")(*arguments)
        if status:
            raise RuntimeError(f"LiteRt{name} returned status {status}")


_KEEP = ctypes.CFUNCTYPE(None, c_void_p)(lambda _: None)  # the texts belong to Python
