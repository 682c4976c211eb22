"""Verbs that measure and compare: verify, benchmark, report, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgecnn.runtimes.ports import Normalization
from edgecnn.spec import Runtime, Split, Status

Data = Annotated[str | None, typer.Option(help="Pictures to use instead of the bundle's own.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Mean = Annotated[str | None, typer.Option(help="For float inputs of foreign files, in [0, 1] units: 0.5 or r,g,b.")]


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a run: all its bundles.")],
    runtime: Annotated[
        list[Runtime] | None, typer.Option(help="Run files in this one only; may be given twice (default: all).")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Compare every stage with its parent on the same real pictures, files in every runtime that reads them.

    Exit code 3 when one misses its threshold. A runtime that is not installed is skipped.
    """
    from edgecnn import api
    from edgecnn.cli.progress import context
    from edgecnn.pipeline.verifying import gate
    from edgecnn.report.console import print_parity

    rows = api.verify(bundle, runtimes=runtime or (), context=context(bundle, data), strict=False)
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=1))
    else:
        print_parity(rows)
    gate(rows)


def benchmark(
    targets: Annotated[list[Path], typer.Argument(help="Bundles, runs, .onnx or .tflite files.")],
    runtime: Annotated[str, typer.Option(help=f"Comma-separated: {','.join(Runtime)}.")] = "torch,onnxruntime,litert",
    threads: Annotated[str, typer.Option(help="Comma-separated numbers of threads.")] = "1",
    restarts: Annotated[int, typer.Option(min=1, help="Worker processes per row.")] = 5,
    budget: Annotated[float, typer.Option(help="Seconds per row at most.")] = 30.0,
    data: Data = None,
    mean: Mean = None,
    std: Mean = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency (median with its 95 % interval), memory, size and accuracy, each row in processes of its own.

    Exit code 5 when no row settled, 2 when none could be measured.
    """
    from edgecnn import api
    from edgecnn.cli.progress import context
    from edgecnn.pipeline.benchmarking import Effort
    from edgecnn.report.table import print_table

    where = context(targets[0], data)
    rows = api.benchmark(
        *targets,
        runtimes=names(runtime, Runtime, "--runtime"),
        threads=numbers(threads),
        effort=Effort(restarts, budget),
        normalization=normalization(mean, std),
        context=where,
    )
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=1))
    else:
        print_table(rows)
    if not any(row.status is Status.OK for row in rows):
        raise typer.Exit(5 if any(row.status is Status.INCONCLUSIVE for row in rows) else 2)


def report(run: Annotated[Path, typer.Argument(help="A run with benchmarked bundles.")]) -> None:
    """Write the run's report.html and report.json from what was measured."""
    from edgecnn import api

    print(api.report(run))


def evaluate(
    target: Annotated[Path, typer.Argument(help="A bundle, or an .onnx or .tflite file.")],
    runtime: Annotated[Runtime | None, typer.Option(help="Default: torch for bundles, a file's own engine.")] = None,
    data: Data = None,
    split: Annotated[Split, typer.Option(help="Which pictures.")] = Split.TEST,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    mean: Mean = None,
    std: Mean = None,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Also precision, recall, F1, ROC AUC, calibration, loss; by class too.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with them, the confusion matrix and the worst pictures.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of a bundle or file in a runtime on real pictures, with its 95 % Wilson interval.

    Where pictures have several labels, a picture is right when all of them are. With --metrics or --html every other
    figure of a classifier too (of labels: mAP, F1, ...), each with a 95 % interval.
    """
    from edgecnn import api
    from edgecnn.spec import RIGHT

    found = api.evaluate(
        target, runtime, data=data, split=split, threads=threads, normalization=normalization(mean, std)
    )
    scores = None
    if metrics or html is not None:
        from edgecnn.pipeline.scoring import score, write_page

        scores = score(found)
        if html is not None:
            write_page(scores, html)
    top1 = found.accuracy.top1
    if as_json:
        facts: dict[str, Any] = {
            "path": str(target),
            "runtime": found.runtime,
            "split": found.split,
            "task": found.task,
            "top1": top1.value,
        }
        facts |= {"top1_low": top1.low, "top1_high": top1.high, "images": top1.n}
        facts["top5"] = found.accuracy.top5.value if found.accuracy.top5 else None
        if scores is not None:
            facts["metrics"] = scores.as_dict()
        print(json.dumps(facts, indent=1))
    else:
        shown = f"{100 * top1.value:.2f} % ({100 * top1.low:.2f} to {100 * top1.high:.2f})"
        print(f"{target} in {found.runtime}: {RIGHT[found.task]} {shown} on {top1.n} {found.split} pictures")
        if metrics and scores is not None:
            print("\n".join(scores.lines()))


def names(text: str, kind: type[Runtime], flag: str) -> list[Runtime]:
    """Comma-separated words of one vocabulary. Raises ``UsageError`` naming those there are."""
    from edgecnn.errors import UsageError

    known = [str(each) for each in kind]
    wrong = [word for word in text.split(",") if word not in known]
    if wrong:
        raise UsageError(f"{flag}: unknown {', '.join(map(repr, wrong))}", hint=f"known: {', '.join(known)}")
    return [kind(word) for word in text.split(",")]


def numbers(text: str) -> list[int]:
    """Comma-separated positive whole numbers. Raises ``UsageError``."""
    from edgecnn.errors import UsageError

    if not all(part.strip().isdigit() and int(part) > 0 for part in text.split(",")):
        raise UsageError(f"--threads {text!r} is not a list of positive numbers", hint="write it as --threads 1,2")
    return [int(part) for part in text.split(",")]


def normalization(mean: str | None, std: str | None) -> Normalization | None:
    """Mean and std flags as a value, or None when neither was given. Raises ``UsageError``."""
    from edgecnn.runtimes.ports import Normalization

    if mean is None and std is None:
        return None
    return Normalization(triple(mean or "0"), triple(std or "1"))


def triple(text: str) -> tuple[float, ...]:
    """One number for all channels, or three. Raises ``UsageError``."""
    from edgecnn.errors import UsageError

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise UsageError(f"{text!r} is neither one number nor three", hint="write it as 0.5 or 0.485,0.456,0.406")
    return tuple(values * (3 // len(values)))
