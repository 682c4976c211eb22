"""The verb ``find-lr``: takes what ``train`` takes, so that the same command line asks for the rate first."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from edgecnn.cli import make

OUT = Annotated[Path | None, typer.Option("-o", "--out", help="Write lr.json and lr.png into this folder.")]
NOT_HERE = ("folds", "dry_run")


def find_lr(**flags: Any) -> None:
    """Find the highest learning rate of a training: about 100 steps at rising rates, on a copy of the network.

    Prints a third of the rate at which the loss is lowest. Takes the flags of train; no run is touched. Exit code 5
    when the loss never falls.
    """
    from edgecnn import recipe as recipes
    from edgecnn.cli.progress import context
    from edgecnn.pipeline import lr_finding
    from edgecnn.steps import TrainStep

    step = {"kind": "train", **{key: value for key, value in flags.items() if key in TrainStep.model_fields}}
    raw = {"name": "find-lr", "data": flags["data"], "data_seed": 0, "steps": [step]}
    for setting in flags["settings"] or []:
        recipes.set_value(raw, setting if setting.startswith("data_seed=") else f"steps.0.{setting}")
    recipe = recipes.parse(raw, "find-lr")
    wanted, out = recipe.steps[0], flags["out"]
    assert isinstance(wanted, TrainStep)
    curve = lr_finding.find_lr(context(out or Path(), recipe.data, recipe.data_seed), wanted)
    print("\n".join(lr_finding.lines(curve)))
    if out is not None:
        print("\n".join(map(str, lr_finding.write(curve, out))))


def _flags_of_train() -> inspect.Signature:
    """The flags of ``train``, but for those that only a training has; ``-o`` may be left out."""
    hints = get_type_hints(make.train, include_extras=True)
    taken = [each for name, each in inspect.signature(make.train).parameters.items() if name not in NOT_HERE]
    changed = [each.replace(annotation=hints[each.name]) for each in taken]
    return inspect.Signature(
        [each.replace(annotation=OUT, default=None) if each.name == "out" else each for each in changed]
    )


find_lr.__dict__["__signature__"] = _flags_of_train()
