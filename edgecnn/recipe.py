"""A recipe: a typed list of steps, bundle in -> bundle out, checked before anything heavy is imported.

Every verb of the command line builds one of these steps from its flags, so ``--dry-run`` can print the recipe that the
flags mean, and a recipe file can do whatever the flags can. Unknown keys and wrong types are errors. A step's
``output`` names the bundle it writes inside the run; ``input`` names the one it reads (default: the bundle written
last).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from edgecnn import catalog, schemes, yaml_text
from edgecnn.errors import UsageError
from edgecnn.spec import Runtime, Scheme
from edgecnn.steps import (
    STEPS,
    BenchmarkStep,
    ExportStep,
    PruneStep,
    QatTraining,
    QuantizeStep,
    Settings,
    Step,
    Training,
    TrainStep,
)

INSIDE: dict[str, type[Training]] = {"recovery": Training, "qat": QatTraining}
"""Settings of a step that are a training of their own."""

LIST = "edgecnn recipes lists some; edgecnn train ... --dry-run prints one"


class Recipe(Settings):
    """A named chain of steps over one data set."""

    name: str
    about: str = ""
    data: str = "digits"
    data_seed: int = 0
    steps: tuple[Step, ...] = Field(min_length=1)

    def resolved(self, existing: Mapping[str, str] | None = None) -> Recipe:
        """The recipe with every ``input`` and ``output`` written out.

        ``existing`` are bundles already in the run: name -> "float" or a scheme; one alone is what the first step reads
        by default. Raises ``UsageError`` when a step reads a bundle that no earlier step writes, or one of the wrong
        precision, or writes one twice, or a file is asked for that a bundle's precision cannot be written in.
        """
        made = dict(existing or {})
        groups: dict[str, int] = {}
        written: set[str] = set()
        last = next(iter(made)) if len(made) == 1 else None
        steps: list[Any] = []
        for index, step in enumerate(self.steps):
            where = f"steps.{index} ({step.kind})"
            changes: dict[str, Any] = {}
            if isinstance(step, PruneStep | QuantizeStep):
                changes["input"] = step.input or last
                _check_input(where, changes["input"], made, step.consumes)
                word = _word(step) if isinstance(step, QuantizeStep) else "pruned"
                changes["output"] = step.output or default_output(word, changes["input"])
            elif isinstance(step, ExportStep | BenchmarkStep) and step.input is not None:
                _check_input(where, step.input, made, step.consumes)
            elif not isinstance(step, TrainStep) and not made:
                raise UsageError(f"{where} has nothing to read", hint="put a train step before it")
            if isinstance(step, TrainStep | PruneStep | QuantizeStep):
                last = str(changes.get("output", step.output))
                if last in written:
                    raise UsageError(f"{where} writes {last!r} a second time", hint="give it another output")
                written.add(last)
                made[last] = step.scheme.value if isinstance(step, QuantizeStep) else "float"
            if isinstance(step, QuantizeStep):
                _check_scheme(where, step)
                groups[str(last)] = step.weight_group
            if isinstance(step, ExportStep):
                _check_formats(step, made, groups)
            steps.append(step.model_copy(update=changes))
        return self.model_copy(update={"steps": tuple(steps)})


def _word(step: QuantizeStep) -> str:
    """What a quantized bundle is called where nothing is said: its scheme, and the runtime that it is made for."""
    return step.scheme.value if step.runtime is None else f"{step.scheme}-{step.runtime}"


def _check_input(where: str, source: str | None, made: Mapping[str, str], consumes: tuple[str, ...]) -> None:
    if source is None:
        hint = f"name one with input: {', '.join(made)}" if made else "put a train step before it"
        raise UsageError(f"{where} does not say which bundle it reads", hint=hint)
    if source not in made:
        raise UsageError(
            f"{where} reads {source!r}, which is not there and which no step before it writes",
            hint=f"there are: {', '.join(made)}" if made else "put a train step before it",
        )
    if made[source] not in consumes:
        raise UsageError(
            f"{where} needs a {' or '.join(consumes)} bundle, and {source!r} is {made[source]} already",
            hint="quantizing comes last: name a float bundle with input",
        )


def _check_scheme(where: str, step: QuantizeStep) -> None:
    """Raise ``UsageError`` for settings that a scheme cannot have."""
    if step.qat is not None and step.scheme is not Scheme.INT8:
        raise UsageError(
            f"{where} trains quantized numbers (qat), which is for int8; the scheme is {step.scheme}",
            hint="leave qat out, or take the scheme int8",
        )
    if step.integer_only and step.scheme is not Scheme.INT8:
        raise UsageError(
            f"{where} is to stay in integers (integer_only), which is for int8; the scheme is {step.scheme}",
            hint="leave integer_only out, or take the scheme int8",
        )
    if step.runtime is not None:
        _check_runtime(where, step, step.runtime)


def _check_runtime(where: str, step: QuantizeStep, runtime: Runtime) -> None:
    """Raise ``UsageError`` where nothing can be made for a runtime by its time."""
    if step.scheme is not Scheme.MIXED:
        raise UsageError(
            f"{where} is made for a runtime ({runtime}), which is for mixed; the scheme is {step.scheme}",
            hint="leave runtime out, or take the scheme mixed",
        )
    row = catalog.RUNTIMES[runtime]
    if row.untimed or runtime is Runtime.NULL or row.formats[0] not in catalog.FORMATS:
        why = row.untimed or "no file is written for it"
        raise UsageError(
            f"{where} is to be chosen by the time in {runtime}, which is not measured: {why}",
            hint="leave runtime out, or name another one: edgecnn doctor shows them",
        )
    schemes.check(step.scheme, row.formats[0], who=where)


def _check_formats(step: ExportStep, made: Mapping[str, str], groups: Mapping[str, int]) -> None:
    """Raise ``UsageError`` where a format is asked for that a bundle's precision cannot be written in."""
    for name, kind in made.items():
        if kind != "float" and step.input in (None, name):
            for format in step.formats or ():
                schemes.check(Scheme(kind), format, groups.get(name, 0), who=repr(name))


