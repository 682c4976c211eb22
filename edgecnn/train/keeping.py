"""When a training that can go on in the middle of an epoch is kept there: an epoch of a streamed set may take a day."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgecnn.train.run import Run
from edgecnn.train.stopping import SHOWN_IDS, Stop

KEEP_STEPS = 500  # steps between checkpoints within an epoch


class Keeping:
    """Writes the checkpoints within the epochs of ``run``, and says which of its pictures are broken."""

    def __init__(self, run: Run, workdir: Path, identity: str, stop: Stop) -> None:
        self.run, self.workdir, self.identity, self.stop = run, workdir, identity, stop
        self.told = len(run.feed.skipped)

    def due(self, steps: int) -> bool:
        """Whether to keep the training after so many steps of an epoch: the same in all processes.

        One that is alone is also kept when it was asked to stop.
        """
        return steps % KEEP_STEPS == 0 or (self.stop.asked and self.run.world.size == 1)

    def keep(self) -> None:
        """Write the checkpoint. Raises WriteError."""
        if self.run.world.leader:
            self.run.keep(self.workdir, self.identity)

    def steps(self) -> int:
        """How many steps of the epoch are kept."""
        return int(self.run.progress.begun.get("steps", 0))

    def tell_skipped(self, tell: Callable[[str], None]) -> None:
        """Say which pictures were found to be broken since the last time."""
        broken = self.run.progress.skipped
        if len(broken) > self.told:
            self.told = len(broken)
            shown = ", ".join(self.run.feed.ids[position] for position in broken[:SHOWN_IDS]) + (
                ", ..." if len(broken) > SHOWN_IDS else ""
            )
            tell(f"{len(broken)} training pictures are broken, others stand in for them: {shown}")
