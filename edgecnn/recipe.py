"""A recipe: a typed list of steps, bundle in -> bundle out, checked before anything heavy is imported.

Every verb of the command line builds one of these steps from its flags, so ``--dry-run`` can print the recipe that the flags mean,
and a recipe file can do whatever the flags can. Unknown keys and wrong types are errors. A step's ``output`` names the bundle it
writes inside the run; ``input`` names the one it reads (default: the bundle written last).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgecnn.errors import UsageError
from edgecnn.spec import Format, Precision, Runtime

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base of everything in a recipe: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_enum_values=False)


class Training(Settings):
    """How weights are fitted; the same words train from scratch, fine-tune, and recover after pruning."""

    epochs: Positive = 20
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Rate = 0.2
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    momentum: Share = 0.9
    nesterov: bool = True
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    label_smoothing: Share = 0.1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = 0.998
    flip: bool = True
    shift: Annotated[int, Field(ge=0)] = 0
    crop_scale: Annotated[float, Field(gt=0, le=1)] | None = None
    jitter: Share = 0.0
    cutout: Annotated[int, Field(ge=0)] = 0
    low_size: Positive | None = None
    low_epochs: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    patience: Positive | None = None


class TrainStep(Training):
    """Train a model, or fine-tune one when ``pretrained`` says where its weights come from."""

    kind: Literal["train"] = "train"
    output: str = "float"
    model: str = "mobilenet_v2"
    width: Rate = 1.0
    stem_stride: Positive | None = None
    strides: tuple[Positive, ...] | None = None
    stages: tuple[tuple[int | float | str, ...], ...] | None = None
    head: Positive | None = None
    dropout: Share | None = None
    activation: Literal["relu", "relu6", "hardswish", "silu"] | None = None
    image_size: Positive | None = None
    pretrained: str | None = None
    normalization: Literal["auto", "uniform", "per_channel"] = "auto"
    seed: int = 0
    device: str = "auto"
    threads: Positive | None = None

    consumes: ClassVar[tuple[str, ...]] = ()
    produces: ClassVar[str | None] = "float"


class PruneStep(Settings):
    """Remove channels (structured), then train shortly to recover."""

    kind: Literal["prune"] = "prune"
    input: str | None = None
    output: str | None = None
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
    round_to: Positive = 8
    recovery: Training | None = Training(epochs=5, lr=0.02, warmup_epochs=0.5)
    seed: int = 0
    device: str = "auto"
    threads: Positive | None = None

    consumes: ClassVar[tuple[str, ...]] = ("float",)
    produces: ClassVar[str | None] = "float"


class QuantizeStep(Settings):
    """Post-training int8: weights per channel, activations per tensor, numbers decided once for every format."""

    kind: Literal["quantize"] = "quantize"
    input: str | None = None
    output: str | None = None
    precision: Literal["int8"] = "int8"
    calibration_images: Positive = 512
    calibration_method: Literal["minmax", "percentile", "mse"] = "minmax"
    hard_swish: Literal["decompose", "native"] = "decompose"
    seed: int = 0

    consumes: ClassVar[tuple[str, ...]] = ("float",)
    produces: ClassVar[str | None] = "int8"


class ExportStep(Settings):
    """Render files from bundles (all of the run when ``input`` is not given) and verify them unless told not to."""

    kind: Literal["export"] = "export"
    input: str | None = None
    formats: tuple[Format, ...] = (Format.ONNX, Format.TFLITE)
    verify: bool = True
    force: bool = False

    consumes: ClassVar[tuple[str, ...]] = ("float", "int8")
    produces: ClassVar[str | None] = None


class BenchmarkStep(Settings):
    """Measure latency, memory, size and accuracy of every bundle and export of the run."""

    kind: Literal["benchmark"] = "benchmark"
    input: str | None = None
    runtimes: tuple[Runtime, ...] = (Runtime.TORCH, Runtime.ONNXRUNTIME, Runtime.LITERT)
    threads: tuple[Positive, ...] = (1,)
    restarts: Positive = 5
    budget_s: Rate = 30.0

    consumes: ClassVar[tuple[str, ...]] = ("float", "int8")
    produces: ClassVar[str | None] = None


class ReportStep(Settings):
    """Write ``report.html`` and ``report.json`` of the run."""

    kind: Literal["report"] = "report"

    consumes: ClassVar[tuple[str, ...]] = ("float", "int8")
    produces: ClassVar[str | None] = None


Step = Annotated[
    TrainStep | PruneStep | QuantizeStep | ExportStep | BenchmarkStep | ReportStep, Field(discriminator="kind")
]


class Recipe(Settings):
    """A named chain of steps over one data set."""

    name: str
    about: str = ""
    data: str = "digits"
    data_seed: int = 0
    steps: tuple[Step, ...] = Field(min_length=1)

    def resolved(self, existing: dict[str, str] | None = None) -> Recipe:
        """The recipe with every ``input`` and ``output`` written out.

        ``existing`` are bundles already in the run: name -> "float" or "int8". Raises ``UsageError`` when a step reads a bundle
        that no earlier step writes, or one of the wrong precision, or writes one twice.
        """
        made = dict(existing or {})
        last = next(reversed(made), None)
        steps: list[Any] = []
        for index, step in enumerate(self.steps):
            where = f"steps.{index} ({step.kind})"
            changes: dict[str, Any] = {}
            if step.consumes:
                source = getattr(step, "input", None)
                if step.produces is not None:
                    source = source or last
                    changes["input"] = source
                    _check_input(where, source, made, step.consumes)
                elif source is not None:
                    _check_input(where, source, made, step.consumes)
                elif not made:
                    raise UsageError(f"{where} has nothing to read", hint="put a train step before it")
            if step.produces is not None:
                output = step.output or default_output(step.kind, changes.get("input") or "")
                if output in made and output not in (existing or {}):
                    raise UsageError(f"{where} writes {output!r} a second time", hint="give it another output")
                changes["output"] = output
                made[output] = step.produces
                last = output
            steps.append(step.model_copy(update=changes))
        return self.model_copy(update={"steps": tuple(steps)})


def _check_input(where: str, source: str | None, made: dict[str, str], consumes: tuple[str, ...]) -> None:
    if source is None or source not in made:
        raise UsageError(
            f"{where} reads {source!r}, which no step before it writes",
            hint=f"written so far: {', '.join(made) or 'nothing; put a train step first'}",
        )
    if made[source] not in consumes:
        raise UsageError(
            f"{where} needs a {' or '.join(consumes)} bundle, and {source!r} is {made[source]} already",
            hint="quantizing comes last: name a float bundle with input",
        )


def default_output(kind: str, source: str) -> str:
    """The stage's name: ``pruned`` after ``float``, ``pruned-int8`` after ``pruned``, and so on."""
    word = {"prune": "pruned", "quantize": "int8"}[kind]
    return word if source == "float" else f"{source}-{word}"


