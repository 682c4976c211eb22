"""Verbs that look: predict, inspect, diagnose, data, recipes, doctor."""

from __future__ import annotations

import json
import sys
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
    """Say what pictures show: the most likely classes, or all labels above 50 %, in any runtime."""
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
        told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in each.classes)
        if not told and each.nearest is not None:
            told = f"no label (nearest: {each.nearest[0]} {100 * each.nearest[1]:.1f} %)"
        print(f"{each.picture}: {told}")


def inspect(
    target: Annotated[str, typer.Argument(help="A bundle, or a model name such as mobilenet_v2.")],
    image_size: Annotated[int | None, typer.Option(min=8, help="Pixels, for a model name.")] = None,
    width: Annotated[float, typer.Option(help="Width multiplier, for a model name.")] = 1.0,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes, for a model name.")] = 1000,
    grey: Annotated[bool, typer.Option("--grey", help="Of pictures with one channel, for a model name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show the layer table of a network: type, output shape, parameters, multiply-adds, receptive field."""
    from edgecnn.pipeline.inspecting import inspect as layers_of
    from edgecnn.report.console import print_layers

    found = layers_of(target, image_size, width, classes, grey)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        print_layers(found.layers, found.params, found.macs, found.published())


def diagnose(
    bundle: Annotated[Path, typer.Argument(help="An int8 bundle.")],
    images: Annotated[int, typer.Option(min=1, help="So many validation pictures.")] = 64,
    worst: Annotated[int, typer.Option(min=1, help="So many layers are shown.")] = 8,
    page: Annotated[Path | None, typer.Option("-o", "--out", help="Write a page with bars and histograms.")] = None,
    data: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where the bundle's pictures are now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Explain where an int8 bundle loses accuracy: the worst layers, the reason of each, and what repairs it."""
    from edgecnn import api
    from edgecnn.cli.progress import context
    from edgecnn.pipeline.explaining import write_page
    from edgecnn.report.console import print_losses

    found = api.diagnose(bundle, images=images, context=context(bundle, data))
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        print(found.headline)
        for finding in found.found.findings:
            print(f"finding: {finding}")
        print_losses(found.rows[:worst])
    if page is not None:
        write_page(found, page)
        print(page, file=sys.stderr if as_json else sys.stdout)


@data_app.command()
def check(
    folder: Annotated[str, typer.Argument(help="A folder of pictures.")],
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    max_distance: Annotated[
        int | None, typer.Option(min=0, max=16, help="Near copies differ in at most so many of 64 bits; default 6.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with bars and the pictures found twice.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 3 if a picture is in two splits.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Open a folder as training would: every problem, or counts, sizes, duplicates and leaks between splits."""
    from edgecnn.data.duplicates import MAX_DISTANCE
    from edgecnn.pipeline.data_checking import check_data, require_no_leaks, write_page

    found = check_data(folder, seed, MAX_DISTANCE if max_distance is None else max_distance)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        print("\n".join(found.lines()))
    if html is not None:
        write_page(found, html)
    if strict:
        require_no_leaks(found)


def recipes() -> None:
    """List the recipes that come with edgecnn."""
    from edgecnn import recipe

    for name, path in recipe.shipped().items():
        print(f"{name:28} {recipe.load(path).about}")


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False) -> None:
    """Say what this machine has: versions, processor, runtimes."""
    from edgecnn.catalog import engines
    from edgecnn.measure.machine import describe
    from edgecnn.versions import versions

    facts = {"versions": versions(), "machine": describe().as_dict(), "runtimes": engines()}
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for title, found in facts.items():
        print(title)
        for name, value in found.items():
            print(f"  {name}: {value}")


def print_versions() -> None:
    """Print edgecnn's version, and those of what decides its results: ``name version``, one a line."""
    from platform import python_version

    from edgecnn import __version__
    from edgecnn.versions import installed

    print(f"edgecnn {__version__}\npython {python_version()}")
    for package in ("torch", "onnx", "onnxruntime"):
        print(f"{package} {installed(package) or 'not installed'}")
    print(f"litert {installed('ai-edge-litert') or installed('tflite-runtime') or 'not installed'}")
