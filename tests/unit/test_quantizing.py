"""Which rung of the ladder is kept, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgecnn.bundle import Bundle, open_bundle
from edgecnn.compress import adaround, ptq
from edgecnn.data.tensors import load_split
from edgecnn.errors import UsageError
from edgecnn.graph.interpret import run as run_graph
from edgecnn.graph.ir import Graph, Op
from edgecnn.pipeline import climbing, quantizing
from edgecnn.pipeline.context import Context, data_of
from edgecnn.pipeline.exporting import export
from edgecnn.pipeline.ladder import Rung
from edgecnn.pipeline.loading import float_twin, load_graph, predictor, preprocess_of, scheme_of
from edgecnn.pipeline.quantizing import quantize
from edgecnn.pipeline.training import train
from edgecnn.spec import Format, Scheme, Split
from edgecnn.steps import QatTraining, QuantizeStep, TrainStep

RUNGS = ["plain", "repaired", "re-estimated", "reconstructed", "mixed"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small network that has seen the digits for three epochs."""
    run = tmp_path_factory.mktemp("ladder")
    shape = {"stem_stride": 2, "stages": ((1, 16, 1, 1), (4, 24, 2, 1), (4, 32, 2, 2)), "head": 64}
    step = TrainStep(model="mobilenet_v2", image_size=16, epochs=3, batch_size=32, threads=1, ema=None, **shape)
    return train(Context(run, data="digits", tell=lambda line: None), step)


def quantized(trained: Bundle, name: str, **settings: object) -> tuple[Bundle, list[str]]:
    """The bundle of a quantize step, and what was told on the way."""
    told: list[str] = []
    step = QuantizeStep.model_validate({"output": name, "calibration_images": 64, **settings})
    return quantize(Context(trained.path.parent, data="digits", tell=told.append), trained, step), told


def test_both_rungs_are_judged_and_the_least_divergent_is_kept(trained: Bundle) -> None:
    bundle, told = quantized(trained, "both")
    figures = bundle.manifest.figures
    plain, repaired = figures["ladder"]
    assert [plain["rung"], repaired["rung"]] == ["plain", "repaired"]
    assert figures["rung"] == min((plain, repaired), key=lambda rung: rung["kl"])["rung"]
    assert plain["images"] == repaired["images"] > 100
    assert any(line.startswith("both: plain: divergence") for line in told)


def test_a_gate_that_is_met_ends_the_climb(trained: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: object) -> None:
        raise AssertionError("this rung is for a gate that is missed")

    monkeypatch.setattr(climbing, "HIGHER", (never,))
    bundle, told = quantized(trained, "met", max_drop=100.0)
    assert [rung["rung"] for rung in bundle.manifest.figures["ladder"]] == RUNGS[:2]
    assert not any("next:" in line for line in told)


