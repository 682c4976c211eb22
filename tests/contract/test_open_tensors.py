"""Layers that sum 8-bit integers and leave their sums unrounded: what they compute, in every format and runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import GRAPHS, RELU6, Maker, pictures, quantized
from test_formats import compare_formats

from edgecnn import catalog
from edgecnn.compress.alike import groups
from edgecnn.compress.bits import INT8, Plan, opened, whole
from edgecnn.compress.mixed import loosened
from edgecnn.errors import UsageError
from edgecnn.export.columns import group_columns
from edgecnn.export.lowering import lower
from edgecnn.export.onnx import render
from edgecnn.graph import store
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import WEIGHTED, Graph, Op
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Runtime

SUMS = ("activations on unrounded sums", "additions of unrounded branches", "unrounded answers")


def small_mobilenet(m: Maker) -> Graph:
    """A stem with a hard-swish, two residual blocks, one of them squeezed and excited."""
    x = m.same(Op.HARD_SWISH, m.conv(m.input, 8, stride=(2, 2), padding=(1, 1, 1, 1)))
    for squeezed in (False, True):
        y = m.same(Op.HARD_SWISH, m.conv(x, 24, (1, 1)))
        y = m.same(Op.HARD_SWISH, m.conv(y, 24, padding=(1, 1, 1, 1), groups=24))
        if squeezed:
            gate = m.conv(m.conv(m.mean(y), 8, (1, 1), clamp=RELU6), 24, (1, 1), clamp=[0.0, 1.0])
            y = m.same(Op.MUL, y, gate)
        x = m.same(Op.ADD, x, m.conv(y, 8, (1, 1)))
    return m.classify(m.mean(x))


def with_open_sums(real: Graph) -> Graph:
    """The int8 graph with every tensor open that can be."""
    plan = INT8
    for name, group in groups(real).items():
        plan = plan.joined(group) if name in SUMS else plan
    return loosened(real, quantized(real), plan.bits, unrounded=plan.unrounded)


def test_an_open_tensor_is_the_sum_times_its_scale() -> None:
    real = GRAPHS["linear_relu6"](Maker())
    graph = with_open_sums(real)
    (name,) = [node.name for node in graph.nodes if graph.is_open(node)]
    images = pictures(real, 3)
    seen = run(graph, images, keep=True)
    source = graph.qparams[graph.node(name).inputs[0]]
    q = np.rint(seen[graph.node(name).inputs[0]].numpy() / source.scale).astype(np.int64)
    sums = q @ graph.weights[f"{name}.weight"].astype(np.int64).T + graph.weights[f"{name}.bias"]
    wanted = sums.astype(np.float32) * (np.float32(source.scale) * graph.weight_scales[name])
    assert np.array_equal(seen[name].numpy(), wanted)
    assert torch.equal(run(graph, images, batch_size=1), torch.from_numpy(wanted))


def test_an_open_tensor_keeps_its_clamp() -> None:
    m = Maker()
    graph = m.finish(m.linear(m.flatten(m.mean(m.conv(m.input, 8))), 5, clamp=[-0.1, 0.2]))
    values = run(opened(quantized(graph), {graph.output}), pictures(graph, 8))
    assert values.min() == np.float32(-0.1) and values.max() == np.float32(0.2)


@pytest.mark.parametrize(
    "name", ["residual", "add", "add_clamped", "hard_swish_into_add", "hard_swish", "silu", "stem_gated", "stem_wide"]
)
def test_every_tensor_of_every_format_is_the_interpreters(name: str, tmp_path: Path) -> None:
    graph = with_open_sums(GRAPHS[name](Maker((8, 12))))
    assert any(graph.is_open(node) for node in graph.nodes)
    compare_formats(graph, tmp_path)


@pytest.mark.parametrize("size", [(9, 11), (8, 16)])
def test_a_whole_network_too(size: tuple[int, int], tmp_path: Path) -> None:
    compare_formats(with_open_sums(small_mobilenet(Maker(size))), tmp_path)


def test_the_stem_reads_several_columns_all_the_same() -> None:
    graph = with_open_sums(small_mobilenet(Maker((8, 16))))
    wide = group_columns(lower(graph))
    stem = next(node for node in wide.nodes if node.op is Op.CONV)
    assert stem.attrs["stride"] == [2, 1] and wide.is_open(stem)


def test_openvino_computes_open_sums_as_they_are_written(tmp_path: Path) -> None:
    """It adds branches unrounded in either file; only the numbers of one of them say so."""
    if catalog.engines()[Runtime.OPENVINO] != "ready":
        pytest.skip(catalog.engines()[Runtime.OPENVINO])
    real = small_mobilenet(Maker((16, 16)))
    images = pictures(real, 32)
    worst = {}
    for name, graph in {"open": with_open_sums(real), "int8": quantized(real)}.items():
        file = tmp_path / f"{name}.onnx"
        render(graph, file, meta={})
        with open_session(Runtime.OPENVINO, file) as session:
            worst[name] = np.abs(session.infer(images) - run(graph, images).numpy()).max()
    step = quantized(real).qparams[real.output].scale
    assert worst["open"] <= step < worst["int8"]


def test_open_tensors_survive_the_disk(tmp_path: Path) -> None:
    graph = with_open_sums(small_mobilenet(Maker()))
    store.save(graph, tmp_path)
    loaded = store.load(tmp_path)
    images = pictures(graph, 2)
    assert loaded.qparams == graph.qparams and torch.equal(run(loaded, images), run(graph, images))


def test_they_are_nearer_to_float() -> None:
    real = small_mobilenet(Maker((16, 16)))
    images = pictures(real, 16)
    wanted = run(real, images)
    near, far = (
        float((run(each, images) - wanted).square().mean()) for each in (with_open_sums(real), quantized(real))
    )
    assert near < far


def test_what_cannot_be_open() -> None:
    real = GRAPHS["residual"](Maker())
    branch = next(node for node in real.nodes if node.op is Op.ADD).inputs[1]
    for name in (branch, "nobody", real.input.name):
        with pytest.raises(UsageError, match="cannot stay unrounded"):
            opened(quantized(real), {name})
    with pytest.raises(UsageError, match="cannot stay unrounded"):
        opened(quantized(real, whole(real, 32)), {branch})


def test_groups_are_of_alike_nodes_and_leave_no_other_numbers() -> None:
    real = small_mobilenet(Maker())
    found = groups(real)
    layers = {node.name for node in real.nodes if node.op in WEIGHTED}
    swishes = {node.name for node in real.nodes if node.op is Op.HARD_SWISH}
    assert set(found["activations on unrounded sums"].bits) == swishes
    assert found["activations on unrounded sums"].unrounded == {real.node(name).inputs[0] for name in swishes}
    assert len(found["additions of unrounded branches"].unrounded) == 2
    assert found["unrounded answers"] == Plan({}, frozenset({real.output}))
    squeezed = found["squeeze-and-excitation in float"].bits
    assert sorted(real.node(name).op for name in squeezed) == [Op.CONV, Op.CONV, Op.MEAN]
    assert not set(found["averages in float"].bits) & set(squeezed)
    assert set(found["the first layer in float"].bits) <= layers
    integer = quantized(real)
    for plan in found.values():
        graph = loosened(real, integer, plan.bits, unrounded=plan.unrounded)
        assert {name: graph.qparams[name] for name in graph.qparams} == {
            name: integer.qparams[name] for name in graph.qparams
        }


def test_a_layer_of_more_bits_is_not_open() -> None:
    plan = Plan({"act": 32}, frozenset({"conv"})).joined(Plan({"conv": 32, "act": 16}))
    assert plan == Plan({"act": 32, "conv": 32})
    graph = with_open_sums(GRAPHS["residual"](Maker()))
    node = next(node for node in graph.nodes if graph.is_open(node))
    assert not graph.is_open(replace(node, bits=32)) and not graph.is_integer(node)
