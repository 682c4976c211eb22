"""TensorFlow Lite for Microcontrollers, in the Python package ``tflite-micro``: are the numbers right?

Its reference kernels requantize in fixed point where the specification (:mod:`edgecnn.graph.integer`) uses float32:
logits differ by one step on a ResNet-8, by up to three in small graphs of single operators. They are also slow here and
say nothing about the speed of a microcontroller, whose library brings kernels of its own: this engine gives logits, and
the benchmark measures no latency with it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.catalog import require
from edgecnn.errors import RuntimeFailure
from edgecnn.runtimes.ports import (
    InputPort,
    Logits,
    Normalization,
    OutputPort,
    Pictures,
    decode,
    encode,
    in_batches,
    input_port,
)

ARENA_BYTES = 256 * 2**20  # far more than a microcontroller has: what is asked here is whether the numbers are right


class Engine:
    """One TFLite file in one interpreter, a picture at a time on one thread (there are no others)."""

    input: InputPort
    output: OutputPort

    def __init__(self, *, threads: int, options: Mapping[str, str]) -> None:
        self._module: Any = require("tflite_micro", extra="tflm")

    def load(self, path: Path, normalization: Normalization | None) -> None:
        """Read the file and allocate. Raises ``RuntimeFailure`` for an operator that is not there or a broken file."""
        self._normalization = normalization
        try:
            self._interpreter = self._module.runtime.Interpreter.from_file(str(path), arena_size=ARENA_BYTES)
        except (RuntimeError, ValueError, struct.error) as error:
            raise RuntimeFailure(
                f"TFLite Micro cannot load {path.name}: {error}",
                hint="it lacks an operator, or the file is damaged; the engine's own words are on stderr",
            ) from error
        source, target = self._interpreter.get_input_details(0), self._interpreter.get_output_details(0)
        shape, dtype = source["shape"].tolist(), np.dtype(source["dtype"]).name
        self.input = input_port("input 0", shape, dtype, default_layout="NHWC", **_q(source))
        dtype = np.dtype(target["dtype"]).name
        self.output = OutputPort("output 0", dtype, tuple(target["shape"].tolist()), **_q(target))

    def prepare(self, images: Pictures) -> Any:
        """Pictures of one batch -> the input tensor."""
        return encode(self.input, images, self._normalization)

    def run(self, prepared: Any) -> Any:
        """Execute the network once, copying the input in and the output out."""
        self._interpreter.set_input(prepared, 0)
        self._interpreter.invoke()
        return self._interpreter.get_output(0)

    def infer(self, images: Pictures) -> Logits:
        """Pictures (N, H, W, C) uint8 -> logits (N, K) float32, at the batch size written in the file."""
        return in_batches(images, self.input.batch or 1, True, self._infer_batch)

    def _infer_batch(self, images: Pictures) -> Logits:
        return decode(self.output, self.run(self.prepare(images)), len(images))

    def versions(self) -> dict[str, str]:
        """The package's version."""
        return {"tflite_micro": metadata.version("tflite-micro")}


def _q(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Scale and zero point of a tensor; none where it is not quantized."""
    scales, zero_points = (detail["quantization_parameters"][key] for key in ("scales", "zero_points"))
    return {"scale": float(scales[0]), "zero_point": int(zero_points[0])} if len(scales) else {}
