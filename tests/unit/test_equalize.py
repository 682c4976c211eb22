"""Equalization changes the channels' ranges and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.compress.calibrate import channel_ranges
from edgecnn.compress.channel_ties import channel_ties
from edgecnn.compress.equalize import CLAMP_MARGIN, CLAMP_SHARE, Change, equalize, load, rewrite, save
from edgecnn.compress.gates import uneven
from edgecnn.compress.observer import ChannelRange
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.models import zoo
from edgecnn.spec import Preprocess

P = Preprocess(8, (127 / 255,) * 3, (128 / 255,) * 3)


def pictures(count: int = 16, size: int = 8, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


class Residual(nn.Module):
    """Expand, depthwise, project, added to a stream, twice; as a MobileNetV2 does, with channels of unequal ranges."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act = act
        self.stem = nn.Conv2d(3, 8, 1)
        self.expand = nn.Conv2d(8, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2d(16, 8, 1)
        self.last = nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(12, 4)
        with torch.no_grad():
            self.stem.weight *= torch.logspace(-1.5, 0.5, 8).view(-1, 1, 1, 1)
            self.expand.weight *= torch.logspace(-1, 0.5, 16).view(-1, 1, 1, 1)
            self.expand.bias.copy_(torch.logspace(-1, 0.5, 16))  # no channel is dead

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project(self.act(self.depthwise(self.act(self.expand(x)))))
        y: Tensor = self.head(self.act(self.last(x)).mean((2, 3)))
        return y


def graph_of(act: Any = F.relu) -> Graph:
    return capture(Residual(act), 8, P)


def spread(graph: Graph, name: str) -> float:
    """Largest over smallest magnitude of the channels of a tensor."""
    return spread_of(channel_ranges(graph, [pictures()])[name])


def spread_of(seen: ChannelRange) -> float:
    """Largest over smallest magnitude of the channels."""
    reached = np.maximum(np.abs(seen.low), np.abs(seen.high))
    return float(reached.max() / reached.min())


def reach(seen: ChannelRange) -> float:
    """The largest magnitude in a tensor."""
    return float(np.maximum(np.abs(seen.low), np.abs(seen.high)).max())


def close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> None:
    assert float((one - other).abs().max()) <= tolerance * float(one.abs().max())


@pytest.mark.parametrize("act", [F.relu, F.hardswish, lambda x: x])
def test_the_network_computes_the_same(act: Any) -> None:
    graph = graph_of(act)
    rewritten = rewrite(graph, equalize(graph, channel_ranges(graph, [pictures()])))
    close(run(graph, pictures(seed=1)), run(rewritten, pictures(seed=1)))
    before, after = (channel_ranges(each, [pictures()]) for each in (graph, rewritten))
    for name in before:  # in no tensor does a channel take more of the range than its largest did
        assert reach(after[name]) <= 1.001 * reach(before[name]), name


def test_a_tensor_that_is_tied_to_no_other_gets_equal_channels() -> None:
    graph = graph_of()
    rewritten = rewrite(graph, equalize(graph, channel_ranges(graph, [pictures()])))
    assert spread(graph, "expand") > 10
    assert spread(rewritten, "expand") == pytest.approx(1, abs=1e-3)


def test_relu6_cuts_where_the_channel_ended_on_calibration_pictures() -> None:
    graph = graph_of(F.relu6)
    before = channel_ranges(graph, [pictures()])
    changes = equalize(graph, before)
    reached = np.minimum(1, CLAMP_MARGIN * before["expand"].high / 6)
    assert np.allclose(changes["expand"].scale, reached**CLAMP_SHARE)
    rewritten = rewrite(graph, changes)
    close(run(graph, pictures()), run(rewritten, pictures()))
    # In the network's own terms every channel still gets as far as it did, or further than its clamp lets it.
    assert (6 * changes["expand"].scale >= before["expand"].high - 1e-6).all()


def test_a_stream_has_one_scale_and_shifts_that_add_up() -> None:
    graph = graph_of()
    changes = equalize(graph, channel_ranges(graph, [pictures()]))
    total = next(node for node in graph.nodes if node.op.value == "add")
    one, other = (changes[name] for name in total.inputs)
    assert np.array_equal(one.scale, other.scale)
    assert np.array_equal(one.scale, changes[total.name].scale)
    assert np.allclose(one.shift + other.shift, changes[total.name].shift, atol=1e-5)


def test_what_an_operator_fixes_is_left_alone() -> None:
    graph = graph_of(F.hardswish)
    ties = channel_ties(graph)
    assert {name for name, classes in ties.of.items() if not ties.fixed[classes].any()} == {"stem", "project", "add"}
    graph = graph_of(F.relu6)
    ties = channel_ties(graph)
    assert ties.shiftable[ties.of["stem"]].all()
    assert np.isinf(ties.top[ties.of["stem"]]).all()
    assert not ties.shiftable[ties.of["expand"]].any()  # a clamp is in the way, and padding behind
    assert (ties.top[ties.of["expand"]] == 6).all()
    assert ties.fixed[ties.of[graph.output]].all()
    assert ties.fixed[ties.of[graph.input.name]].all()


def test_a_hard_swish_of_unequal_channels_gets_a_gate_per_channel() -> None:
    graph = graph_of(F.hardswish)
    graph.weights["expand.bias"][:] = np.logspace(-1.5, 1, 16)
    before = channel_ranges(graph, [pictures()])
    assert uneven(graph, before)[0] == "hard_swish"
    changes = equalize(graph, before)
    assert np.array_equal(changes["hard_swish"].scale, changes["expand"].scale)
    rewritten = rewrite(graph, changes)
    close(run(graph, pictures(seed=1)), run(rewritten, pictures(seed=1)))
    assert spread_of(channel_ranges(rewritten, [pictures()])["hard_swish"]) < 0.2 * spread_of(before["hard_swish"])


def test_channels_that_are_alike_keep_the_cheaper_gate() -> None:
    graph = graph_of(F.hardswish)
    graph.weights["expand.weight"][:] = graph.weights["expand.weight"][:1]
    graph.weights["expand.bias"][:] = 1
    assert uneven(graph, channel_ranges(graph, [pictures()])) == []


class Shuffled(nn.Module):
    """Two halves: one through two layers, the other untouched; joined, shuffled, split again, averaged."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act = act
        self.stem, self.one = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 1)
        self.two, self.head = nn.Conv2d(4, 4, 1), nn.Linear(8, 5)
        with torch.no_grad():
            self.stem.weight *= torch.logspace(-1.5, 0.5, 8).view(-1, 1, 1, 1)
            self.stem.bias.copy_(torch.logspace(-1.5, 0.5, 8))
            self.one.bias.fill_(2)  # no channel is dead
            self.two.bias.fill_(2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.one, self.two):
            x = self.act(self.stem(x)) if layer is self.one else x
            kept, changed = x.chunk(2, 1)
            x = torch.cat([kept, self.act(layer(changed))], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        y: Tensor = self.head(x.mean((2, 3)))
        return y


@pytest.mark.parametrize("act", [F.relu, lambda x: x])
def test_channels_are_followed_through_concatenations_slices_and_shuffles(act: Any) -> None:
    size = 20  # larger than what is looked at of a map: means of a part are not those of the whole
    graph = capture(Shuffled(act), size, Preprocess(size, (127 / 255,) * 3, (128 / 255,) * 3))
    before = channel_ranges(graph, [pictures(8, size)])
    changes = equalize(graph, before)
    rewritten = rewrite(graph, changes)
    close(run(graph, pictures(8, size, 1)), run(rewritten, pictures(8, size, 1)))
    after = channel_ranges(rewritten, [pictures(8, size)])
    moved = [node.name for node in graph.nodes if node.op.value in ("concat", "shuffle")]
    assert moved and all(name in changes for name in moved)
    for name in moved:
        assert spread_of(after[name]) < 0.5 * spread_of(before[name])


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet8", "squeezenet", "shufflenet_v2_x0_5"])
def test_every_kind_of_network_survives(name: str) -> None:
    torch.manual_seed(0)
    model = zoo.build(zoo.named(name, 10, 32))
    graph = capture(model, 32, Preprocess(32, (127 / 255,) * 3, (128 / 255,) * 3))
    changes = equalize(graph, channel_ranges(graph, [pictures(8, 32)]))
    close(run(graph, pictures(8, 32)), run(rewrite(graph, changes), pictures(8, 32)), 1e-3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.05, 20), min_size=8, max_size=8), st.lists(st.floats(-3, 3), min_size=8, max_size=8))
def test_any_factor_and_shift_of_a_linear_stream_cancel(scale: list[float], shift: list[float]) -> None:
    graph = graph_of()
    one = Change(np.array(scale), np.array(shift))
    changes = {"stem": one, "project": Change(one.scale, -one.shift / 2), "add": Change(one.scale, one.shift / 2)}
    close(run(graph, pictures(4)), run(rewrite(graph, changes), pictures(4)), 1e-3)


def test_a_dead_channel_keeps_its_weights() -> None:
    graph = graph_of()
    graph.weights["expand.weight"][3] = 0
    graph.weights["expand.bias"][3] = -1
    assert equalize(graph, channel_ranges(graph, [pictures()]))["expand"].scale[3] == 1.0


def test_changes_come_back_from_disk(tmp_path: Path) -> None:
    graph = graph_of()
    changes = equalize(graph, channel_ranges(graph, [pictures()]))
    save(changes, tmp_path)
    again = load(tmp_path)
    assert again.keys() == changes.keys()
    assert all(np.array_equal(again[name].scale, changes[name].scale) for name in changes)
    assert all(np.array_equal(again[name].shift, changes[name].shift) for name in changes)
    assert load(tmp_path / "none") == {}
