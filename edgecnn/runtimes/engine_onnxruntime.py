"""ONNX Runtime on the CPU.

Options (strings, from ``Session`` or ``--options``):

``exact_int8``: ``auto`` (default), ``on`` or ``off``. ``on`` sets ``session.x64quantprecision``, which makes ONNX
Runtime shift the weights to uint8 and use exact (slower) kernels; ``auto`` does so on CPUs where the fast ones saturate
(see :mod:`edgecnn.runtimes.exact_int8`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

ELEMENT_TYPES = {
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
}
BATCH = 32  # how many pictures at a time when the file leaves the batch open: bounds the memory


class Engine:
    """One ONNX file in one ``InferenceSession``: ``threads`` intra-op threads, nodes one after the other."""

    input: InputPort
    output: OutputPort

    def __init__(self, *, threads: int, options: Mapping[str, str]) -> None:
        self._ort: Any = require("onnxruntime", extra="onnxruntime")
        self._threads = threads
        choice = choice_of(options.get("exact_int8", "auto"))
        self._exact_int8 = choice == "on" or (choice == "auto" and x86_without_vnni())

    def load(self, path: Path, normalization: Normalization | None) -> None:
        """Open the file. Raises ``RuntimeFailure`` when it is not an image classifier that the engine understands."""
        self._normalization = normalization
        try:
            self._session = self._ort.InferenceSession(
                str(path), self._session_options(), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the engine's exceptions have no common base class
            raise RuntimeFailure(f"ONNX Runtime cannot load {path.name}: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        only_input([port.name for port in inputs])
        chosen = outputs[choose_output([port.name for port in outputs])]
        dtype = ELEMENT_TYPES.get(inputs[0].type, inputs[0].type)
        self.input = input_port(inputs[0].name, _dimensions(inputs[0].shape), dtype, default_layout="NCHW")
        self.output = OutputPort(chosen.name, ELEMENT_TYPES.get(chosen.type, chosen.type), _dimensions(chosen.shape))

    def prepare(self, images: Pictures) -> dict[str, Any]:
        """Pictures of one batch -> the feed."""
        return {self.input.name: encode(self.input, images, self._normalization)}

    def run(self, prepared: dict[str, Any]) -> Any:
        """Execute the network once."""
        return self._session.run([self.output.name], prepared)[0]

    def infer(self, images: Pictures) -> Logits:
        """Pictures (N, H, W, C) uint8 -> logits (N, K) float32; a fixed batch size is looped over."""
        fixed = self.input.batch is not None
        return in_batches(images, self.input.batch or BATCH, fixed, self._infer_batch)

    def _infer_batch(self, images: Pictures) -> Logits:
        return decode(self.output, self.run(self.prepare(images)), len(images))

    def versions(self) -> dict[str, str]:
        """The package's version and whether int8 products are exact by request."""
        return {"onnxruntime": self._ort.__version__, "exact_int8": "on" if self._exact_int8 else "off"}

    def _session_options(self) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.x64quantprecision", "1" if self._exact_int8 else "0")
        return options


def _dimensions(shape: list[Any]) -> tuple[int | None, ...]:
    """Symbolic dimensions are open ones."""
    return tuple(length if isinstance(length, int) and length > 0 else None for length in shape)
