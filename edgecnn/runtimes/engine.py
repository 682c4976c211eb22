"""What an engine must offer: one file with a class ``Engine``, and one row in ``edgecnn.catalog.RUNTIMES``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from edgecnn.runtimes.ports import InputPort, Logits, Normalization, OutputPort, Pictures


class Engine(Protocol):
    """One network file in one execution engine. Imports of the engine's package happen in ``__init__``.

    ``prepare`` and ``run`` are ``infer`` cut in two: only ``run`` is timed, so that converting a picture to the layout
    and number type of a foreign file is not counted as time of the network.
    """

    input: InputPort
    output: OutputPort

    def __init__(self, *, threads: int, options: Mapping[str, str]) -> None:
        """Raises ``MissingPackageError`` when the engine's package is not installed."""

    def load(self, path: Path, normalization: Normalization | None) -> None:
        """Make the file ready, set ``input`` and ``output``. Raises ``RuntimeFailure`` for an unusable file."""

    def prepare(self, images: Pictures) -> Any:
        """Pictures of one batch -> whatever ``run`` takes."""

    def run(self, prepared: Any) -> Any:
        """Execute the network once."""

    def infer(self, images: Pictures) -> Logits:
        """Pictures (N, H, W, C) uint8, any N -> logits (N, K) float32."""

    def versions(self) -> dict[str, str]:
        """Version of the engine, and of what else decides its speed."""