def load(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file (or the name of one that edgecnn ships) and apply ``--set`` overrides.

    Raises ``UsageError`` with every problem found, each with its place in the file.
    """
    raw = read(path)
    for override in overrides or []:
        set_value(raw, override)
    return parse(raw, str(path))


def read(path: Path) -> dict[str, Any]:
    """A recipe file as a plain mapping, unchecked. Raises ``UsageError``."""
    return parse_yaml(find(path).read_text(), str(path))


def parse_yaml(text: str, where: str = "the recipe") -> dict[str, Any]:
    """YAML text as a plain mapping. Raises ``UsageError`` when it is something else."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML: {error}", hint="see the recipes that `edgecnn recipes` lists") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{where} is not a recipe: it must be a mapping with name, data and steps")
    return raw


def parse(raw: dict[str, Any], where: str) -> Recipe:
    """Check a plain mapping. Raises ``UsageError`` listing every problem."""
    try:
        # JSON mode: lists become tuples and strings enums, while strictness about numbers stays.
        return Recipe.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise UsageError(f"{where} has {len(lines)} problem(s):\n    " + "\n    ".join(lines)) from error


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    given = problem.get("input")
    note = ""
    if isinstance(given, str) and "number" in problem["msg"] and _looks_like_number(given):
        note = f" (YAML reads {given} as text: write {float(given)!r})"
    return f"{place}: {problem['msg']}{note}"


def _looks_like_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def set_value(raw: dict[str, Any], override: str) -> None:
    """Apply ``steps.0.epochs=5`` to a plain mapping, in place; the value is read as YAML. Raises ``UsageError``."""
    path, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"--set {override!r} has no '='", hint="write it as --set steps.0.epochs=5")
    *parents, last = path.split(".")
    node: Any = raw
    for part in parents:
        node = _child(node, part, override)
    if isinstance(node, list):
        _child(node, last, override)  # raises when there is no such place
        node[int(last)] = yaml.safe_load(text)
    elif isinstance(node, dict):
        node[last] = yaml.safe_load(text)
    else:
        raise UsageError(f"--set {override!r}: {'.'.join(parents)} holds a value, not keys")


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        if part.isdigit() and int(part) < len(node):
            return node[int(part)]
        raise UsageError(f"--set {override!r}: there is no item {part!r}", hint=f"0 to {len(node) - 1} exist")
    if isinstance(node, dict) and part in node:
        return node[part]
    known = ", ".join(node) if isinstance(node, dict) else "none"
    raise UsageError(f"--set {override!r}: there is no {part!r}", hint=f"keys here: {known}")


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that ``load`` reads back to the same value."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def folder() -> Path:
    """Where the shipped recipes lie: inside the installed package, or at the top of a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


def shipped() -> dict[str, Path]:
    """The recipes that come with edgecnn: name -> file."""
    return {path.stem: path for path in sorted(folder().glob("**/*.yaml"))}


def find(path: Path) -> Path:
    """A recipe file, or a shipped recipe by its name. Raises ``UsageError``."""
    if path.is_file():
        return path
    if str(path) in shipped():
        return shipped()[str(path)]
    raise UsageError(f"there is no recipe {path}", hint=f"a file, or one of: {', '.join(shipped())}")


def precision_of(step_kind: str) -> Precision:
    """The precision of what a step writes."""
    return Precision.INT8 if step_kind == "quantize" else Precision.FP32
