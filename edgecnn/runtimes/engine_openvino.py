"""OpenVINO on the CPU: reads ``.onnx`` files, float and int8 (quantize-dequantize pairs become integer kernels), and
other tools' files in its own format (``.xml`` beside ``.bin``).

What differs from ONNX Runtime on edgecnn's int8 files: OpenVINO adds a residual branch without rounding it to int8
first (it fuses convolution, quantization, sum and quantization, and drops the quantization in the middle); and an
average over windows rounds halves another way. Both are as near to the real numbers as the specification
(:mod:`edgecnn.graph.integer`); logits differ by a few steps. And a convolution is computed at once with its hard-swish
only where that reads the convolution's real output. ``edgecnn compress --scheme mixed --runtime openvino`` makes
numbers that ask for both: layers whose output is open (:class:`edgecnn.graph.ir.Graph`). The sum then is an operator of
its own, which takes a little time in a small network; the rest of rounding (products of scales in another order) stays.

Arithmetic is asked to be float32: left to itself OpenVINO runs float files in bfloat16 on CPUs that have it. Pictures
are run one at a time where the file leaves the batch open: with fixed shapes it needs 2 to 23 % less time than with
dynamic ones (ResNet-8 and EfficientNet-Lite0).

Options: ``exact_int8``: ``auto`` (default), ``on`` or ``off``. ``auto``: on CPUs where the int8 kernels saturate (see
:mod:`edgecnn.runtimes.exact_int8`) the quantized network is computed in float32 instead, which is right and slow.
``on``: also, residual branches are rounded as the specification says, by making them outputs, which no fusion may
remove: a ResNet-8 then takes about 3 times as long, EfficientNet-Lite0 1.05 times.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.catalog import require
from edgecnn.errors import RuntimeFailure
from edgecnn.runtimes.exact_int8 import choice_of, x86_without_vnni
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

SETTINGS: dict[str, Any] = {
    "INFERENCE_PRECISION_HINT": "f32",
    "PERFORMANCE_HINT": "LATENCY",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else linear layers of 4-bit weights round what they read to 8 bits
}


class Engine:
    """One ONNX file, compiled for ``threads`` threads and one request at a time."""

    input: InputPort
    output: OutputPort

    def __init__(self, *, threads: int, options: Mapping[str, str]) -> None:
        self._openvino: Any = require("openvino", extra="openvino")
        self._exact_int8 = choice_of(options.get("exact_int8", "auto"))
        self._settings = {**SETTINGS, "INFERENCE_NUM_THREADS": threads}
        if self._exact_int8 != "off" and x86_without_vnni():
            self._settings["LP_TRANSFORMS_MODE"] = False

    def load(self, path: Path, normalization: Normalization | None) -> None:
        """Read and compile the file. Raises ``RuntimeFailure`` when it is no image classifier or not understood."""
        self._normalization = normalization
        core = self._openvino.Core()
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise RuntimeFailure(f"OpenVINO cannot read {path.name}: {error}") from error
        only_input([port.get_any_name() for port in model.inputs])
        chosen = choose_output([port.get_any_name() for port in model.outputs])
        if self._exact_int8 == "on":
            _keep_residual_branches(model)
        try:
            self._request = core.compile_model(_one_at_a_time(model), "CPU", self._settings).create_infer_request()
        except RuntimeError as error:
            raise RuntimeFailure(f"OpenVINO cannot run {path.name}: {error}") from error
        source, target = model.input(0), model.output(chosen)
        self._target = chosen
        self.input = input_port(source.get_any_name(), _dimensions(source), _dtype(source), default_layout="NCHW")
        self.output = OutputPort(target.get_any_name(), _dtype(target), _dimensions(target))

    def prepare(self, images: Pictures) -> Any:
        """Pictures of one batch -> the input tensor."""
        return encode(self.input, images, self._normalization)

    def run(self, prepared: Any) -> Any:
        """Execute the network once; neither the input nor the output is copied."""
        return self._request.infer([prepared], share_inputs=True, share_outputs=True)[self._target]

    def infer(self, images: Pictures) -> Logits:
        """Pictures (N, H, W, C) uint8 -> logits (N, K) float32; the batch size of the file is looped over."""
        return in_batches(images, self.input.batch or 1, True, self._infer_batch)

    def _infer_batch(self, images: Pictures) -> Logits:
        return np.copy(decode(self.output, self.run(self.prepare(images)), len(images)))

    def versions(self) -> dict[str, str]:
        """The package's version and the arithmetic that float files run in."""
        return {
            "openvino": self._openvino.__version__,
            "precision": SETTINGS["INFERENCE_PRECISION_HINT"],
            "exact_int8": self._exact_int8,
        }


def _one_at_a_time(model: Any) -> Any:
    """The model with an open batch made 1; all other dimensions stay as the file has them."""
    shape = model.input(0).get_partial_shape()
    if shape.rank.is_static and len(shape) and shape[0].is_dynamic:
        shape[0] = 1
        model.reshape(shape)
    return model


def _keep_residual_branches(model: Any) -> None:
    """Make the quantized inputs of every addition outputs of the model, after those that it has."""
    branches: dict[str, Any] = {}
    for operator in model.get_ops():
        if operator.get_type_name() == "Add":
            sources = [_quantized(value) for value in operator.input_values()]
            if all(source.get_node().get_type_name() == "FakeQuantize" for source in sources):
                branches |= {source.get_node().get_friendly_name(): source for source in sources}
    model.add_outputs(list(branches.values()))


def _quantized(value: Any) -> Any:
    """What a value was dequantized from."""
    while value.get_node().get_type_name() in ("Multiply", "Subtract", "Convert"):
        value = value.get_node().input_value(0)
    return value


def _dimensions(port: Any) -> tuple[int | None, ...]:
    return tuple(length.get_length() if length.is_static else None for length in port.get_partial_shape())


def _dtype(port: Any) -> str:
    return str(port.get_element_type().to_dtype().name)
