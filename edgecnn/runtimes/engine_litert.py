"""LiteRT (TensorFlow Lite), with the XNNPACK delegate that it applies by itself.

``ai_edge_litert`` is used, or ``tflite_runtime`` where that is what is installed (older boards). Pictures are run one
at a time: XNNPACK gains nothing from a batch (measured: 0.40 against 0.39 ms per picture for a ResNet-8), and a file
whose reshape holds a batch of 1 cannot be resized.

Options: ``xnnpack``: ``on`` (default) or ``off`` for the built-in kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.catalog import require
from edgecnn.errors import MissingPackageError, RuntimeFailure
from edgecnn.runtimes.ports import (
    InputPort,
    Logits,
    Normalization,
    OutputPort,
    Pictures,
    choose_output,
    decode,
    encode,
    in_batches,
    input_port,
    only_input,
)


class Engine:
    """One TFLite file in one interpreter."""

    input: InputPort
    output: OutputPort

    def __init__(self, *, threads: int, options: Mapping[str, str]) -> None:
        self._module, self._version = _interpreter_module()
        self._threads = threads
        self._xnnpack = options.get("xnnpack", "on")
        if self._xnnpack not in ("on", "off"):
            raise RuntimeFailure(f"option xnnpack is {self._xnnpack!r}", hint="wanted: on or off")

    def load(self, path: Path, normalization: Normalization | None) -> None:
        """Open the file and allocate. Raises ``RuntimeFailure`` when it is no image classifier or not understood."""
        self._normalization = normalization
        resolvers = self._module.OpResolverType
        resolver = resolvers.AUTO if self._xnnpack == "on" else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            self._interpreter = self._module.Interpreter(
                model_path=str(path), num_threads=self._threads, experimental_op_resolver_type=resolver
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise RuntimeFailure(f"LiteRT cannot load {path.name}: {error}") from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        only_input([detail["name"] for detail in inputs])
        source, target = inputs[0], outputs[choose_output([detail["name"] for detail in outputs])]
        self._source, self._target = source["index"], target["index"]
        self.input = input_port(
            source["name"],
            source["shape"].tolist(),
            np.dtype(source["dtype"]).name,
            default_layout="NHWC",
            **_q(source),
        )
        dtype = np.dtype(target["dtype"]).name
        self.output = OutputPort(target["name"], dtype, tuple(target["shape"].tolist()), **_q(target))

    def prepare(self, images: Pictures) -> Any:
        """Pictures of one batch -> the input tensor."""
        return encode(self.input, images, self._normalization)

    def run(self, prepared: Any) -> Any:
        """Execute the network once, copying the input in and the output out."""
        self._interpreter.set_tensor(self._source, prepared)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._target)

    def infer(self, images: Pictures) -> Logits:
        """Pictures (N, H, W, C) uint8 -> logits (N, K) float32, at the batch size written in the file."""
        return in_batches(images, self.input.batch or 1, True, self._infer_batch)

    def _infer_batch(self, images: Pictures) -> Logits:
        return decode(self.output, self.run(self.prepare(images)), len(images))

    def versions(self) -> dict[str, str]:
        """The package's version and which kernels."""
        return {self._module.__name__.split(".")[0]: self._version, "xnnpack": self._xnnpack}


def _interpreter_module() -> tuple[Any, str]:
    try:
        module = require("ai_edge_litert.interpreter", extra="litert")
        return module, str(require("ai_edge_litert", extra="litert").__version__)
    except MissingPackageError as missing:
        try:
            module = require("tflite_runtime.interpreter", extra="litert")
        except MissingPackageError:
            raise missing from None
        return module, str(require("tflite_runtime", extra="litert").__version__)


def _q(detail: Mapping[str, Any]) -> dict[str, Any]:
    scale, zero_point = detail["quantization"]
    return {"scale": float(scale), "zero_point": int(zero_point)}
