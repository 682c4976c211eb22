"""Weights in fewer bits: what is stored, what it stands for, and how near that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from edgecnn.compress import ptq
from edgecnn.compress.weight_only import group_count, narrowed, nearest
from edgecnn.errors import ModelError, UsageError
from edgecnn.graph import store
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.graph.real import quantized_while_running
from edgecnn.graph.weights import is_int4, pack_int4, real, real_weights, unpack_int4
from edgecnn.spec import Preprocess, Scheme

ROWS = arrays(np.float32, st.tuples(st.integers(1, 4), st.just(24)), elements=st.floats(-8, 8, width=32))


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU())
    head = (nn.Conv2d(16, 64, 1), nn.ReLU(), nn.Conv2d(64, 40, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return capture(
        nn.Sequential(*layers, *head, nn.Linear(40, 5)), 8, Preprocess(8, (127 / 255,) * 3, (128 / 255,) * 3)
    )


@given(values=arrays(np.int8, st.integers(0, 33), elements=st.integers(-8, 7)))
@settings(deadline=None)
def test_4_bit_integers_survive_being_packed(values: np.ndarray) -> None:
    packed = pack_int4(values)
    assert packed.dtype == np.uint8 and len(packed) == -(-len(values) // 2)
    assert np.array_equal(unpack_int4(packed, values.shape), values)


def test_the_first_of_two_lies_in_the_low_half() -> None:
    assert pack_int4(np.array([1, -1, 7], np.int8)).tolist() == [0xF1, 0x07]


@given(weight=ROWS, groups=st.sampled_from([None, 1, 3, 24]), largest=st.sampled_from([7, 127]))
@settings(deadline=None)
def test_the_nearest_is_within_half_a_step_and_inside_the_limits(
    weight: np.ndarray, groups: int | None, largest: int
) -> None:
    integers, scale = nearest(weight, groups, largest)
    assert integers.dtype == np.int8 and np.abs(integers).max(initial=0) <= largest
    assert scale.shape == ((len(weight),) if groups is None else (len(weight), groups))
    step = np.repeat(scale.reshape(len(weight), -1), 24 // (groups or 1), 1)
    assert (np.abs(real(integers, scale) - weight) <= 0.5001 * step + 1e-7).all()


@given(row=st.integers(1, 2000), group=st.integers(0, 128))
@settings(deadline=None)
def test_groups_are_equal_and_no_larger_than_asked(row: int, group: int) -> None:
    count = group_count(row, group)
    assert row % count == 0
    assert count == 1 or (row // count <= group and row // count >= min(8, group))


@pytest.mark.parametrize(("row", "group", "count"), [(64, 32, 2), (72, 32, 3), (40, 32, 2), (37, 32, 1), (576, 0, 1)])
def test_the_fewest_groups_are_taken(row: int, group: int, count: int) -> None:
    assert group_count(row, group) == count


def test_small_rows_and_depthwise_layers_keep_8_bits(graph: Graph) -> None:
    made = narrowed(graph, Scheme.INT4_WEIGHTS, 32)
    shapes = {name: scale.shape for name, scale in made.weight_scales.items()}
    assert list(shapes.values()) == [(16,), (16,), (64,), (40, 18), (5, 2)]
    assert [is_int4(made, name) for name in shapes] == [False, False, False, True, True]
    assert all(array.dtype == np.float32 for key, array in made.weights.items() if key.endswith(".bias"))
    assert not made.quantized


@pytest.mark.parametrize(
    ("scheme", "group"),
    [(Scheme.FP16, 0), (Scheme.INT8_DYNAMIC, 0), (Scheme.INT4_WEIGHTS, 0), (Scheme.INT4_WEIGHTS, 32)],
)
def test_a_graph_on_disk_is_the_same_and_smaller(graph: Graph, scheme: Scheme, group: int, tmp_path: Path) -> None:
    made = narrowed(graph, scheme, group)
    store.save(graph, tmp_path / "float")
    store.save(made, tmp_path / "narrow")
    loaded = store.load(tmp_path / "narrow")
    assert loaded.nodes == made.nodes
    for before, after in ((made.weights, loaded.weights), (made.weight_scales, loaded.weight_scales)):
        assert before.keys() == after.keys()
        assert all(before[key].dtype == after[key].dtype for key in before)
        assert all(np.array_equal(before[key], after[key]) for key in before)
    sizes = [(tmp_path / name / store.TENSORS_NAME).stat().st_size for name in ("narrow", "float")]
    assert sizes[0] < (0.52 if scheme is Scheme.FP16 else 0.3) * sizes[1]


def test_float16_is_the_nearest_and_refuses_what_it_cannot_hold(graph: Graph) -> None:
    made = real_weights(narrowed(graph, Scheme.FP16))
    for key, array in graph.weights.items():
        assert np.abs(made[key] - array).max() <= 2**-11 * np.abs(array).max()
    wide = {**graph.weights, "0.weight": graph.weights["0.weight"] * 1e6}
    with pytest.raises(ModelError, match=r"'0\.weight' holds .* beyond float16"):
        narrowed(graph.with_nodes(graph.nodes, weights=wide), Scheme.FP16)


def test_what_is_no_scheme_of_weights_is_refused(graph: Graph) -> None:
    with pytest.raises(UsageError, match="not a scheme of weights only"):
        narrowed(graph, Scheme.INT8)
    with pytest.raises(UsageError, match="already quantized"):
        narrowed(narrowed(graph, Scheme.INT8_WEIGHTS), Scheme.INT4_WEIGHTS)


@given(values=arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32)))
@settings(deadline=None)
def test_each_picture_has_256_levels_of_its_own(values: np.ndarray) -> None:
    x = torch.from_numpy(values)
    rounded = quantized_while_running(x, dims=[1])
    step = (x.amax(1).clamp(min=0) - x.amin(1).clamp(max=0)) / 255
    assert ((rounded - x).abs() <= 1.001 * step[:, None] + 1e-6).all()
    assert (quantized_while_running(torch.cat([x, 0 * x]), dims=[1])[:3] == rounded).all()  # of a batch by itself
    assert (rounded[x == 0] == 0).all()


def test_rounding_by_what_weights_meet_is_nearer_than_to_the_nearest(graph: Graph) -> None:
    coarse = torch.rand(64, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")
    images = (255 * smooth).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    plain, repaired = ptq.weights_only(graph, lambda: [images[:48]], Scheme.INT4_WEIGHTS, 32)
    wanted = run(graph, images[48:])
    errors = [float((run(made.graph, images[48:]) - wanted).square().sum()) for made in (plain, repaired)]
    assert errors[1] < 0.5 * errors[0]
    assert repaired.graph.weight_scales.keys() == plain.graph.weight_scales.keys()
    assert all(np.abs(array).max() <= 127 for key, array in repaired.graph.weights.items() if key.endswith(".weight"))
    assert np.abs(repaired.graph.weights["6.weight"]).max() <= 7
    assert len(ptq.weights_only(graph, lambda: [images[:48]], Scheme.FP16)) == 1
