"""Where a run lies, which data it uses, and who is told about progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgecnn.bundle import Bundle
from edgecnn.data.items import ImageSet, has_many_labels
from edgecnn.data.source import is_there, open_data, place_of, with_splits
from edgecnn.errors import DataError
from edgecnn.spec import Task

if TYPE_CHECKING:
    from edgecnn.train.distributed import World

SPLITS = "splits.json"
Tell = Callable[[str], None]


class Watcher(Protocol):
    """Who is told how a training goes on."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """After each epoch: its row of history."""

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        """After each step: epoch, step and steps per epoch, counted from 1."""

    def close(self) -> None:
        """At the end, however it ended."""


class Silent:
    """A watcher that says nothing."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def silent(stage: str, epochs: int) -> Watcher:
    """A watcher for when nobody watches."""
    return Silent()


@dataclass(frozen=True)
class Context:
    """What every step needs besides its own settings.

    ``tell`` gets one line of text at a time; ``watch`` makes a watcher for a stage's training of so many epochs.
    ``world``: the processes that train together, each with such a context; ``None``: this one is alone.
    """

    run: Path
    data: str | None = None
    data_seed: int = 0
    tell: Tell = print
    watch: Callable[[str, int], Watcher] = silent
    world: World | None = None


def opened(source: str, seed: int, task: Task | None = None, sampled: bool = False) -> ImageSet:
    """Open a data set once per process: checking 50,000 files takes a while.

    ``task`` is what it is opened for; ``sampled``: see ``open_data``.
    """
    return _opened(source, seed, task is Task.MULTI_LABEL, sampled)


@cache
def _opened(source: str, seed: int, several: bool, sampled: bool) -> ImageSet:
    return open_data(source, seed=seed, several=several, sampled=sampled)


def describe_data(data: ImageSet, source: str, seed: int, streamed: bool = False) -> dict[str, Any]:
    """What a manifest says of the data: enough to open the same pictures again and to notice when they changed."""
    counts = {split.value: len(items) for split, items in data.splits.items()}
    facts = {"source": place_of(source), "seed": seed, "digest": data.digest, "counts": counts}
    return {**facts, "streamed": True} if streamed else facts


def is_streamed(bundle: Bundle) -> bool:
    """Whether the pictures a bundle was made from are too many to decode all of them at once."""
    return bool(bundle.manifest.data.get("streamed"))


def data_of(bundle: Bundle, override: str | None = None) -> ImageSet:
    """The pictures a bundle was made from, in the splits it was made with; or ``override``, with the same classes.

    Pictures at the recorded place must be the recorded ones. An ``override`` elsewhere may hold others; when it has all
    the recorded pictures they stay in their splits, and what it has besides is left out. Raises ``DataError``.
    """
    facts = bundle.manifest.data
    moved = override is not None and place_of(override) != facts["source"]
    source = override if override is not None and moved else str(facts["source"])
    if not moved and not is_there(source):
        raise DataError(f"the pictures of {bundle.path} were in {source}", hint="say where they are now with --data")
    data = opened(source, int(facts["seed"]), bundle.task, sampled=is_streamed(bundle))
    if has_many_labels(data) != (bundle.task is Task.MULTI_LABEL):
        raise DataError(
            f"{source} names {'several labels' if has_many_labels(data) else 'one class'} for each picture; "
            f"{bundle.path} is for the task {bundle.task}",
            hint="name pictures of the same kind",
        )
    if list(data.labels) != bundle.manifest.labels:
        raise DataError(
            f"{source} has the classes {_list(data.labels)}; {bundle.path} knows {_list(bundle.manifest.labels)}",
            hint="name pictures of the same classes",
        )
    if not moved and data.digest != facts["digest"]:
        raise DataError(
            f"the pictures in {source} changed since {bundle.path} was made from them",
            hint="put them back as they were, name others with --data, or train again into another run",
        )
    listed = listed_splits(bundle)
    here = {item.id for items in data.splits.values() for item in items}
    return with_splits(data, listed) if listed and here.issuperset(chain(*listed.values())) else data


def listed_splits(bundle: Bundle) -> dict[str, list[str]]:
    """The ids in each split as the bundle, or the one it descends from, lists them; empty when that one is gone."""
    while not bundle.has(SPLITS):
        parent = bundle.parent()
        if parent is None:
            return {}
        bundle = parent
    found: dict[str, list[str]] = bundle.read_json(SPLITS)
    return found


def _list(labels: Sequence[str], most: int = 10) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
