"""An engine that computes nothing: what remains when it is measured is the harness itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgecnn.runtimes.ports import InputPort, Logits, Normalization, OutputPort, Pictures


class Engine:
    """Takes any file and any picture; every logit is 0 and there is one class."""

    input: InputPort
    output: OutputPort

    def __init__(self, *, threads: int, options: Mapping[str, str]) -> None:
        self._answer = np.zeros((1, 1), np.float32)

    def load(self, path: Path, normalization: Normalization | None) -> None:
        """Read nothing."""
        self.input = InputPort("image", "uint8", "NHWC", None, None, None, channels=None)
        self.output = OutputPort("logits", "float32", (None, 1))

    def prepare(self, images: Pictures) -> Pictures:
        """The pictures themselves."""
        return images

    def run(self, prepared: Pictures) -> Logits:
        """The cheapest call there is."""
        return self._answer

    def infer(self, images: Pictures) -> Logits:
        """Zeros (N, 1)."""
        return np.zeros((len(images), 1), np.float32)

    def versions(self) -> dict[str, str]:
        """Nothing has a version here."""
        return {}
