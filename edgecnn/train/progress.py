"""Where a training stands, as far as it is no tensor: what the JSON of a checkpoint says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgecnn.train import history


@dataclass
class Begun:
    """What an epoch has come to after some of its steps: loss and hits summed over them and over all processes."""

    steps: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0


@dataclass
class Progress:
    """Where the run stands: everything about it that is not a tensor.

    ``scaler``: see ``Update.state``. ``skipped``: positions of broken pictures. ``begun``: the fields of ``Begun`` for
    an epoch that is kept in its middle, else empty.
    """

    precision: str
    history: list[history.Row]
    best_top1: float = -1.0
    best_epoch: int = 0
    scaler: dict[str, float] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    begun: dict[str, Any] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)
