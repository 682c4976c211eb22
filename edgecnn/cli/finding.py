"""The verbs ``find-lr`` and ``find-batch``: the flags of ``train``, so that the same command line asks first."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from edgecnn.cli import make

if TYPE_CHECKING:
    from edgecnn.pipeline.context import Context
    from edgecnn.steps import TrainStep

NOT_HERE = ("folds", "dry_run")


def find_lr(**flags: Any) -> None:
    """Find the highest learning rate of a training: about 100 steps at rising rates, on a copy of the network.

    Prints a third of the rate at which the loss is lowest. Takes the flags of train; no run is touched. Exit code 5
    when the loss never falls.
    """
    from edgecnn.pipeline import lr_finding

    where, wanted = _training("find-lr", flags)
    curve = lr_finding.find_lr(where, wanted)
    print("\n".join(lr_finding.lines(curve)))
    if flags["out"] is not None:
        print("\n".join(map(str, lr_finding.write(curve, flags["out"]))))


def find_batch(**flags: Any) -> None:
    """Find the largest batch that a training has memory for, in doublings, and a learning rate for it.

    Each batch is tried in a process of its own; on a CPU none that is predicted not to fit. Takes the flags of train;
    no run is touched.
    """
    from edgecnn.pipeline import batch_finding

    where, wanted = _training("find-batch", flags)
    found = batch_finding.find_batch(where, wanted)
    print("\n".join(batch_finding.lines(found, wanted)))
    if flags["out"] is not None:
        print(batch_finding.write(found, flags["out"]))


def _training(name: str, flags: dict[str, Any]) -> tuple[Context, TrainStep]:
    """The training that the flags mean, and where it would be done."""
    from edgecnn import recipe as recipes
    from edgecnn.cli.progress import context
    from edgecnn.steps import TrainStep

    step = {"kind": "train", **{key: value for key, value in flags.items() if key in TrainStep.model_fields}}
    raw = {"name": name, "data": flags["data"], "data_seed": 0, "steps": [step]}
    for setting in flags["settings"] or []:
        recipes.set_value(raw, setting if setting.startswith("data_seed=") else f"steps.0.{setting}")
    recipe = recipes.parse(raw, name)
    wanted = recipe.steps[0]
    assert isinstance(wanted, TrainStep)
    return context(flags["out"] or Path(), recipe.data, recipe.data_seed), wanted


def _take_flags_of_train(verb: Callable[..., None], out_help: str) -> None:
    """Give a verb the flags of ``train``, but for those that only a training has; ``-o`` may be left out."""
    hints = get_type_hints(make.train, include_extras=True)
    taken = [each for name, each in inspect.signature(make.train).parameters.items() if name not in NOT_HERE]
    changed = [each.replace(annotation=hints[each.name]) for each in taken]
    out = Annotated[Path | None, typer.Option("-o", "--out", help=out_help)]
    verb.__dict__["__signature__"] = inspect.Signature(
        [each.replace(annotation=out, default=None) if each.name == "out" else each for each in changed]
    )


_take_flags_of_train(find_lr, "Write lr.json and lr.png into this folder.")
_take_flags_of_train(find_batch, "Write batch.json into this folder.")
