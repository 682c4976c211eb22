"""A recipe, step by step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgecnn.bundle import Bundle, find_bundles, open_bundle
from edgecnn.pipeline.benchmarking import Effort, benchmark_bundle
from edgecnn.pipeline.compressing import prune
from edgecnn.pipeline.context import Context
from edgecnn.pipeline.exporting import export
from edgecnn.pipeline.quantizing import quantize
from edgecnn.pipeline.reporting import report
from edgecnn.pipeline.training import train
from edgecnn.pipeline.verifying import gate_files, verify
from edgecnn.recipe import Recipe
from edgecnn.steps import BenchmarkStep, ExportStep, PruneStep, QuantizeStep, ReportStep, TrainStep


def run(context: Context, recipe: Recipe) -> None:
    """Run a resolved recipe in ``context.run``.

    Steps whose bundles or files are there already are skipped, measurements are taken again. A failed gate ends it.
    Of several processes (``context.world``) all train, and the leader does everything else.
    """
    together, alone = context, replace(context, world=None)
    for number, step in enumerate(recipe.steps, 1):
        trains = isinstance(step, TrainStep)
        if not trains and together.world is not None and not together.world.leader:
            continue
        context = together if trains else alone
        context.tell(f"[{number}/{len(recipe.steps)}] {step.kind}")
        match step:
            case TrainStep():
                train(context, step)
            case PruneStep():
                prune(context, open_bundle(context.run / str(step.input)), step)
            case QuantizeStep():
                quantize(context, open_bundle(context.run / str(step.input)), step)
            case ExportStep():
                for bundle in chosen(context.run, step.input):
                    export(context, bundle, step.formats, io=step.io, verify=step.verify, force=step.force)
                    if step.verify:
                        gate_files(context, verify(context, bundle))
            case BenchmarkStep():
                effort = Effort(step.restarts, step.budget_s)
                for bundle in chosen(context.run, step.input):
                    benchmark_bundle(context, bundle, step.runtimes, step.threads, effort)
            case ReportStep():
                page, _ = report(context.run)
                context.tell(str(page))


def chosen(run_folder: Path, stage: str | None) -> list[Bundle]:
    """One bundle of a run, or all of them."""
    return [open_bundle(run_folder / stage)] if stage else find_bundles(run_folder)
