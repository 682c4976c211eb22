"""Numbers made for one runtime, from the command line; the times are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from driving import Outcome

from edgecnn import catalog
from edgecnn.bundle import open_bundle
from edgecnn.measure.latency import Comparison
from edgecnn.pipeline import timed_choice
from edgecnn.pipeline.loading import load_graph
from edgecnn.spec import Interval, Status

Cli = Callable[..., Outcome]
QUICK = ("--scheme", "mixed", "--no-repair", "--calibration-images", 64, "--set", "steps.0.threads=1")
GATE = ("--max-drop", 100)
SAME = (0.98, 1.0, 1.02)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, float, float]]]:
    """The ratios (low, value, high) that comparisons will find, one after the other; then that of the same time."""
    coming: list[tuple[float, float, float]] = []

    def compare(*_: Any, **__: Any) -> Comparison:
        low, value, high = coming.pop(0) if coming else SAME
        ratio = Interval(value, low, high, 40)
        return Comparison(ratio, ratio, ratio, Status.OK)

    monkeypatch.setattr(timed_choice, "compare", compare)
    yield coming


def groups_of(bundle: Path) -> dict[str, bool]:
    """The groups that were tried, and whether each was kept."""
    timed = open_bundle(bundle).manifest.figures["timed"]
    return {each["group"]: each["kept"] for each in timed["groups"]}


def test_what_is_faster_is_kept_and_the_files_pass_the_gate(
    cli: Cli, run: Path, times: list[tuple[float, float, float]]
) -> None:
    slower = (1.1, 1.2, 1.3)
    times += [(0.8, 0.9, 0.95), slower, slower, slower, (1.2, 1.3, 1.4)]
    outcome = cli("compress", run / "float", *QUICK, *GATE, "--runtime", "onnxruntime")
    assert outcome.code == 0, outcome.err
    bundle = run / "mixed-onnxruntime"
    kept = groups_of(bundle)
    assert kept.pop("additions of unrounded branches") and len(kept) == 3 and not any(kept.values())
    graph = load_graph(open_bundle(bundle))
    branches = [f"blocks.{number}.project.conv" for number in (2, 4)]
    assert [node.name for node in graph.nodes if graph.is_open(node)] == branches
    figures = open_bundle(bundle).manifest.figures
    assert figures["rung"] == "timed" and figures["timed"]["over_float"]["ratio"] == 1.3
    assert figures["timed"]["host"] and figures["timed"]["groups"][0]["ratio_high"] == 0.95
    assert "0.900 times the time (0.800 to 0.950)" in outcome.err and "slower than float there" in outcome.err
    exported = cli("export", bundle)
    assert exported.code == 0, exported.err
    assert exported.err.count("top-1 agreement") >= 2
    verified = cli("verify", bundle)
    assert verified.code == 0, verified.out + verified.err


def test_where_nothing_is_faster_or_nearer_the_numbers_are_those_of_int8(
    cli: Cli, run: Path, times: list[tuple[float, float, float]]
) -> None:
    times += 8 * [(1.01, 1.06, 1.1)]
    assert cli("compress", run / "float", *QUICK, *GATE, "--runtime", "litert").code == 0
    bundle = run / "mixed-litert"
    assert not any(groups_of(bundle).values())
    graph = load_graph(open_bundle(bundle))
    assert all(graph.is_integer(node) for node in graph.nodes)


def test_what_still_loses_too_much_is_loosened_as_well(
    cli: Cli, run: Path, times: list[tuple[float, float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecnn.pipeline.ladder.Rung.misses", lambda rung, max_drop: rung.name == "plain")
    times += [(0.8, 0.9, 0.95)]
    outcome = cli("compress", run / "float", *QUICK, "--runtime", "onnxruntime")
    assert outcome.code == 0, outcome.err
    figures = open_bundle(run / "mixed-onnxruntime").manifest.figures
    assert [rung["rung"] for rung in figures["ladder"]] == ["plain", "mixed", "timed"] and figures["kept"]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--scheme", "int8", "--runtime", "openvino"), "which is for mixed; the scheme is int8"),
        (("--scheme", "mixed", "--runtime", "tflm"), "which is not measured"),
        (("--scheme", "mixed", "--runtime", "torch"), "no file is written for it"),
        (("--scheme", "mixed", "--runtime", "executorch"), "which pte cannot have"),
        (("--scheme", "mixed", "--runtime", "opencv"), "runtime"),
        (("--prune", "0.3", "--runtime", "openvino"), "add --scheme mixed"),
    ],
)
def test_what_makes_no_sense_is_refused(cli: Cli, run: Path, arguments: tuple[str, ...], found: str) -> None:
    outcome = cli("compress", run / "float", *arguments)
    assert outcome.code == 2 and found in outcome.err


def test_a_runtime_that_is_not_installed_is_refused_before_any_work(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = catalog.engines() | {"openvino": "not installed: pip install 'edgecnn[openvino]'"}
    monkeypatch.setattr(catalog, "engines", lambda: here)
    outcome = cli("compress", run / "float", *QUICK, "--runtime", "openvino")
    assert outcome.code != 0 and "pip install 'edgecnn[openvino]'" in outcome.err
    assert "plain" not in outcome.err and not (run / "mixed-openvino").exists()
