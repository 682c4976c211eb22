"""Data flows left to right: a module imports only from its left. The order below is the package's architecture."""

from __future__ import annotations

import ast
import sys
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import edgecnn
from edgecnn.runtimes.pack import write_worker

ROOT = Path(edgecnn.__file__).parent

LAYERS = (
    ("spec", "errors"),
    ("tasks", "catalog", "schemes", "disk", "versions", "yaml_text", "transforms", "steps", "recipe", "bundle"),
    ("data",),
    ("models",),
    ("graph",),
    ("train",),
    ("compress",),
    ("export",),
    ("devices",),
    ("runtimes",),
    ("measure",),
    ("report",),
    ("pipeline",),
    ("api",),
    ("cli",),
    ("__main__",),
)
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

# Turning text into code is the catalog's job alone, so that every name that can be loaded stands in one table.
BY_NAME = {
    "import_module",
    "__import__",
    "resolve_name",
    "spec_from_file_location",
    "module_from_spec",
    "run_module",
    "run_path",
}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    files = sorted(ROOT.rglob("*.py"))
    return {
        ".".join(("edgecnn", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
        for file in files
    }


MODULES = modules()


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(name: str, parsed: ast.Module, *, package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything imported anywhere in a module, inside functions and type checks too."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".")
            base = parents[: len(parents) - node.level + package] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def imports_of(name: str) -> Iterator[tuple[int, str]]:
    return imports(name, tree(name), package=MODULES[name].name == "__init__.py")


def layer_of(dotted: str) -> str | None:
    """The first part below the package: "graph" of "edgecnn.graph.ir"; None for the package itself and for others."""
    first, _, rest = dotted.partition(".")
    return rest.partition(".")[0] or None if first == "edgecnn" else None


def wrong_imports(name: str, found: Iterable[tuple[int, str]]) -> list[str]:
    """What a module imports that is not to its left, in words."""
    own = layer_of(name)
    if own is None:
        return []  # the package's own __init__ offers everything, lazily
    wrong = []
    for line, target in found:
        theirs = layer_of(target)
        if theirs in (None, own, "__version__"):
            continue
        if theirs not in RANKS:
            wrong.append(f"{name}:{line} imports {target}, which is in no layer")
        elif RANKS[theirs] > RANKS[own]:
            wrong.append(f"{name}:{line} imports {target}, which is to its right")
    return wrong


def test_every_module_has_a_layer() -> None:
    layers = {layer_of(name) for name in MODULES} - {None}
    assert layers - RANKS.keys() == set()


@pytest.mark.parametrize("layer", RANKS)
def test_a_module_imports_only_from_its_left(layer: str) -> None:
    wrong = [
        problem for name in MODULES if layer_of(name) == layer for problem in wrong_imports(name, imports_of(name))
    ]
    assert wrong == []


def test_the_package_itself_imports_its_parts_only_when_asked() -> None:
    eager = [node for node in tree("edgecnn").body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in eager if "edgecnn" in ast.unparse(node)] == []


def test_only_the_catalog_imports_by_name() -> None:
    users = set()
    for name in MODULES:
        for node in ast.walk(tree(name)):
            words = {getattr(node, "id", None), getattr(node, "attr", None)}
            words |= {alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)}
            if words & BY_NAME:
                users.add(name)
    assert users == {"edgecnn.catalog"}


def closure(starts: Iterable[str]) -> set[str]:
    """All modules of the package that importing ``starts`` can reach, by imports anywhere in their text."""
    reached: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for _, target in imports_of(name):
            # "from edgecnn.runtimes.ports import InputPort" means the module; "from edgecnn import catalog" its member.
            waiting += [
                module for module in (target, target.rpartition(".")[0]) if module in MODULES and module != "edgecnn"
            ]
    return reached


def standalone() -> list[str]:
    folder = "edgecnn.runtimes."
    return [name for name in MODULES if name == f"{folder}worker" or name.startswith(f"{folder}engine")]


def test_the_worker_is_whole_when_it_is_packed_for_another_machine(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_worker(tmp_path / "worker.pyz")) as archive:
        packed = {name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in archive.namelist()}
    assert len(standalone()) > 2
    assert closure(standalone()) <= packed


def test_the_worker_needs_only_the_standard_library_and_numpy_to_start() -> None:
    needed = set()
    for name in closure(standalone()):
        for node in tree(name).body:
            if isinstance(node, ast.Import):
                needed |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                needed.add((node.module or "").partition(".")[0])
    assert needed - sys.stdlib_module_names <= {"edgecnn", "numpy"}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import edgecnn.cli", "right"),
        ("def late():\n    from edgecnn.pipeline import run", "right"),
        ("if TYPE_CHECKING:\n    from edgecnn import measure", "right"),
        ("from ..measure import stats", "right"),
        ("from .. import report", "right"),
        ("from edgecnn.helpers import anything", "no layer"),
        ("from edgecnn.spec import Row", ""),
        ("from edgecnn import __version__, errors", ""),
        ("from .ir import Graph\nimport torch", ""),
    ],
)
def test_the_check_itself_sees_every_way_to_import(source: str, problem: str) -> None:
    wrong = wrong_imports("edgecnn.graph.capture", imports("edgecnn.graph.capture", ast.parse(source)))
    assert len(wrong) == bool(problem)
    assert all(problem in words for words in wrong)