def test_a_repair_that_harms_is_not_used(trained: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(graph, quantized, moments):  # type: ignore[no-untyped-def]
        wrong = {key: -array if key.endswith("weight") else array for key, array in quantized.weights.items()}
        return quantized.with_nodes(quantized.nodes, weights=wrong)

    monkeypatch.setattr(ptq, "rounded", worse)
    monkeypatch.setattr(adaround, "STEPS", 3)
    bundle, _ = quantized(trained, "harmed")
    figures = bundle.manifest.figures
    assert [rung["rung"] for rung in figures["ladder"]][:2] == RUNGS[:2]
    assert figures["rung"] != "repaired"
    assert not (bundle.path / "equalization.safetensors").exists()


def test_the_float_twin_computes_what_the_parent_does(trained: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(*given):  # type: ignore[no-untyped-def]
        return (both(*given)[1],) * 2  # whichever is nearer here, its channels are equalized

    both = ptq.plain_and_repaired
    monkeypatch.setattr(ptq, "plain_and_repaired", twice)
    bundle, _ = quantized(trained, "twin")
    assert bundle.has("equalization.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    twin, parent = (run_graph(graph, images) for graph in (float_twin(bundle), load_graph(trained)))
    assert float((twin - parent).abs().max()) < 0.05 * float(parent.abs().max())
    assert {node.name for node in float_twin(bundle).nodes} == {node.name for node in load_graph(bundle).nodes}


def test_too_much_lost_is_said_and_diagnosed(trained: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph, pictures, method, hard_swish):  # type: ignore[no-untyped-def]
        found = ptq.plain_and_repaired(graph, pictures, method, hard_swish)[1]
        last = graph.output
        bias = found.graph.weights[f"{last}.bias"].copy()
        bias[0] += 2**20
        return ptq.Quantized(
            found.graph.with_nodes(found.graph.nodes, weights={**found.graph.weights, f"{last}.bias": bias}),
            found.changes,
            found.calibration,
        )

    monkeypatch.setattr(ptq, "plain", broken)
    bundle, told = quantized(trained, "lost", repair=False)
    assert any("the drop is above 0.5 points" in line and "--qat" in line for line in told)
    page = Path(told[-1])
    assert page.name == "lost-diagnosis.html"
    assert "Diagnosis" in page.read_text()
    assert open_bundle(bundle.path).manifest.figures["ladder"][0]["drop_low"] > 0.5


def blown_up(graph: Graph) -> tuple[Graph, str, str]:
    """The same function with a channel that int8 cannot hold, the layer that writes it, and the one that reads it."""
    writer, reader = next(
        (node, readers[0])
        for node in graph.nodes
        if node.op is Op.CONV and node.attrs["clamp"] is None
        for readers in [graph.consumers(node.name)]
        if len(readers) == 1 and readers[0].op is Op.CONV and readers[0].attrs["groups"] == 1
    )
    weights = {key: array.copy() for key, array in graph.weights.items()}
    for part in ("weight", "bias"):
        weights[f"{writer.name}.{part}"][0] *= 1000
    weights[f"{reader.name}.weight"][:, 0] /= 1000
    return graph.with_nodes(graph.nodes, weights=weights), writer.name, reader.name


@pytest.fixture
def collapsing(trained: Bundle, monkeypatch: pytest.MonkeyPatch) -> Graph:
    """The trained network as one that int8 breaks, with what would mend it taken away but for keeping layers float."""

    def twice(*given):  # type: ignore[no-untyped-def]
        return (ptq.plain(*given),) * 2

    graph, _, _ = blown_up(load_graph(trained))
    monkeypatch.setattr(quantizing, "load_graph", lambda bundle: graph)
    monkeypatch.setattr(ptq, "plain_and_repaired", twice)
    monkeypatch.setattr(quantizing, "tell_why", lambda context, bundle, page: context.tell("diagnosed"))
    monkeypatch.setattr(adaround, "STEPS", 3)
    monkeypatch.setattr(climbing, "JUDGES", 64)
    return graph


def test_all_rungs_are_climbed_in_order_and_what_is_kept_is_the_scheme(trained: Bundle, collapsing: Graph) -> None:
    bundle, told = quantized(trained, "climbed", max_drop=1.0, max_growth=3.0, max_float=1.0)
    figures = bundle.manifest.figures
    ladder = figures["ladder"]
    assert [rung["rung"] for rung in ladder] == RUNGS and figures["rung"] == "mixed"
    assert all(rung["drop"] > 1.0 for rung in ladder[:-1]) and ladder[-1]["drop"] <= 1.0
    assert figures["kept"] and bundle.manifest.config["scheme"] == "int8"
    assert bundle.manifest.precision == "mixed" and scheme_of(bundle)[0] is Scheme.MIXED

    # The gain over the best so far, on the same pictures; a change of kind is judged on more of them.
    assert "over" not in ladder[0] and all(rung["over"] in RUNGS and rung["seconds"] >= 0 for rung in ladder[1:])
    start = min(ladder[:-1], key=lambda rung: (-rung["images"], rung["kl"]))
    assert ladder[0]["images"] == 64 < ladder[-1]["images"] == start["images"]
    assert ladder[-1]["over"] == start["rung"]
    assert ladder[-1]["gain_kl"] == pytest.approx(start["kl"] - ladder[-1]["kl"], abs=2e-6)
    assert ladder[-1]["gain_points"] == pytest.approx(start["drop"] - ladder[-1]["drop"], abs=2e-3)
    assert any(f"on {start['images']} pictures: divergence" in line for line in told)
    assert any(line.startswith("climbed: mixed: ") and line.endswith(f"points over {start['rung']}") for line in told)
    assert any("left int8" in line and "--integer-only" in line for line in told)
    assert not any("diagnosed" in line for line in told)

    with pytest.raises(UsageError, match="is mixed, which pte cannot have") as refused:
        export(Context(trained.path.parent, data="digits"), bundle, (Format.PTE,))
    assert "--integer-only" in str(refused.value.hint)


def test_integers_throughout_where_that_is_asked_for(trained: Bundle, collapsing: Graph) -> None:
    bundle, told = quantized(trained, "integers", max_drop=1.0, integer_only=True)
    assert [rung["rung"] for rung in bundle.manifest.figures["ladder"]] == RUNGS[:-1]
    assert bundle.manifest.precision == "int8" and all(node.bits == 8 for node in load_graph(bundle).nodes)
    line = next(line for line in told if "the drop is above 1.0 points" in line)
    assert "next: train the numbers too (--qat) or keep some layers in float (without --integer-only)" in line
    assert told[-1] == "diagnosed"


def test_no_layer_leaves_int8_for_a_loss_that_is_not_certain(
    trained: Bundle, collapsing: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rung, "surely_loses", False)
    bundle, told = quantized(trained, "uncertain", max_drop=1.0)
    assert bundle.manifest.figures["rung"] != "mixed" and bundle.manifest.precision == "int8"
    assert any("not certain" in line for line in told)


@pytest.mark.parametrize("better", [True, False])
def test_trained_integers_that_meet_the_gate_are_taken_before_mixed(
    trained: Bundle, collapsing: Graph, monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    healthy = load_graph(trained)
    images = load_split(data_of(trained), Split.TRAIN, preprocess_of(trained), limit=64).images
    learned = ptq.plain(healthy, lambda: [images]).graph

    def train_numbers(context, parent, stage, settings, graphs, data, work):  # type: ignore[no-untyped-def]
        return (learned if better else graphs[1]), {"qat_kept": better}

    monkeypatch.setattr(quantizing, "train_numbers", train_numbers)
    monkeypatch.setattr(climbing, "HIGHER", climbing.HIGHER[-1:])
    qat = QatTraining(epochs=1)
    bundle, told = quantized(trained, f"taught-{better}", max_drop=2.0, max_growth=3.0, qat=qat)
    figures = bundle.manifest.figures
    assert [rung["rung"] for rung in figures["ladder"]] == [*RUNGS[:2], "mixed", *["trained"] * better]
    assert (figures["rung"], bundle.manifest.precision) == (("trained", "int8") if better else ("mixed", "mixed"))
    assert ("kept" in figures) != better
    assert any("over plain" in line and "trained:" in line for line in told)


def test_the_layer_that_int8_breaks_stays_float(trained: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, writer, reader = blown_up(load_graph(trained))
    monkeypatch.setattr(quantizing, "load_graph", lambda bundle: graph)
    bundle, told = quantized(trained, "mixed", scheme=Scheme.MIXED, repair=False, max_drop=1.0, max_growth=3.0)
    figures, numbers = bundle.manifest.figures, load_graph(bundle)
    plain, mixed = figures["ladder"]
    assert (plain["rung"], mixed["rung"]) == ("plain", "mixed") and plain["drop"] > 1.0 >= mixed["drop"]
    assert mixed["kl"] < plain["kl"] / 10
    assert {writer, reader} <= set(figures["kept"]) and figures["growth"] <= 3.0 and figures["float_macs"] <= 0.5
    wide = {name for name in figures["kept"] if numbers.weights[f"{name}.weight"].dtype == np.float32}
    assert wide == set(figures["kept"]) and writer not in numbers.qparams
    assert any("kept in float (weights +" in line and writer in line for line in told)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    assert np.allclose(run_graph(numbers, images), predictor(bundle)(images))


def test_mixed_keeps_nothing_where_int8_is_good_enough(trained: Bundle) -> None:
    bundle, told = quantized(trained, "good", scheme=Scheme.MIXED, repair=False, max_drop=100.0)
    assert bundle.manifest.precision == "int8"
    assert "kept" not in bundle.manifest.figures and any("nothing has to be kept in more bits" in line for line in told)
    assert all(node.bits == 8 for node in load_graph(bundle).nodes)


def test_16_bit_activations_are_nearer(trained: Bundle) -> None:
    wide, narrow = (
        quantized(trained, scheme.value, scheme=scheme, repair=False)[0] for scheme in (Scheme.INT16X8, Scheme.INT8)
    )
    kls = [bundle.manifest.figures["ladder"][0]["kl"] for bundle in (wide, narrow)]
    assert kls[0] < kls[1] and wide.manifest.precision == "16x8"
    assert {q.bits for name, q in load_graph(wide).qparams.items() if name != load_graph(wide).input.name} == {16}
