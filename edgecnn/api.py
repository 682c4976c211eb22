"""The public Python API: what the command line does, as functions on plain values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from edgecnn import catalog
from edgecnn.bundle import Bundle, find_bundles, open_bundle, stages
from edgecnn.errors import UsageError
from edgecnn.pipeline import inference
from edgecnn.pipeline.benchmarking import Effort, benchmark_bundle, benchmark_file
from edgecnn.pipeline.compressing import refuse_quantized
from edgecnn.pipeline.context import Context
from edgecnn.pipeline.explaining import Explanation, explain
from edgecnn.pipeline.exporting import Exported
from edgecnn.pipeline.exporting import export as export_bundle
from edgecnn.pipeline.reporting import report as write_report
from edgecnn.pipeline.run import run as run_recipe
from edgecnn.pipeline.verifying import gate
from edgecnn.pipeline.verifying import verify as verify_bundle
from edgecnn.recipe import Recipe, load, parse
from edgecnn.report.rows import ParityRow, Row
from edgecnn.runtimes.ports import Normalization
from edgecnn.spec import IO, Format, Runtime
from edgecnn.steps import PruneStep, QatTraining, QuantizeStep, Training, TrainStep

DEFAULT_RUNTIMES = (Runtime.TORCH, Runtime.ONNXRUNTIME, Runtime.LITERT)


def train(data: str, run: str | Path, *, context: Context | None = None, **settings: Any) -> Bundle:
    """Train or fine-tune on ``data`` (a folder of pictures, or ``"digits"``) and write ``run/float``.

    ``settings`` are the fields of ``steps.TrainStep``. Raises ``DataError``, ``ModelError``, ``UsageError``,
    ``BundleError``.
    """
    recipe = train_recipe(data, Path(run).name, **settings)
    run_recipe(context or Context(Path(run), data), recipe)
    return open_bundle(Path(run) / _last_output(recipe))


def train_recipe(data: str, name: str, **settings: Any) -> Recipe:
    """The recipe that one train verb means. Raises ``UsageError`` for settings that cannot be."""
    return parse({"name": name or "run", "data": data, "steps": [{"kind": "train", **settings}]}, "train").resolved()


def compress_recipe(
    parent: Bundle,
    *,
    prune: float | None = None,
    quantize: str | None = None,
    scheme: str | None = None,
    runtime: str | None = None,
    round_to: int = 8,
    recovery: Training | None = None,
    calibration: dict[str, Any] | None = None,
    qat: QatTraining | None = None,
    seed: int = 0,
) -> Recipe:
    """The recipe that one compress verb means, resolved against the run that ``parent`` is in.

    ``quantize`` names a scheme of precision; ``scheme`` says which one more exactly, where ``quantize`` is "int8";
    ``runtime`` is the one that mixed is made for.
    Raises ``UsageError`` when there is nothing to do or the parent is quantized already.
    """
    if scheme is not None and quantize not in (None, "int8", scheme):
        raise UsageError(f"--quantize {quantize} and --scheme {scheme} are two schemes", hint="give one of them")
    scheme = scheme or quantize
    steps: list[dict[str, Any]] = []
    if prune is not None:
        heal = None if recovery is None else recovery.model_dump(mode="json")
        steps.append({"kind": "prune", "ratio": prune, "round_to": round_to, "recovery": heal, "seed": seed})
    if scheme is not None:
        taught = {} if qat is None else {"qat": qat.model_dump(mode="json")}
        where = {} if runtime is None else {"runtime": runtime}
        steps.append({"kind": "quantize", "scheme": scheme, "seed": seed, **(calibration or {}), **taught, **where})
    elif runtime is not None:
        raise UsageError(f"--runtime {runtime}: there is nothing to make for it", hint="add --scheme mixed")
    elif qat is not None:
        raise UsageError("quantization-aware training needs numbers to start from", hint="add --quantize int8")
    if not steps:
        raise UsageError("nothing to do", hint="say what: --prune 0.3, --quantize int8, or both")
    refuse_quantized(parent, "compressed further")
    facts = parent.manifest.data
    raw = {"name": parent.title, "data": facts["source"], "data_seed": facts["seed"], "steps": steps}
    return parse(raw, "compress").resolved({parent.name: "float"})


def compress(path: str | Path, *, context: Context | None = None, **settings: Any) -> Bundle:
    """Prune and/or quantize a float bundle (or a run's ``float`` stage); returns the last bundle written.

    ``settings``: ``prune`` (fraction of channels), ``quantize="int8"`` (or another scheme), ``runtime``, ``round_to``,
    ``recovery``, ``calibration``, ``qat``, ``seed``.
    """
    parent = open_bundle(Path(path))
    recipe = compress_recipe(parent, **{"recovery": PruneStep().recovery, **settings})
    where = context or Context(parent.path.parent)
    run_recipe(where, recipe)
    return open_bundle(where.run / _last_output(recipe))


def _last_output(recipe: Recipe) -> str:
    """The name of the bundle that a recipe of making steps writes last."""
    return [str(step.output) for step in recipe.steps if isinstance(step, TrainStep | PruneStep | QuantizeStep)][-1]


def export(
    path: str | Path,
    formats: Sequence[Format | str] | None = None,
    *,
    io: IO | str = IO.PICTURE,
    verify: bool = True,
    force: bool = False,
    context: Context | None = None,
) -> list[Exported]:
    """Render a bundle, or every bundle of a run, into files; each passes the parity gate before it appears.

    ``formats``: by default all that a bundle's precision has a form in. ``io``: what the files take and give
    (``spec.IO``). Raises ``UsageError`` for one that a bundle cannot have.
    """
    chosen = None
    if formats is not None:
        chosen = tuple(Format(name) for name in formats if catalog.row(catalog.FORMATS, name, "format"))
    found: list[Exported] = []
    for bundle in find_bundles(Path(path)):
        found += export_bundle(context or Context(Path(path)), bundle, chosen, io=IO(io), verify=verify, force=force)
    return found


def verify(
    path: str | Path,
    *,
    runtimes: Collection[Runtime | str] = (),
    context: Context | None = None,
    strict: bool = True,
) -> list[ParityRow]:
    """Check every stage of a bundle, or of all bundles of a run; its files in every runtime, or in these ``runtimes``.

    Raises ``GateError`` on a miss when ``strict``.
    """
    chosen = [Runtime(name) for name in runtimes if catalog.row(catalog.RUNTIMES, name, "runtime")]
    where = context or Context(Path(path))
    rows = [row for bundle in find_bundles(Path(path)) for row in verify_bundle(where, bundle, chosen)]
    if strict:
        gate(rows)
    return rows


def diagnose(path: str | Path, *, images: int = 64, context: Context | None = None) -> Explanation:
    """Where an int8 bundle loses accuracy and why, on ``images`` validation pictures. Raises ``UsageError`` for float.

    ``pipeline.explaining.write_page`` makes a page of it.
    """
    return explain(context or Context(Path(path)), open_bundle(Path(path)), images)


def benchmark(
    *paths: str | Path,
    runtimes: Sequence[Runtime | str] = DEFAULT_RUNTIMES,
    threads: Sequence[int] = (1,),
    effort: Effort | None = None,
    normalization: Normalization | None = None,
    context: Context | None = None,
) -> list[Row]:
    """Measure bundles, runs and model files: latency, memory, size, and accuracy where there are pictures."""
    chosen = [Runtime(name) for name in runtimes if catalog.row(catalog.RUNTIMES, name, "runtime")]
    rows: list[Row] = []
    for path in map(Path, paths):
        where = context or Context(path)
        if path.is_dir():
            for bundle in find_bundles(path):
                rows += benchmark_bundle(where, bundle, chosen, threads, effort or Effort())
        else:
            rows += benchmark_file(where, path, chosen, threads, effort or Effort(), normalization)
    return rows


def report(run: str | Path) -> Path:
    """Write ``report.html`` and ``report.json`` of a benchmarked run; returns the page's path."""
    return write_report(Path(run))[0]


def evaluate(path: str | Path, runtime: Runtime | str | None = None, **options: Any) -> inference.Evaluation:
    """Accuracy of a bundle or model file in a runtime on the test split. See ``pipeline.inference.evaluate``."""
    return inference.evaluate(Path(path), None if runtime is None else Runtime(runtime), **options)


def predict(path: str | Path, pictures: Sequence[str | Path], **options: Any) -> list[inference.Prediction]:
    """The most likely classes of pictures. See ``pipeline.inference.predict``."""
    return inference.predict(Path(path), [Path(picture) for picture in pictures], **options)


def run(recipe: str | Path, run: str | Path, *, data: str | None = None, overrides: Sequence[str] = ()) -> None:
    """Run a recipe file (or a shipped recipe by name) in the folder ``run``."""
    loaded = load(Path(recipe), list(overrides))
    chosen = loaded if data is None else loaded.model_copy(update={"data": data})
    run_recipe(Context(Path(run), chosen.data, chosen.data_seed), chosen.resolved(stages(Path(run))))


__all__ = ["benchmark", "compress", "diagnose", "evaluate", "export", "predict", "report", "run", "train", "verify"]
