"""The verb ``data split``: decide once, and in a file, which picture is for what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def split(
    source: Annotated[str, typer.Argument(help="A folder of pictures, or a CSV. Splits that it has are not kept.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The table, a .csv file: file,label,split[,fold][,group].")],
    fractions: Annotated[str, typer.Option(help="Shares of train, val and test.")] = "0.8,0.1,0.1",
    group_by: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Never tear apart pictures in whose paths its first group finds the same."),
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a CSV: never tear apart rows with the same value here.")
    ] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Also number so many folds, for train --folds.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
) -> None:
    """Write a stratified split as a CSV that train takes; groups (a patient, a plant) stay on one side."""
    from edgecnn.errors import UsageError
    from edgecnn.pipeline.splitting import split as write_split

    try:
        train, val, test = (float(share) for share in fractions.split(","))
    except ValueError:
        raise UsageError(f"--fractions is {fractions!r}", hint="write three numbers: --fractions 0.8,0.1,0.1") from None
    made = write_split(
        source, out, (train, val, test), group_by=group_by, group_column=group_column, folds=folds, seed=seed
    )
    print("\n".join(made.lines()))
    print(out)
