"""ExecuTorch: runs ``.pte`` programs, with the backends that its Python package brings (XNNPACK for edgecnn's files).

A program has fixed shapes; edgecnn's take one picture at a time. Its int8 kernels are XNNPACK's, as LiteRT's are: they
requantize in float32, as the specification (:mod:`edgecnn.graph.integer`) says.
"""

from __future__ import annotations

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

DTYPES = {0: "uint8", 1: "int8", 6: "float32"}
"""ExecuTorch's numbers of the scalar types that pictures and logits may have."""


class Engine:
    """The method ``forward`` of one program."""

    input: InputPort
    output: OutputPort

    def __init__(self, *, threads: int, options: Mapping[str, str]) -> None:
        self._runtime: Any = require("executorch.runtime", extra="executorch")
        self._torch: Any = require("torch", extra="executorch")
        library = require("executorch.extension.pybindings.portable_lib", extra="executorch")
        library._unsafe_reset_threadpool(threads)  # safe before a program is loaded; there is no other way

    def load(self, path: Path, normalization: Normalization | None) -> None:
        """Read the program. Raises ``RuntimeFailure`` when it is no image classifier, or cannot be run here."""
        self._normalization = normalization
        try:
            program = self._runtime.Runtime.get().load_program(path)
            self._method = program.load_method("forward")
        except (RuntimeError, KeyError) as error:
            raise RuntimeFailure(f"ExecuTorch cannot load {path.name}: {error}") from error
        facts = self._method.metadata
        if facts.num_inputs() != 1 or facts.num_outputs() != 1:
            found = f"{facts.num_inputs()} inputs and {facts.num_outputs()} outputs"
            raise RuntimeFailure(f"{path.name} has {found}", hint="wanted: pictures in, logits out")
        source, target = facts.input_tensor_meta(0), facts.output_tensor_meta(0)
        self.input = input_port("input 0", list(source.sizes()), _dtype(source), default_layout="NHWC")
        self.output = OutputPort("output 0", _dtype(target), tuple(target.sizes()))

    def prepare(self, images: Pictures) -> Any:
        """Pictures of one batch -> the input tensor."""
        return self._torch.from_numpy(encode(self.input, images, self._normalization))

    def run(self, prepared: Any) -> Any:
        """Execute the network once, copying the output out."""
        return self._method.execute([prepared])[0]

    def infer(self, images: Pictures) -> Logits:
        """Pictures (N, H, W, C) uint8 -> logits (N, K) float32, at the batch size of the program."""
        return in_batches(images, self.input.batch or 1, True, self._infer_batch)

    def _infer_batch(self, images: Pictures) -> Logits:
        return np.copy(decode(self.output, self.run(self.prepare(images)).numpy(), len(images)))

    def versions(self) -> dict[str, str]:
        """The package's version."""
        return {"executorch": metadata.version("executorch")}


def _dtype(tensor: Any) -> str:
    """The name of a tensor's type. Raises ``RuntimeFailure`` for one that pictures and logits do not have."""
    if tensor.dtype() not in DTYPES:
        raise RuntimeFailure(f"a tensor has ExecuTorch's scalar type {tensor.dtype()}", hint=f"known: {DTYPES}")
    return DTYPES[tensor.dtype()]
