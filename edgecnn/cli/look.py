"""Verbs that look: predict, inspect, data, recipes, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgecnn.spec import Runtime

data_app = typer.Typer(help="Look at a folder of pictures.", rich_markup_mode=None, no_args_is_help=True)


def predict(
    target: Annotated[Path, typer.Argument(help="A bundle, or an .onnx or .tflite file.")],
    pictures: Annotated[list[Path], typer.Argument(help="Pictures.")],
    runtime: Annotated[Runtime | None, typer.Option(help="Default: torch for bundles, a file's own engine.")] = None,
    top: Annotated[int, typer.Option(min=1, help="So many classes.")] = 5,
    labels: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A text file with one class per line.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="For float inputs of foreign files.")] = None,
    std: Annotated[str | None, typer.Option(help="For float inputs of foreign files.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Say what pictures show: the most likely classes, in any runtime."""
    from edgecnn import api
    from edgecnn.cli.compare import normalization

    names = labels.read_text().splitlines() if labels else None
    found = api.predict(
        target, list(pictures), runtime=runtime, top=top, labels=names, normalization=normalization(mean, std)
    )
    if as_json:
        print(json.dumps([{"picture": str(each.picture), "classes": each.classes} for each in found], indent=1))
        return
    for each in found:
        print(f"{each.picture}: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in each.classes))


def inspect(
    target: Annotated[str, typer.Argument(help="A bundle, or a model name such as mobilenet_v2.")],
    image_size: Annotated[int | None, typer.Option(min=8, help="Pixels, for a model name.")] = None,
    width: Annotated[float, typer.Option(help="Width multiplier, for a model name.")] = 1.0,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes, for a model name.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show the layer table of a network: type, output shape, parameters, multiply-adds."""
    from dataclasses import asdict

    from edgecnn.pipeline.inspecting import inspect as layers_of
    from edgecnn.report.console import print_layers

    rows, params, macs = layers_of(target, image_size, width, classes)
    if as_json:
        print(json.dumps({"layers": [asdict(row) for row in rows], "params": params, "macs": macs}, indent=1))
    else:
        print_layers(rows, params, macs)


@data_app.command()
def check(
    folder: Annotated[str, typer.Argument(help="A folder of pictures.")],
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
) -> None:
    """Open a folder as training would: report every problem, or the classes and counts of each split."""
    from edgecnn.pipeline.context import opened

    data = opened(folder, seed)
    for note in data.notes:
        print(note)
    for split, items in data.splits.items():
        counts = [sum(item.label == index for item in items) for index in range(len(data.labels))]
        print(
            f"{split}: {len(items)} pictures; "
            + ", ".join(f"{n} {c}" for n, c in zip(data.labels, counts, strict=True))
        )


def recipes() -> None:
    """List the recipes that come with edgecnn."""
    from edgecnn import recipe

    for name, path in recipe.shipped().items():
        print(f"{name:28} {recipe.load(path).about}")


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False) -> None:
    """Say what this machine has: versions, processor, runtimes."""
    from edgecnn.bundle import versions
    from edgecnn.catalog import engines
    from edgecnn.measure.machine import describe

    facts = {"versions": versions(), "machine": describe().as_dict(), "runtimes": engines()}
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for title, found in facts.items():
        print(title)
        for name, value in found.items():
            print(f"  {name}: {value}")
