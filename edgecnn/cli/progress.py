"""How a training is shown: a bar in a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecnn.pipeline.context import Context, Watcher
    from edgecnn.train.distributed import World


def tell(line: str) -> None:
    """One line of what is going on, on stderr: stdout belongs to results."""
    print(line, file=sys.stderr, flush=True)


def in_terminal() -> bool:
    """Whether somebody watches who can be shown a bar."""
    return sys.stderr.isatty() and not os.environ.get("CI")


class Lines:
    """One line per epoch."""

    def __init__(self, stage: str, epochs: int) -> None:
        self._stage, self._epochs = stage, epochs

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch."""
        from edgecnn.train.history import format_epoch

        tell(f"{self._stage}  {format_epoch(row, self._epochs)}")

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        """Nothing: a log needs no steps."""

    def close(self) -> None:
        """Nothing: lines stay."""


class Bar:
    """A progress bar over all steps, with one line left behind per epoch."""

    def __init__(self, stage: str, epochs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(stage, total=None)
        self._stage, self._epochs = stage, epochs
        self._progress.start()

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Leave the epoch's line above the bar."""
        from edgecnn.train.history import format_epoch

        self._progress.console.print(format_epoch(row, self._epochs), highlight=False, markup=False)

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        """Move the bar."""
        done = (epoch - 1) * steps + step
        self._progress.update(
            self._task, total=self._epochs * steps, completed=done, description=f"{self._stage} {epoch}/{self._epochs}"
        )

    def close(self) -> None:
        """Take the bar away and give the cursor back."""
        self._progress.stop()


def watch(stage: str, epochs: int) -> Watcher:
    """The watcher that fits where stderr goes."""
    return Bar(stage, epochs) if in_terminal() else Lines(stage, epochs)


def context(run: Any, data: str | None = None, data_seed: int = 0, world: World | None = None) -> Context:
    """A context that talks to the terminal; of several processes only the leader does."""
    from pathlib import Path

    from edgecnn.pipeline.context import Context, silent

    if world is not None and not world.leader:
        return Context(Path(run), data, data_seed, tell=lambda line: None, watch=silent, world=world)
    return Context(Path(run), data, data_seed, tell=tell, watch=watch, world=world)
