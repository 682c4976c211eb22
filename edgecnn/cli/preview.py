"""The verb ``data preview``: see what the settings of augmentation do before training with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def preview(
    folder: Annotated[str, typer.Argument(help="A folder of pictures, or: digits.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The sheet, a PNG file.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As for train: --set rotate=15 --set fill=nearest."),
    ] = None,
    image_size: Annotated[int, typer.Option(min=8, help="Pixels of each picture.")] = 128,
    rows: Annotated[int, typer.Option(min=1, help="So many training pictures.")] = 4,
    columns: Annotated[int, typer.Option(min=2, help="The original and so many less one augmented samples.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the choice of pictures and of everything random.")] = 0,
) -> None:
    """Draw training pictures as augmentation changes them: one row each, the original first."""
    from edgecnn import recipe as recipes
    from edgecnn.pipeline.previewing import preview as draw
    from edgecnn.steps import TrainStep

    raw = {"name": "preview", "data": folder, "steps": [{"kind": "train"}]}
    for setting in settings or []:
        recipes.set_value(raw, f"steps.0.{setting}")
    step = recipes.parse(raw, "the preview").steps[0]
    assert isinstance(step, TrainStep)
    draw(folder, step, size=image_size, rows=rows, columns=columns, seed=seed).save(out, format="PNG")
    print(out)