def default_output(word: str, source: str) -> str:
    """The stage's name: ``pruned`` after ``float``, ``pruned-int8`` after ``pruned``, and so on."""
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
    try:
        text = find(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a recipe: it is not text", hint=LIST) from error
    return _beside(parse_yaml(text, str(path)), find(path).parent)


def _beside(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe, in which the files that its steps name are found beside it, wherever it is run from."""
    steps = raw.get("steps")
    named = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    for step in [*named, *(step[key] for step in named for key in INSIDE if isinstance(step.get(key), dict))]:
        file = step.get("albumentations")
        if isinstance(file, str) and (folder / file).is_file():
            step["albumentations"] = str(folder / file)
    return raw


def parse_yaml(text: str, where: str = "the recipe") -> dict[str, Any]:
    """YAML text as a plain mapping. Raises ``UsageError`` when it is something else."""
    try:
        raw = yaml_text.load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML: {error}", hint=LIST) from error
    if not isinstance(raw, dict):
        raise UsageError(f"{where} is not a recipe: it must be a mapping with name, data and steps", hint=LIST)
    return raw


def parse(raw: dict[str, Any], where: str) -> Recipe:
    """Check a plain mapping. Raises ``UsageError`` listing every problem."""
    try:
        # JSON mode: lists become tuples and strings enums, while strictness about numbers stays.
        return Recipe.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        found = error.errors()
        # A list with a faulty item is also called too short.
        lines = [_explain(each) for each in found if len(found) == 1 or each["loc"] != ("steps",)]
        raise UsageError(f"{where} has {len(lines)} problem(s):\n    " + "\n    ".join(lines)) from error


def _explain(problem: Any) -> str:
    """One line: where in the recipe, as ``--set`` spells it, and what is wrong there."""
    place, kind = _place(problem["loc"])
    given = problem.get("input")
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(problem["loc"][-1]), _fields(kind, problem["loc"]), n=1)
        return f"{place}: there is no such setting" + (f", did you mean {close[0]}?" if close else "")
    note = "" if isinstance(given, dict | list) or problem["type"] == "missing" else f", found {given!r}"
    return f"{place}: {problem['msg']}{note}"


def _place(loc: tuple[Any, ...]) -> tuple[str, str]:
    """The location in dots without the kind of step that pydantic puts after the number, and that kind."""
    if len(loc) > 2 and loc[0] == "steps":
        return ".".join(map(str, (*loc[:2], *loc[3:]))), str(loc[2])
    return ".".join(map(str, loc)), ""


def _fields(kind: str, loc: tuple[Any, ...]) -> list[str]:
    """The names that are known where an unknown one was found."""
    for key, training in INSIDE.items():
        if key in loc[:-1]:
            return list(training.model_fields)
    steps = {each.model_fields["kind"].default: each for each in STEPS}
    return list(steps.get(kind, Recipe).model_fields)


def set_value(raw: dict[str, Any], override: str) -> None:
    """Apply ``steps.0.epochs=5`` to a plain mapping, in place; the value is read as YAML. Raises ``UsageError``."""
    path, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"--set {override!r} has no '='", hint="write it as --set steps.0.epochs=5")
    try:
        value = yaml_text.load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override!r}: the value is not YAML", hint="quote it: key='text'") from error
    *parents, last = path.split(".")
    node: Any = raw
    for part in parents:
        node = _child(node, part, override)
    if isinstance(node, list):
        _child(node, last, override)  # raises when there is no such place
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
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
    return yaml_text.dump(recipe.model_dump(mode="json"))


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
