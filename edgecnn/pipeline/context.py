"""Where a run lies, which data it uses, and who is told about progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from edgecnn.bundle import Bundle
from edgecnn.data.items import ImageSet
from edgecnn.data.source import open_data
from edgecnn.errors import DataError
from edgecnn.spec import Split

Tell = Callable[[str], None]


class Watcher(Protocol):
    """Who is told how a training goes on."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """After each epoch: its row of history."""

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        """After each step: epoch, step and steps per epoch, counted from 1."""


class Silent:
    """A watcher that says nothing."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        """Nothing."""


def silent(stage: str, epochs: int) -> Watcher:
    """A watcher for when nobody watches."""
    return Silent()


@dataclass(frozen=True)
class Context:
    """What every step needs besides its own settings.

    ``tell`` gets one line of text at a time; ``watch`` makes a watcher for a stage's training of so many epochs.
    """

    run: Path
    data: str | None = None
    data_seed: int = 0
    tell: Tell = print
    watch: Callable[[str, int], Watcher] = silent


@cache
def opened(source: str, seed: int) -> ImageSet:
    """Open a data set once per process: checking 50,000 files takes a while."""
    return open_data(source, seed=seed)


def describe_data(data: ImageSet, source: str, seed: int) -> dict[str, Any]:
    """What a manifest says of the data: enough to open the same pictures again and to notice when they changed."""
    counts = {split.value: len(items) for split, items in data.splits.items()}
    where = source if source == "digits" else str(Path(source).resolve())
    return {"source": where, "seed": seed, "digest": data.digest, "counts": counts}


def data_of(bundle: Bundle, override: str | None = None) -> ImageSet:
    """The data a bundle was made from (or ``override``, which must have the same labels). Raises ``DataError``."""
    facts = bundle.manifest.data
    source = override or str(facts["source"])
    if source != "digits" and not Path(source).is_dir():
        raise DataError(f"the pictures of {bundle.path} were at {source}", hint="say where they are now with --data")
    data = opened(source, int(facts["seed"]))
    if list(data.labels) != bundle.manifest.labels:
        raise DataError(
            f"{source} has the classes {', '.join(data.labels)}; {bundle.path} knows {', '.join(bundle.manifest.labels)}",
            hint="use the data the bundle was trained on",
        )
    if override is None and data.digest != facts["digest"]:
        raise DataError(
            f"the pictures in {source} changed since {bundle.path} was made from them",
            hint="put them back, or pass --data to use them as they are now",
        )
    return data


def split_ids(data: ImageSet) -> dict[str, list[str]]:
    """The ids of every split, as a bundle lists them."""
    return {split.value: [item.id for item in data.splits.get(split, ())] for split in Split}
