"""PyTorch itself: the reference that every exported file is compared with.

How a path becomes a network is not this module's knowledge. Option ``loader`` names a function ``"module:function"``
which, given the path, returns a callable: pictures (N, H, W, C) uint8 ndarray -> logits (N, K) float32 ndarray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn import catalog
from edgecnn.errors import MissingPackageError, RuntimeFailure
from edgecnn.runtimes.ports import InputPort, Logits, Normalization, OutputPort, Pictures, check_pictures, in_batches

BATCH = 32


class Engine:
    """One network in eager PyTorch on the CPU."""

    input: InputPort
    output: OutputPort

    def __init__(self, *, threads: int, options: Mapping[str, str]) -> None:
        if "loader" not in options:
            raise RuntimeFailure(
                "the torch runtime was not told how to load this path",
                hint="give the option loader=module:function; it returns a callable pictures -> logits",
            )
        self._loader = options["loader"]
        try:
            import torch
        except ModuleNotFoundError as error:
            raise MissingPackageError("torch is not installed", hint="install it with: pip install torch") from error
        self._torch = torch
        torch.set_num_threads(threads)

    def load(self, path: Path, normalization: Normalization | None) -> None:
        """Call the loader. The network takes pictures as they are: normalization is part of it."""
        self._network: Callable[[Pictures], Any] = catalog.load(self._loader)(path)
        self.input = InputPort("image", "uint8", "NHWC", None, None, None, channels=None)
        self.output = OutputPort("logits", "float32", (None, None))

    def prepare(self, images: Pictures) -> Pictures:
        """The pictures themselves."""
        check_pictures(self.input, images)
        return images

    def run(self, prepared: Pictures) -> Any:
        """Execute the network once."""
        with self._torch.inference_mode():
            return self._network(prepared)

    def infer(self, images: Pictures) -> Logits:
        """Pictures (N, H, W, C) uint8 -> logits (N, K) float32."""
        return in_batches(images, BATCH, False, self._infer_batch)

    def _infer_batch(self, images: Pictures) -> Logits:
        return np.asarray(self.run(self.prepare(images)), np.float32)

    def versions(self) -> dict[str, str]:
        """The package's version."""
        return {"torch": str(self._torch.__version__)}
