"""Microseconds of every operator that LiteRT runs, those inside XNNPACK included.

LiteRT's Python interface has no profiler; the C interface in the same package has one, called here through ctypes.
Profiling is switched on by the text (TOML) that its options are stored as.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, byref, c_bool, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path

import ai_edge_litert
import numpy as np
from numpy.typing import NDArray

CPU, WRITE, FLOAT32, UINT8 = 1, 1, 1, 3  # values of LiteRT's enumerations
OPERATOR_EVENTS = 2, 8  # run by TensorFlow Lite itself, run inside a delegate
UNNAMED = {"Invalid Unary Op": "Lookup Table"}  # XNNPACK gives its table look-ups no name


class _Layout(Structure):
    _fields_ = (("rank", c_uint32), ("dimensions", c_int32 * 8), ("strides", c_uint32 * 8))


class _TensorType(Structure):
    _fields_ = (("element", c_int), ("layout", _Layout))


class _Event(Structure):
    _fields_ = (
        ("tag", c_char_p),
        ("kind", c_int),
        ("start_us", c_uint64),
        ("elapsed_us", c_uint64),
        ("memory", c_size_t * 6),
        ("metadata", c_uint64 * 2),
        ("source", c_int),
    )


@ctypes.CFUNCTYPE(None, c_void_p)
def _keep(_: int) -> None:
    """LiteRT frees option texts with a function of the caller's; these belong to Python."""


class LiteRTProfiler:
    """One TFLite file (uint8 pictures in, float32 logits out) compiled for one thread of the CPU."""

    def __init__(self, file: Path) -> None:
        self._library = ctypes.CDLL(str(Path(ai_edge_litert.__file__).parent / "libLiteRt.so"))
        environment = self._made("CreateEnvironment", c_int(0), None)
        model = self._made("CreateModelFromFile", environment, c_char_p(str(file).encode()))
        options = self._made("CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, c_int(CPU))
        texts = {b"runtime_options_string": b"enable_profiling = true\n", b"xnnpack": b"num_threads = 1\n"}
        self._texts = [ctypes.create_string_buffer(text) for text in texts.values()]
        for name, text in zip(texts, self._texts, strict=True):
            self._call("AddOpaqueOptions", options, self._made("CreateOpaqueOptions", c_char_p(name), text, _keep))
        self._model = self._made("CreateCompiledModel", environment, model, options)
        self._profiler = self._made("CompiledModelGetProfiler", self._model)
        first = (self._model, c_size_t(0), c_size_t(0))
        layouts = _Layout(), _Layout()
        self._call("GetCompiledModelInputTensorLayout", *first, byref(layouts[0]))
        self._call("GetCompiledModelOutputTensorLayouts", *first[:2], c_size_t(1), byref(layouts[1]), c_bool(False))
        self._buffers = [
            self._made(
                "CreateManagedTensorBufferFromRequirements",
                environment,
                byref(_TensorType(element, layout)),
                self._made(f"GetCompiledModel{side}BufferRequirements", *first),
            )
            for side, element, layout in zip(("Input", "Output"), (UINT8, FLOAT32), layouts, strict=True)
        ]

    def run(self, image: NDArray[np.uint8]) -> list[tuple[str, float]]:
        """Operators of one call on a picture (1, H, W, C) in the order they ran, each with its microseconds."""
        source, target = self._buffers
        place = ctypes.POINTER(ctypes.c_uint8)()
        self._call("LockTensorBuffer", source, byref(place), c_int(WRITE))
        ctypes.memmove(place, image.ctypes.data, image.nbytes)
        self._call("UnlockTensorBuffer", source)
        self._call("ResetProfiler", self._profiler)
        self._call("StartProfiler", self._profiler)
        one = c_size_t(1)
        sides = (c_void_p * 1)(source.value), (c_void_p * 1)(target.value)
        self._call("RunCompiledModel", self._model, c_size_t(0), one, sides[0], one, sides[1])
        self._call("StopProfiler", self._profiler)
        count = c_int()
        self._call("GetNumProfilerEvents", self._profiler, byref(count))
        events = (_Event * count.value)()
        self._call("GetProfilerEvents", self._profiler, count, events)
        tags = ((event.tag.decode(), event.elapsed_us) for event in events if event.kind in OPERATOR_EVENTS)
        return [(UNNAMED.get(tag, tag), float(elapsed)) for tag, elapsed in tags]

    def _made(self, name: str, *arguments: object) -> c_void_p:
        """Call a function whose last parameter says where its result goes."""
        result = c_void_p()
        self._call(name, *arguments, byref(result))
        return result

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, f"LiteRt{name}")(*arguments)
        if status:
            raise RuntimeError(f"LiteRt{name} returned status {status}")
